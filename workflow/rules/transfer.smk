# Evaluate pretrained backbones: one result file per run and transfer. All have a higher priority than pretraining, so
# that the results of a run follow its training; long ones come first, so that no core is idle at the end.


rule linear:
    """Multi-label linear probe of a frozen backbone."""
    input:
        backbone=OUT / "runs" / "{run}" / "backbone.pt",
        data=TRANSFER_DATA,
    output:
        STUDY.result("{run}", "linear"),
    wildcard_constraints:
        run=unfinished("linear"),
    log:
        OUT / "logs" / "linear" / "{run}.log",
    threads: GPU_THREADS
    resources:
        gpu=1,
        mem_mb=3000,
        runtime=240,
    priority: 5
    benchmark:
        OUT / "benchmarks" / "linear" / "{run}.tsv"
    shell:
        "{ON_GPU} {rule} --study={FROZEN:q} --run-name={wildcards.run} --threads {threads} > {log:q} 2>&1"


use rule linear as knn with:
    output:
        STUDY.result("{run}", "knn"),
    wildcard_constraints:
        run=unfinished("knn"),
    log:
        OUT / "logs" / "knn" / "{run}.log",
    benchmark:
        OUT / "benchmarks" / "knn" / "{run}.tsv"


use rule linear as dense with:
    output:
        STUDY.result("{run}", "dense"),
    wildcard_constraints:
        run=unfinished("dense"),
    log:
        OUT / "logs" / "dense" / "{run}.log",
    benchmark:
        OUT / "benchmarks" / "dense" / "{run}.tsv"


use rule linear as regions with:
    output:
        STUDY.result("{run}", "regions"),
    wildcard_constraints:
        run=unfinished("regions"),
    log:
        OUT / "logs" / "regions" / "{run}.log",
    benchmark:
        OUT / "benchmarks" / "regions" / "{run}.tsv"


use rule linear as correspondence with:
    output:
        STUDY.result("{run}", "correspondence"),
    wildcard_constraints:
        run=unfinished("correspondence"),
    log:
        OUT / "logs" / "correspondence" / "{run}.log",
    benchmark:
        OUT / "benchmarks" / "correspondence" / "{run}.tsv"


use rule linear as svm with:
    output:
        STUDY.result("{run}", "svm"),
    wildcard_constraints:
        run=unfinished("svm"),
    log:
        OUT / "logs" / "svm" / "{run}.log",
    benchmark:
        OUT / "benchmarks" / "svm" / "{run}.tsv"


use rule linear as classification with:
    output:
        STUDY.result("{run}", "classification"),
    wildcard_constraints:
        run=unfinished("classification"),
    log:
        OUT / "logs" / "classification" / "{run}.log",
    resources:
        gpu=1,
        mem_mb=6000,
        runtime=1440,
    priority: 15
    benchmark:
        OUT / "benchmarks" / "classification" / "{run}.tsv"


rule detection:
    """Mask R-CNN on a backbone; all layers are trained."""
    input:
        backbone=OUT / "runs" / "{run}" / "backbone.pt",
        data=TRANSFER_DATA,
    output:
        STUDY.result("{run}", "detection"),
    wildcard_constraints:
        run=unfinished("detection"),
    params:
        threads=threads_per_rank,
    log:
        OUT / "logs" / "detection" / "{run}.log",
    threads: RUN_LAYOUT.per_node * GPU_THREADS
    resources:
        **RUN_LAYOUT.resources(),
        mem_mb=3000 * RUN_LAYOUT.per_node,
        runtime=240,
    priority: 20
    benchmark:
        OUT / "benchmarks" / "detection" / "{run}.tsv"
    shell:
        "{ON_ALL_GPUS} {rule} --study={FROZEN:q} --run-name={wildcards.run} --threads {params.threads} > {log:q} 2>&1"


use rule detection as segmentation with:
    output:
        STUDY.result("{run}", "segmentation"),
    wildcard_constraints:
        run=unfinished("segmentation"),
    log:
        OUT / "logs" / "segmentation" / "{run}.log",
    priority: 15
    benchmark:
        OUT / "benchmarks" / "segmentation" / "{run}.tsv"


rule pseudo_labels:
    """Quality of a run's pseudo-labels during training, evaluated with annotations that it did not use."""
    input:
        run=OUT / "runs" / "{run}" / "pretrain.json",
        store=STUDY.store,
        data=DATA,
    output:
        STUDY.result("{run}", "pseudo_labels"),
    wildcard_constraints:
        run=unfinished("pseudo_labels"),
    log:
        OUT / "logs" / "pseudo_labels" / "{run}.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    priority: 5
    benchmark:
        OUT / "benchmarks" / "pseudo_labels" / "{run}.tsv"
    shell:
        "{MLSSL} pseudo-labels --study={FROZEN:q} --run-name={wildcards.run} > {log:q} 2>&1"
