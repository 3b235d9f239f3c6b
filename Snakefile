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


# Seconds of work each: not worth a scheduler's job.
localrules:
    all,
    resolve_run,
    resolve_transfer,


rule all:
    default_target: True
    input:
        # By name, because tables that `onerror` compiled without them would look finished.
        PRETRAINED,
        TRANSFERRED,
        OUT / "metrics.tsv",
        OUT / "runs.tsv",
        TABLES,
        FIGURES,
        OUT / "figures" / "contact_sheet.png" if STUDY.source.labelled else [],
        outputs.picture_files(STUDY),
        OUT / "search" / "search.png" if STUDY.search_benchmark else [],


# A dry run ends with what the study would cost; Snakemake itself learns only later that it is one.
if any(argument.startswith(("-n", "--dry-run", "--dryrun")) for argument in sys.argv):
    import atexit

    from mlssl import estimate

    atexit.register(lambda: print(estimate.report(STUDY, CORES), file=sys.stderr))


onerror:
    # What stands is compiled all the same; a run that is missing or failed is shown as such.
    shell(" && ".join(f"{MLSSL} {verb} --study {STUDY.path}" for verb in ("collect", "tables", "figures")))
