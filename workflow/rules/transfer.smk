# What a pretrained backbone is worth: one result file per run and transfer.


rule resolve_transfer:
    """Write a transfer's whole configuration, every default included."""
    output:
        OUT / "transfers" / "{transfer}.yaml",
    params:
        digest=lambda wildcards: digest_of(studies.plain(STUDY.transfers[wildcards.transfer])),
    log:
        OUT / "logs" / "resolve" / "{transfer}.log",
    shell:
        "{MLSSL} resolve {wildcards.transfer} --study {STUDY.path} --out {output} > {log} 2>&1"


def transfer_sources(*own):
    shared = ("mlssl/transfer/load.py", "mlssl/transfer/metrics.py", "mlssl/data/coco.py", "mlssl/data/annotations.py", "mlssl/data/images.py", "mlssl/data/views.py")
    return sources(*SHARED, *shared, "mlssl/parts/backbone.py", "mlssl/parts/batch_norm.py", *own)


rule linear:
    """Multi-label linear probe of a frozen backbone."""
    input:
        backbone=OUT / "runs" / "{run}" / "backbone.pt",
        config=OUT / "transfers" / "linear.yaml",
        data=ancient(TRANSFER_DATA),
        code=transfer_sources("mlssl/transfer/linear.py", "mlssl/transfer/features.py"),
    output:
        OUT / "runs" / "{run}" / "linear.json",
    log:
        OUT / "logs" / "linear" / "{run}.log",
    threads: 1
    resources:
        gpu=1,
        mem_mb=3000,
        runtime=240,
    benchmark:
        OUT / "benchmarks" / "linear" / "{run}.tsv"
    shell:
        "{ON_GPU} {rule} --backbone {input.backbone} --config {input.config} --out {output}"
        " --threads {threads} > {log} 2>&1"


# The long ones go first, so that no core idles at the end.
rule detection:
    """Mask R-CNN on a backbone, all layers trained."""
    input:
        backbone=OUT / "runs" / "{run}" / "backbone.pt",
        config=OUT / "transfers" / "detection.yaml",
        data=ancient(TRANSFER_DATA),
        code=transfer_sources("mlssl/transfer/detection.py"),
    output:
        OUT / "runs" / "{run}" / "detection.json",
    params:
        threads=threads_per_rank,
    log:
        OUT / "logs" / "detection" / "{run}.log",
    threads: PER_NODE
    resources:
        **RANKS,
        mem_mb=3000 * PER_NODE,
        runtime=240,
    priority: 20
    benchmark:
        OUT / "benchmarks" / "detection" / "{run}.tsv"
    shell:
        "{BY_RANKS} {rule} --backbone {input.backbone} --config {input.config} --out {output}"
        " --threads {params.threads} > {log} 2>&1"


use rule detection as segmentation with:
    input:
        backbone=OUT / "runs" / "{run}" / "backbone.pt",
        config=OUT / "transfers" / "segmentation.yaml",
        data=ancient(TRANSFER_DATA),
        code=transfer_sources("mlssl/transfer/segmentation.py"),
    output:
        OUT / "runs" / "{run}" / "segmentation.json",
    log:
        OUT / "logs" / "segmentation" / "{run}.log",
    priority: 15
    benchmark:
        OUT / "benchmarks" / "segmentation" / "{run}.tsv"


rule pseudo_labels:
    """How good a run's pseudo-labels were while it trained, judged by annotations it never saw."""
    input:
        run=OUT / "runs" / "{run}" / "pretrain.json",
        config=OUT / "transfers" / "pseudo_labels.yaml",
        store=STUDY.store,
        data=ancient(DATA),
        code=sources(*SHARED, "mlssl/analysis/label_quality.py", "mlssl/analysis/crop_categories.py", "mlssl/data/coco.py", "mlssl/data/annotations.py", "mlssl/data/images.py"),
    output:
        OUT / "runs" / "{run}" / "pseudo_labels.json",
    params:
        folder=lambda wildcards: OUT / "runs" / wildcards.run,
    log:
        OUT / "logs" / "pseudo_labels" / "{run}.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    benchmark:
        OUT / "benchmarks" / "pseudo_labels" / "{run}.tsv"
    shell:
        "{MLSSL} pseudo-labels --run {params.folder} --store {input.store} --config {input.config}"
        " --out {output} > {log} 2>&1"
