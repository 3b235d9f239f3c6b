# One job per run. A killed run resumes from runs/<run>/state. No rule declares this folder, so none deletes it.


def labels_of(wildcards):
    """The annotations, for a supervised run or one that is scored meanwhile; the others train without."""
    config = STUDY.runs[wildcards.run].config
    return DATA if config.supervised or config.knn_every is not None else []


def proposals_of(wildcards):
    """The boxes that the run trains on, if it does."""
    config = STUDY.runs[wildcards.run].config
    return proposals_file(config.proposals, STUDY.store) if config.takes_proposals else []


def pairs_of(wildcards):
    """The pairs of boxes that the run trains on, if it does."""
    return STUDY.runs[wildcards.run].config.pairs_file or []


def paired_run(wildcards):
    """The run that trains on a file of pairs."""
    return STUDY.pairs[OUT / "runs" / wildcards.run / f"{wildcards.pairs}.npz"]


def boxes_to_pair(wildcards):
    return proposals_file(STUDY.runs[paired_run(wildcards)].config.proposals, STUDY.store)


rule pairs:
    """Pair boxes of different images by the network of a finished run."""
    input:
        store=STUDY.store,
        proposals=boxes_to_pair,
        checkpoint=OUT / "runs" / "{run}" / "checkpoint.pt",
    output:
        OUT / "runs" / "{run}" / "{pairs}.npz",
    wildcard_constraints:
        pairs=pattern({file.stem for file in STUDY.pairs if ALL_RULES or not file.exists()}),
    params:
        run=paired_run,
    log:
        OUT / "logs" / "pairs" / "{run}.{pairs}.log",
    threads: GPU_THREADS
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=1440,
    benchmark:
        OUT / "benchmarks" / "pairs" / "{run}.{pairs}.tsv"
    shell:
        "{ON_GPU} pairs --study={FROZEN:q} --run-name={params.run} --threads {threads} > {log:q} 2>&1"


rule pretrain:
    """Train one backbone, without labels unless the method is supervised."""
    input:
        store=STUDY.store,
        labels=labels_of,
        proposals=proposals_of,
        pairs=pairs_of,
        check=OUT / "check.txt" if STUDY.transfers else [],
    output:
        backbone=OUT / "runs" / "{run}" / "backbone.pt",
        checkpoint=OUT / "runs" / "{run}" / "checkpoint.pt",
        log=OUT / "runs" / "{run}" / "log.jsonl",
        result=OUT / "runs" / "{run}" / "pretrain.json",
    wildcard_constraints:
        run=unfinished("pretrain"),
    params:
        threads=threads_per_rank,
    log:
        OUT / "logs" / "pretrain" / "{run}.log",
    threads: RUN_LAYOUT.per_node * GPU_THREADS
    resources:
        **RUN_LAYOUT.resources(),
        mem_mb=3000 * RUN_LAYOUT.per_node,
        runtime=1440,
    benchmark:
        OUT / "benchmarks" / "pretrain" / "{run}.tsv"
    shell:
        "{ON_ALL_GPUS} pretrain --study={FROZEN:q} --run-name={wildcards.run} {CHANGED_CODE}"
        " --threads {params.threads} > {log:q} 2>&1"
