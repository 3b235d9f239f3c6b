# Images: created or imported if necessary, then decoded once.
IMPORT_REPORTS = {"scenes": [], "dataset": [], "photos": ["summary.txt", "skipped.tsv", "duplicates.tsv", "altered.tsv"]}
"""Files of an import that the report also shows."""


for SOURCE in {source.data.root: source for source in (STUDY.transfer_source, STUDY.source)}.values():
    if SOURCE.kind in KINDS and (ALL_RULES or not SOURCE.ready.exists()):

        rule:
            # Generate scenes, convert a public data set to COCO's layout, or import photos.
            name:
                SOURCE.kind if SOURCE == STUDY.source else f"transfer_{SOURCE.kind}"
            output:
                directory(SOURCE.ready) if SOURCE.kind == "scenes" else SOURCE.ready,
                [report(Path(SOURCE.data.root) / name, caption="../report/import.rst", category="Photos") for name in IMPORT_REPORTS[SOURCE.kind]],
            params:
                command=lambda wildcards, words=SOURCE.command(): shlex.join(words),
            log:
                OUT / "logs" / f"{Path(SOURCE.data.root).name}.log",
            threads: CORES
            resources:
                mem_mb=2000,
                runtime=240,
            benchmark:
                OUT / "benchmarks" / f"{Path(SOURCE.data.root).name}.tsv"
            shell:
                "{MLSSL} {params.command}" + ("" if SOURCE.kind == "dataset" else " --workers {threads}") + " > {log:q} 2>&1"


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
