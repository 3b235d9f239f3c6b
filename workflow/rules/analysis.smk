# Tables and figures from result files. The list of table files depends only on the study.
from mlssl.digest import digest_of_file
from mlssl.project import PUBLISHED



OWN_CAPTION = ("training_curves", "label_quality")


rule collect:
    """Gather all result files into tidy tables."""
    input:
        pretrain=PRETRAINED,
        transfers=TRANSFERRED,
    output:
        metrics=report(OUT / "metrics.tsv", caption="../report/metrics.rst", category="Results"),
        runs=OUT / "runs.tsv",
        image_groups=OUT / "image_groups.tsv",
    params:
        # Inputs that are not files: the cells of the tables, and the results that older code made.
        cells=digest_of([[c.axis, c.level, c.run] for c in STUDY.cells]),
        other_code=digest_of({" ".join(key): files for key, files in PROGRESS.other_code.items()}),
        code=code_of("collect"),
        **CAPTION,
    log:
        OUT / "logs" / "collect.log",
    shell:
        "{MLSSL} collect --study={FROZEN:q} > {log:q} 2>&1"


rule tables:
    """Mean and standard deviation over seeds, with the paper's numbers."""
    input:
        metrics=OUT / "metrics.tsv",
        runs=OUT / "runs.tsv",
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
        published=[digest_of_file(file) for file in sorted(PUBLISHED.glob("*.csv"))],
        code=code_of("tables"),
        **CAPTION,
    log:
        OUT / "logs" / "tables.log",
    shell:
        "{MLSSL} tables --study={FROZEN:q} > {log:q} 2>&1"


rule figures:
    """Comparison of methods, ablations, and training curves."""
    input:
        metrics=OUT / "metrics.tsv",
        runs=OUT / "runs.tsv",
        logs=[OUT / "runs" / run / "log.jsonl" for run in STUDY.runs],
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
        code=code_of("figures"),
        **CAPTION,
    log:
        OUT / "logs" / "figures.log",
    shell:
        "{MLSSL} figures --study={FROZEN:q} > {log:q} 2>&1"


rule contact_sheet:
    """Labelled samples of the training images."""
    input:
        DATA,
    output:
        report(OUT / "figures" / "contact_sheet.png", caption="../report/contact_sheet.rst", category="Data"),
        OUT / "figures" / "contact_sheet.pdf",
    params:
        root=lambda wildcards: STUDY.data.root,
        split=lambda wildcards: STUDY.data.train,
        data=STUDY.data.data_id,
        code=code_of("contact_sheet"),
        **CAPTION,
    log:
        OUT / "logs" / "contact_sheet.log",
    shell:
        "{MLSSL} contact-sheet --data={params.root:q} --split={params.split:q} --out={output[0]:q} > {log:q} 2>&1"


DRAWABLE = "|".join(STUDY.pictured if ALL_RULES else PROGRESS.drawable()) or "(?!)"


def pictured_checkpoint(wildcards):
    """The checkpoint of the run that represents a method."""
    return OUT / "runs" / STUDY.pictured[wildcards.method] / "checkpoint.pt"


rule neighbours:
    """Query crops and their nearest crops (figure 4)."""
    input:
        checkpoint=pictured_checkpoint,
        store=STUDY.store,
    output:
        report(OUT / "figures" / "neighbours_{method}.png", caption="../report/neighbours.rst", category="Neighbours"),
        OUT / "figures" / "neighbours_{method}.pdf",
    wildcard_constraints:
        method=DRAWABLE,
    params:
        code=code_of("neighbours"),
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
        "{ON_GPU} neighbours --checkpoint={input.checkpoint:q} --store={input.store:q}"
        " --queries {params.settings.queries} --neighbours {params.settings.neighbours}"
        " --candidates {params.settings.candidates} --dictionary-size {params.settings.dictionary_size}"
        " --seed {params.settings.seed} --threads {threads} --out={output[0]:q} > {log:q} 2>&1"


rule histograms:
    """Scores of one query against both dictionaries, before and after training (figure 3)."""
    input:
        checkpoint=pictured_checkpoint,
        store=STUDY.store,
    output:
        report(OUT / "figures" / "histograms_{method}.png", caption="../report/histograms.rst", category="Scores"),
        OUT / "figures" / "histograms_{method}.pdf",
    wildcard_constraints:
        method=DRAWABLE,
    params:
        code=code_of("histograms"),
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
        "{ON_GPU} histograms --checkpoint={input.checkpoint:q} --store={input.store:q}"
        " --dictionary-size {params.settings.dictionary_size} --seed {params.settings.seed}"
        " --threads {threads} --out={output[0]:q} > {log:q} 2>&1"


if STUDY.search_benchmark and (ALL_RULES or not PROGRESS.search):

    rule search_benchmark:
        """Time and recall of exact, sampled and approximate search over the dictionary size."""
        input:
            checkpoint=OUT / "runs" / STUDY.compared[STUDY.search_benchmark.method] / "checkpoint.pt",
            store=STUDY.store,
        output:
            STUDY.search_out / "search.json",
            STUDY.search_out / "search.tsv",
            report(STUDY.search_out / "search.png", caption="../report/search.rst", category="Search"),
            STUDY.search_out / "search.pdf",
        params:
            **CAPTION,
        log:
            OUT / "logs" / "search_benchmark.log",
        # It measures time, so no other job may run in parallel.
        threads: CORES
        resources:
            gpu=1,
            mem_mb=20000,
            runtime=240,
        shell:
            "{ON_GPU} search-benchmark --study={FROZEN:q} --threads {threads} > {log:q} 2>&1"
