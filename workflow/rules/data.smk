# Images: created or imported if necessary, then decoded once.


rule scenes:
    """Draw the embedded data set."""
    output:
        directory("results/data/{images}"),
    wildcard_constraints:
        images=unmade("scenes"),
    params:
        command=lambda wildcards: shlex.join(SOURCES[wildcards.images].command()),
    log:
        OUT / "logs" / "{images}.log",
    threads: CORES
    resources:
        mem_mb=2000,
        runtime=240,
    benchmark:
        OUT / "benchmarks" / "{images}.tsv"
    shell:
        "{MLSSL} {params.command} --workers {threads} > {log:q} 2>&1"


use rule scenes as photos with:
    # Import own photos.
    output:
        Path("results/data/{images}") / READY["photos"],
        report(
            "results/data/{images}/summary.txt",
            caption="../report/import.rst",
            category="Photos",
            labels={"data set": "{images}", "list": "summary"},
        ),
        report(
            "results/data/{images}/skipped.tsv",
            caption="../report/import.rst",
            category="Photos",
            labels={"data set": "{images}", "list": "photos that cannot be used"},
        ),
        report(
            "results/data/{images}/duplicates.tsv",
            caption="../report/import.rst",
            category="Photos",
            labels={"data set": "{images}", "list": "near-duplicates"},
        ),
        report(
            "results/data/{images}/altered.tsv",
            caption="../report/import.rst",
            category="Photos",
            labels={"data set": "{images}", "list": "anonymised or excluded photos"},
        ),
    wildcard_constraints:
        images=unmade("photos"),


rule dataset:
    """Convert a public data set to COCO's layout."""
    output:
        Path("results/data/{images}") / READY["dataset"],
    wildcard_constraints:
        images=unmade("dataset"),
    params:
        command=lambda wildcards: shlex.join(SOURCES[wildcards.images].command()),
    log:
        OUT / "logs" / "{images}.log",
    threads: CORES
    resources:
        mem_mb=2000,
        runtime=240,
    benchmark:
        OUT / "benchmarks" / "{images}.tsv"
    shell:
        "{MLSSL} {params.command} > {log:q} 2>&1"


rule check:
    """Say which transfers the data lack labels for, before anything is trained. They are left out by name."""
    input:
        DATA,
        TRANSFER_DATA,
    output:
        OUT / "check.txt",
    params:
        # What the sentences are about, beside files: the transfers, with the identities of their data.
        transfers=digest_of([[stage, transfer_digest(stage, t)] for stage, t in STUDY.transfers.items()]),
    log:
        OUT / "logs" / "check.log",
    shell:
        "{MLSSL} check --study={FROZEN:q} --out={output:q} 2>&1 | tee {log:q}"


if ALL_RULES or not (STUDY.store / "index.json").exists():

    rule store:
        """Decode the training images once, for every pretraining to read."""
        input:
            DATA,
        output:
            directory(STUDY.store),
        params:
            images=lambda wildcards: Path(STUDY.data.root) / STUDY.data.train,
        log:
            OUT / "logs" / "store.log",
        threads: CORES
        resources:
            mem_mb=2000,
            runtime=240,
        benchmark:
            OUT / "benchmarks" / "store.tsv"
        shell:
            "{MLSSL} store --images={params.images:q} --out={output:q} --short-side={STUDY.data.short_side}"
            " --images-id={STUDY.data.images_id} --workers {threads} > {log:q} 2>&1"


rule proposals:
    """Find the boxes of the training images once, for every pretraining on them."""
    input:
        STUDY.store,
    output:
        "results/data/{proposals}.npz",
    wildcard_constraints:
        proposals=pattern(file.stem for file in STUDY.proposals if ALL_RULES or not file.exists()),
    params:
        run=lambda wildcards: STUDY.proposals[Path(f"results/data/{wildcards.proposals}.npz")],
    log:
        OUT / "logs" / "{proposals}.log",
    threads: CORES
    resources:
        mem_mb=2000,
        runtime=1440,
    benchmark:
        OUT / "benchmarks" / "{proposals}.tsv"
    shell:
        "{MLSSL} proposals --study={FROZEN:q} --run-name={params.run} --workers {threads} > {log:q} 2>&1"
