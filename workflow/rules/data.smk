# Images: drawn if the study says so, then decoded once.

if STUDY.scenes:

    rule scenes:
        """Draw the embedded dataset in COCO's layout."""
        input:
            code=sources("mlssl/data/scenes/*.py"),
        output:
            directory(DATA),
        params:
            **STUDY.scenes,
            width=STUDY.scenes["size"][0],
            height=STUDY.scenes["size"][1],
        log:
            OUT / "logs" / "scenes.log",
        threads: workflow.cores or 1
        resources:
            mem_mb=1000,
            runtime=60,
        benchmark:
            OUT / "benchmarks" / "scenes.tsv"
        shell:
            "{PYTHON} -m mlssl scenes --out {output} --images {params.images} --val-images {params.val_images}"
            " --size {params.width}x{params.height} --seed {params.seed} --workers {threads} > {log} 2>&1"


rule store:
    """Decode the training images once, for every pretraining to read."""
    input:
        # A dataset's folder is touched by much that does not change its images.
        data=ancient(DATA),
        code=sources("mlssl/data/store.py", "mlssl/data/coco.py"),
    output:
        directory(STUDY.store),
    params:
        images=DATA / STUDY.data.train,
        short_side=STUDY.data.short_side,
    log:
        OUT / "logs" / "store.log",
    threads: workflow.cores or 1
    resources:
        mem_mb=2000,
        runtime=240,
    benchmark:
        OUT / "benchmarks" / "store.tsv"
    shell:
        "{PYTHON} -m mlssl store --images {params.images} --out {output} --short-side {params.short_side}"
        " --workers {threads} > {log} 2>&1"
