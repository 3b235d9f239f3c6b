# Images: made ready where they are not simply there, then decoded once.
import shlex

from mlssl.source import KINDS

MAKERS = {
    "scenes": ["mlssl/data/scenes/*.py"],
    "dataset": ["mlssl/data/public/*.py"],
    "photos": ["mlssl/data/importer/*.py", "mlssl/data/images.py"],
}
TOLD = {"scenes": [], "dataset": [], "photos": ["summary.txt", "skipped.tsv", "duplicates.tsv", "altered.tsv"]}


for SOURCE in {source.data.root: source for source in (STUDY.transfer_source, STUDY.source)}.values():
    if SOURCE.kind in KINDS:

        rule:
            # Scenes drawn, a public dataset brought into COCO's layout, or photos imported.
            name:
                SOURCE.kind if SOURCE == STUDY.source else f"transfer_{SOURCE.kind}"
            input:
                code=sources(*MAKERS[SOURCE.kind]),
            output:
                directory(SOURCE.ready) if SOURCE.kind == "scenes" else SOURCE.ready,
                # What a person should see of an import, also in the report.
                [report(Path(SOURCE.data.root) / name, caption="../report/import.rst", category="Photos") for name in TOLD[SOURCE.kind]],
            params:
                command=shlex.join(SOURCE.command()),
                root=SOURCE.data.root,
            log:
                OUT / "logs" / f"{Path(SOURCE.data.root).name}.log",
            threads: CORES
            resources:
                mem_mb=2000,
                runtime=240,
            benchmark:
                OUT / "benchmarks" / f"{Path(SOURCE.data.root).name}.tsv"
            shell:
                # Snakemake takes away the file that says a folder is whole, so what is left of it goes too.
                ("" if SOURCE.kind == "scenes" else "rm -rf {params.root}; ")
                + "{MLSSL} {params.command}"
                + ("" if SOURCE.kind == "dataset" else " --workers {threads}") + " > {log} 2>&1"


rule store:
    """Decode the training images once, for every pretraining to read."""
    input:
        # A dataset's folder is touched by much that does not change its images.
        data=ancient(DATA),
        code=sources("mlssl/data/store.py", "mlssl/data/images.py"),
    output:
        directory(STUDY.store),
    params:
        images=Path(STUDY.data.root) / STUDY.data.train,
        short_side=STUDY.data.short_side,
    log:
        OUT / "logs" / "store.log",
    threads: CORES
    resources:
        mem_mb=2000,
        runtime=240,
    benchmark:
        OUT / "benchmarks" / "store.tsv"
    shell:
        "{MLSSL} store --images {params.images} --out {output} --short-side {params.short_side}"
        " --workers {threads} > {log} 2>&1"
