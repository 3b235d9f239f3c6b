# One job per run. A run that was killed goes on from runs/<run>/state, which no rule declares and so none deletes.
from mlssl.scalars import source_file


def pretrain_sources(wildcards):
    """The engine, and the method that this run trains."""
    run = STUDY.runs[wildcards.run].config
    method = [os.path.relpath(source_file(run.target))] if run.target else []
    loop = [f"mlssl/engine/{name}.py" for name in ("build", "checkpoint", "initial", "interrupt", "log", "owner", "parallel", "pretrain", "records", "run_folder", "schedule", "step", "training")]
    stage = sources(*SHARED, *loop, *VIEWS, "mlssl/parts/*.py", "mlssl/data/steps.py", "mlssl/data/placement.py")
    return stage + sources("mlssl/method/losses.py", "mlssl/method/pseudo_labels.py") + method


rule resolve_run:
    """Write a run's whole configuration, every default included."""
    output:
        OUT / "runs" / "{run}" / "pretrain.yaml",
    params:
        digest=lambda wildcards: STUDY.runs[wildcards.run].digest,
    log:
        OUT / "logs" / "resolve" / "{run}.log",
    shell:
        "{MLSSL} resolve {wildcards.run} --study {STUDY.path} --out {output} > {log} 2>&1"


rule pretrain:
    """Train one backbone without labels."""
    input:
        config=OUT / "runs" / "{run}" / "pretrain.yaml",
        store=STUDY.store,
        init=lambda wildcards: ancient(STUDY.runs[wildcards.run].config.init or []),
        code=pretrain_sources,
    output:
        backbone=OUT / "runs" / "{run}" / "backbone.pt",
        checkpoint=OUT / "runs" / "{run}" / "checkpoint.pt",
        log=OUT / "runs" / "{run}" / "log.jsonl",
        result=OUT / "runs" / "{run}" / "pretrain.json",
    params:
        out=lambda wildcards: OUT / "runs" / wildcards.run,
        threads=threads_per_rank,
    log:
        OUT / "logs" / "pretrain" / "{run}.log",
    threads: PER_NODE
    resources:
        **RANKS,
        mem_mb=3000 * PER_NODE,
        runtime=1440,
    priority: 10
    benchmark:
        OUT / "benchmarks" / "pretrain" / "{run}.tsv"
    shell:
        "{BY_RANKS} pretrain --config {input.config} --store {input.store} --out {params.out}"
        " --threads {params.threads} > {log} 2>&1"
