# Tables and figures from result files. The list of table files depends only on the study.
import mlssl.page
from mlssl.digest import digest_of_file
from mlssl.project import PUBLISHED

COST = STUDY.cost_out / "cost.json" if STUDY.cost_benchmark else None
MARKDOWN = [table for table in TABLES if table.suffix == ".md"]
PAPER_TABLES = [table for table in MARKDOWN if table.stem in outputs.PAPER_TABLES]
OWN_TABLES = [table for table in MARKDOWN if table not in PAPER_TABLES]
PNGS = [figure for figure in FIGURES if figure.suffix == ".png"]
AXIS_FIGURES = [figure for figure in PNGS if figure.stem not in outputs.TRAINING_TITLES]
LOSSES = [figure for figure in PNGS if figure.stem == "training_curves"]
LABEL_FORCE = [figure for figure in PNGS if figure.stem == "label_force"]
LABEL_QUALITY = [figure for figure in PNGS if figure.stem == "label_quality"]


rule collect:
    """Gather all result files into tidy tables."""
    input:
        pretrain=PRETRAINED,
        transfers=TRANSFERRED,
    output:
        metrics=report(
            OUT / "metrics.tsv",
            caption="../report/metrics.rst",
            category="All results",
            labels={"table": "one row per run, protocol and metric"},
        ),
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
        image_groups=OUT / "image_groups.tsv",
    output:
        own=shown(OWN_TABLES, "../report/table.rst", "Comparisons"),
        published=shown(PAPER_TABLES, "../report/paper_table.rst", "Tables of the paper"),
        others=[table for table in TABLES if table.suffix != ".md"],
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
        image_groups=OUT / "image_groups.tsv",
        logs=[OUT / "runs" / run / "log.jsonl" for run in STUDY.runs],
        costs=COST or [],
    output:
        axes=shown(AXIS_FIGURES, "../report/figure.rst", "Comparisons"),
        losses=shown(LOSSES, "../report/training_curves.rst", "Training"),
        forces=shown(LABEL_FORCE, "../report/label_force.rst", "Training"),
        labels=shown(LABEL_QUALITY, "../report/label_quality.rst", "Training"),
        others=[figure for figure in FIGURES if figure.suffix != ".png"],
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
        png=report(
            OUT / "figures" / "contact_sheet.png",
            caption="../report/contact_sheet.rst",
            category="Data",
            labels={"figure": "labelled samples of the training images"},
        ),
        pdf=OUT / "figures" / "contact_sheet.pdf",
    params:
        root=lambda wildcards: STUDY.data.root,
        split=lambda wildcards: STUDY.data.train,
        data=STUDY.data.data_id,
        code=code_of("contact_sheet"),
        **CAPTION,
    log:
        OUT / "logs" / "contact_sheet.log",
    shell:
        "{MLSSL} contact-sheet --data={params.root:q} --split={params.split:q} --out={output.png:q} > {log:q} 2>&1"


PICTURE_FILES = [OUT / "figures" / "contact_sheet.png"] if STUDY.source.labelled else []
PICTURE_FILES += outputs.picture_files(STUDY)
DRAWABLE = pattern(STUDY.pictured if ALL_RULES else PROGRESS.drawable())


rule neighbours:
    """Query crops and their nearest crops (figure 4)."""
    input:
        checkpoint=lambda wildcards: OUT / "runs" / STUDY.pictured[wildcards.method] / "checkpoint.pt",
        store=STUDY.store,
    output:
        png=report(
            OUT / "figures" / "neighbours_{method}.png",
            caption="../report/neighbours.rst",
            category="Embeddings",
            subcategory="Nearest neighbours",
            labels={"method": "{method}"},
        ),
        pdf=OUT / "figures" / "neighbours_{method}.pdf",
    wildcard_constraints:
        method=DRAWABLE,
    params:
        run=lambda wildcards: STUDY.pictured[wildcards.method],
        settings=lambda wildcards: STUDY.pictures,
        data=STUDY.data.data_id,
        code=code_of("neighbours"),
        **CAPTION,
    log:
        OUT / "logs" / "neighbours" / "{method}.log",
    threads: 1
    resources:
        gpu=1,
        mem_mb=3000,
        runtime=60,
    shell:
        "{ON_GPU} {rule} --study={FROZEN:q} --run-name={params.run} --threads {threads} --out={output[0]:q}"
        " > {log:q} 2>&1"


use rule neighbours as histograms with:
    # Scores of one query against both dictionaries, before and after training (figure 3), as counts.
    output:
        OUT / "figures" / "histograms_{method}.json",
    params:
        run=lambda wildcards: STUDY.pictured[wildcards.method],
        settings=lambda wildcards: STUDY.pictures,
        code=code_of("histograms"),
    log:
        OUT / "logs" / "histograms" / "{method}.log",


rule histogram_sheet:
    """The score histograms of all methods on common axes."""
    input:
        outputs.count_files(STUDY),
    output:
        png=report(
            OUT / "figures" / "histograms.png",
            caption="../report/histograms.rst",
            category="Embeddings",
            subcategory="Scores before and after training",
            labels={"method": "all"},
        ),
        pdf=OUT / "figures" / "histograms.pdf",
    params:
        code=code_of("histogram_sheet"),
        **CAPTION,
    log:
        OUT / "logs" / "histogram_sheet.log",
    shell:
        "{MLSSL} histogram-sheet {input:q} --out={output.png:q} > {log:q} 2>&1"


if STUDY.search_benchmark and (ALL_RULES or not PROGRESS.search):
    SEARCHED = STUDY.compared[STUDY.search_benchmark.method]

    rule search_benchmark:
        """Time and recall of exact, sampled and approximate search over the dictionary size."""
        input:
            checkpoint=OUT / "runs" / SEARCHED / "checkpoint.pt",
            store=STUDY.store,
        output:
            result=STUDY.search_out / "search.json",
            tsv=STUDY.search_out / "search.tsv",
            png=report(
                STUDY.search_out / "search.png",
                caption="../report/search.rst",
                category="Search",
                labels={"figure": "time and recall of the searches"},
            ),
            pdf=STUDY.search_out / "search.pdf",
        params:
            run=SEARCHED,
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
            "{ON_GPU} search-benchmark --study={FROZEN:q} --run-name={params.run} --threads {threads}"
            " --out={output.result:q} > {log:q} 2>&1"


if STUDY.cost_benchmark and (ALL_RULES or not COST.exists()):

    rule cost_benchmark:
        """What a training step of each compared method costs: time in turns, operations, memory, parameters."""
        input:
            # What a method needs before its training is in the table too.
            [*STUDY.proposals_of({run.id for run in STUDY.costed.values()})],
            [*STUDY.pairs_of(UNTRAINED & {run.id for run in STUDY.costed.values()})],
        output:
            result=COST,
            tsv=COST.with_suffix(".tsv"),
            table=report(
                COST.with_suffix(".md"),
                caption="../report/cost.rst",
                category="Comparisons",
                labels={"axis": "cost of a training step", "kind": "table"},
            ),
        log:
            OUT / "logs" / "cost_benchmark.log",
        # It measures time, so no other job may run in parallel.
        threads: CORES
        resources:
            gpu=1,
            mem_mb=12000,
            runtime=120,
        shell:
            "{ON_GPU} cost-benchmark --study={FROZEN:q} --threads {threads} --out={output.result:q} > {log:q} 2>&1"


PAGE_PARTS = [file for file in sorted(Path(mlssl.page.__file__).parent.iterdir()) if file.suffix in (".html", ".css", ".js")]


rule page:
    """The results page: the answer, then every figure and table, in one HTML file."""
    input:
        metrics=OUT / "metrics.tsv",
        runs=OUT / "runs.tsv",
        image_groups=OUT / "image_groups.tsv",
        tables=TABLES,
        figures=FIGURES,
        pictures=PICTURE_FILES,
    output:
        report(
            OUT / "index.html",
            caption="../report/page.rst",
            category="Answer",
            labels={"page": "results of the study"},
        ),
    params:
        published=[digest_of_file(file) for file in sorted(PUBLISHED.glob("*.csv"))],
        parts=[digest_of_file(file) for file in PAGE_PARTS],
        code=code_of("page"),
        **CAPTION,
    log:
        OUT / "logs" / "page.log",
    shell:
        "{MLSSL} page --study={FROZEN:q} > {log:q} 2>&1"
