# From result files to what one reads. The tables' list of files follows from the study alone.


OWN_CAPTION = ("training_curves", "label_quality")
DRAWING = ["mlssl/analysis/figures.py", "mlssl/analysis/style.py"]


rule collect:
    """Gather all result files into two tidy tables."""
    input:
        pretrain=PRETRAINED,
        transfers=TRANSFERRED,
        code=sources("mlssl/analysis/collect.py"),
    output:
        metrics=report(OUT / "metrics.tsv", caption="../report/metrics.rst", category="Results"),
        runs=OUT / "runs.tsv",
    params:
        cells=digest_of([[c.axis, c.level, c.run] for c in STUDY.cells]),
        **CAPTION,
    log:
        OUT / "logs" / "collect.log",
    shell:
        "{MLSSL} collect --study {STUDY.path} > {log} 2>&1"


rule tables:
    """Mean and spread over seeds, the paper's numbers beside ours."""
    input:
        metrics=OUT / "metrics.tsv",
        runs=OUT / "runs.tsv",
        published=sources("results/published/*.csv"),
        code=sources("mlssl/analysis/*tables.py", "mlssl/analysis/aggregate.py", "mlssl/analysis/outputs.py"),
    output:
        report(
            [table for table in TABLES if table.suffix == ".md" and table.stem not in outputs.PAPER_TABLES],
            caption="../report/table.rst",
            category="Tables",
        ),
        report(
            [table for table in TABLES if table.suffix == ".md" and table.stem in outputs.PAPER_TABLES],
            caption="../report/paper_table.rst",
            category="Published tables",
        ),
        [table for table in TABLES if table.suffix != ".md"],
    params:
        published=os.path.relpath(ROOT / "results" / "published"),
        **CAPTION,
    log:
        OUT / "logs" / "tables.log",
    shell:
        "{MLSSL} tables --study {STUDY.path} --published {params.published} > {log} 2>&1"


rule figures:
    """Curves over the axes, methods compared, losses over time."""
    input:
        metrics=OUT / "metrics.tsv",
        runs=OUT / "runs.tsv",
        logs=[OUT / "runs" / run / "log.jsonl" for run in STUDY.runs],
        code=sources(*DRAWING, "mlssl/analysis/curves.py", "mlssl/analysis/label_figures.py", "mlssl/analysis/aggregate.py",
            "mlssl/analysis/outputs.py"),
    output:
        report(
            [figure for figure in FIGURES if figure.suffix == ".png" and figure.stem not in OWN_CAPTION],
            caption="../report/figure.rst",
            category="Figures",
        ),
        report(
            [figure for figure in FIGURES if figure.suffix == ".png" and figure.stem == "training_curves"],
            caption="../report/training_curves.rst",
            category="Figures",
        ),
        report(
            [figure for figure in FIGURES if figure.suffix == ".png" and figure.stem == "label_quality"],
            caption="../report/label_quality.rst",
            category="Figures",
        ),
        [figure for figure in FIGURES if figure.suffix != ".png"],
    params:
        **CAPTION,
    log:
        OUT / "logs" / "figures.log",
    shell:
        "{MLSSL} figures --study {STUDY.path} > {log} 2>&1"


rule contact_sheet:
    """Labelled samples of the training images."""
    input:
        data=ancient(DATA),
        code=sources(*DRAWING, "mlssl/analysis/contact_sheet.py", "mlssl/data/coco.py", "mlssl/data/annotations.py", "mlssl/data/images.py"),
    output:
        report(OUT / "figures" / "contact_sheet.png", caption="../report/contact_sheet.rst", category="Data"),
        OUT / "figures" / "contact_sheet.pdf",
    params:
        split=STUDY.data.train,
        **CAPTION,
    log:
        OUT / "logs" / "contact_sheet.log",
    shell:
        "{MLSSL} contact-sheet --data {STUDY.data.root} --split {params.split} --out {output[0]} > {log} 2>&1"


EMBEDDING = ["mlssl/engine/embed.py", "mlssl/engine/build.py", "mlssl/parts/*.py", *VIEWS]


def pictured_checkpoint(wildcards):
    """The last state of the run that stands for a method."""
    return OUT / "runs" / STUDY.pictured[wildcards.method] / "checkpoint.pt"


rule neighbours:
    """Query crops and their nearest crops (figure 4)."""
    input:
        checkpoint=pictured_checkpoint,
        store=STUDY.store,
        code=sources(*SHARED, *DRAWING, *EMBEDDING, "mlssl/analysis/neighbours.py"),
    output:
        report(OUT / "figures" / "neighbours_{method}.png", caption="../report/neighbours.rst", category="Neighbours"),
        OUT / "figures" / "neighbours_{method}.pdf",
    params:
        settings=lambda wildcards: STUDY.pictures,
        **CAPTION,
    log:
        OUT / "logs" / "neighbours" / "{method}.log",
    threads: 1
    resources:
        gpu=1,
        mem_mb=3000,
        runtime=60,
    shell:
        "{ON_GPU} neighbours --checkpoint {input.checkpoint} --store {input.store}"
        " --queries {params.settings.queries} --neighbours {params.settings.neighbours}"
        " --candidates {params.settings.candidates} --dictionary-size {params.settings.dictionary_size}"
        " --seed {params.settings.seed} --threads {threads} --out {output[0]} > {log} 2>&1"


rule histograms:
    """Scores of one query against both dictionaries, before and after training (figure 3)."""
    input:
        checkpoint=pictured_checkpoint,
        store=STUDY.store,
        code=sources(*SHARED, *DRAWING, *EMBEDDING, "mlssl/analysis/histograms.py"),
    output:
        report(OUT / "figures" / "histograms_{method}.png", caption="../report/histograms.rst", category="Scores"),
        OUT / "figures" / "histograms_{method}.pdf",
    params:
        settings=lambda wildcards: STUDY.pictures,
        **CAPTION,
    log:
        OUT / "logs" / "histograms" / "{method}.log",
    threads: 1
    resources:
        gpu=1,
        mem_mb=3000,
        runtime=60,
    shell:
        "{ON_GPU} histograms --checkpoint {input.checkpoint} --store {input.store}"
        " --dictionary-size {params.settings.dictionary_size} --seed {params.settings.seed}"
        " --threads {threads} --out {output[0]} > {log} 2>&1"


if STUDY.search_benchmark:

    rule search_benchmark:
        """Time and recall of exact, sampled and approximate search over the size of the dictionary."""
        input:
            checkpoint=OUT / "runs" / STUDY.compared[STUDY.search_benchmark["method"]] / "checkpoint.pt",
            store=STUDY.store,
            code=sources(*SHARED, *DRAWING, *EMBEDDING, "mlssl/engine/search_*.py", "mlssl/analysis/search_figures.py"),
        output:
            OUT / "search" / "search.json",
            OUT / "search" / "search.tsv",
            report(OUT / "search" / "search.png", caption="../report/search.rst", category="Search"),
            OUT / "search" / "search.pdf",
        params:
            sizes=",".join(map(str, STUDY.search_benchmark["sizes"])),
            more=" ".join(f"--{k} {STUDY.search_benchmark[k]}" for k in ("k", "batch", "crops") if k in STUDY.search_benchmark),
            **CAPTION,
        log:
            OUT / "logs" / "search_benchmark.log",
        # Timings: nothing else runs beside it.
        threads: CORES
        resources:
            gpu=1,
            mem_mb=20000,
            runtime=240,
        shell:
            "{ON_GPU} search-benchmark --checkpoint {input.checkpoint} --store {input.store}"
            " --sizes {params.sizes} {params.more} --threads {threads} --out {output[0]} > {log} 2>&1"
