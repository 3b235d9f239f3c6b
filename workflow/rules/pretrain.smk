# One job per run. A killed run resumes from runs/<run>/state. No rule declares this folder, so none deletes it.


def labels_of(wildcards):
    """The annotations, for a supervised run or one that is scored meanwhile; the others train without."""
    config = STUDY.runs[wildcards.run].config
    return DATA if config.supervised or config.knn_every is not None else []


def proposals_of(wildcards):
    """The boxes that the run trains on, if it does."""
    config = STUDY.runs[wildcards.run].config
    return config.proposals.beside(STUDY.store) if config.takes_proposals else []


rule pretrain:
    """Train one backbone, without labels unless the method is supervised."""
    input:
        store=STUDY.store,
        labels=labels_of,
        proposals=proposals_of,
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
