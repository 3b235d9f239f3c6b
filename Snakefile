# The whole benchmark: pretrain, transfer, tabulate. `snakemake --cores 2` runs config/demo.yaml;
# `--config study=config/other.yaml` another study. What is in a study: config/ and workflow/schemas/.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"


report: "workflow/report/workflow.rst"


include: "workflow/rules/data.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/analysis.smk"


rule all:
    default_target: True
    input:
        OUT / "metrics.tsv",
        OUT / "runs.tsv",
        TABLES,
        FIGURES,
        OUT / "figures" / "contact_sheet.png",


onerror:
    # What stands is compiled all the same; a run that is missing or failed is shown as such.
    shell(" && ".join(f"{PYTHON} -m mlssl {verb} --study {STUDY.path}" for verb in ("collect", "tables", "figures")))
