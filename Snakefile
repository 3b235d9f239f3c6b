# The complete benchmark: pretraining, transfer, tables. `snakemake --cores 2` runs config/demo.yaml;
# `--config study=config/other.yaml` runs another study. docs/settings.md lists the settings of a study.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"


report: "workflow/report/workflow.rst"


include: "workflow/rules/data.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/analysis.smk"


# Only seconds of work: run locally, not as a scheduler job.
localrules:
    all,


rule all:
    default_target: True
    input:
        # Listed explicitly, because tables that `onerror` built without these files would look finished.
        PRETRAINED,
        TRANSFERRED,
        OUT / "metrics.tsv",
        OUT / "runs.tsv",
        OUT / "image_groups.tsv",
        TABLES,
        FIGURES,
        OUT / "figures" / "contact_sheet.png" if STUDY.source.labelled else [],
        outputs.picture_files(STUDY),
        STUDY.search_out / "search.png" if STUDY.search_benchmark else [],


for CHANGE in STUDY.changes:
    print(f"{CHANGE}; results that depend on it are computed again, the old ones are kept", file=sys.stderr)
if workflow.is_main_process and PROGRESS.other_code:
    print(PROGRESS.report(), file=sys.stderr)

# A dry run ends with an estimate of the study's cost.
if workflow.is_main_process and DRY_RUN:
    import atexit

    from mlssl.cost import estimate

    atexit.register(lambda: print(estimate.report(STUDY, CORES), file=sys.stderr))


onstart:
    expand.freeze(STUDY)


onerror:
    # On failure, build tables and figures from the results that exist; a missing or failed run is shown as such.
    shell("{MLSSL} collect --study={FROZEN:q} && {MLSSL} tables --study={FROZEN:q} && {MLSSL} figures --study={FROZEN:q}")
