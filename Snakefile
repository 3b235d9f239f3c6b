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
    check,
    compile,
    estimate,


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
        PICTURE_FILES,
        STUDY.search_out / "search.png" if STUDY.search_benchmark else [],
        STUDY.cost_out / "cost.json" if STUDY.cost_benchmark else [],
        OUT / "index.html",


# A study in pieces: `snakemake --cores 2 axis_k` makes the results of that axis, `axis_method` of the compared methods.
for AXIS in STUDY.axes():

    rule:
        name:
            f"axis_{AXIS}"
        localrule: True
        input:
            STUDY.results_of(AXIS),


for AXIS in ASKED:
    if AXIS not in (AXES := STUDY.axes()):
        raise SystemExit(
            f"axis_{AXIS}: {GIVEN} has no axis '{AXIS}'{did_you_mean(AXIS, AXES)}; it has {', '.join(AXES)}"
        )


rule compile:
    """Tables, figures and page from the results that exist so far: `snakemake --cores 1 compile`."""
    shell:
        COMPILE


rule estimate:
    """Print what the study costs, in time, GPU-hours and disk: `snakemake --cores 2 estimate`."""
    shell:
        "{MLSSL} estimate --study={FROZEN:q} --cores {CORES}"


if workflow.is_main_process:
    for CHANGE in STUDY.changes:
        print(f"{CHANGE}; results that depend on it are computed again, the old ones are kept", file=sys.stderr)
    if PROGRESS.other_code:
        print(PROGRESS.report(), file=sys.stderr)
    if DRY_RUN:
        # First the plan and its price; its last lines again at the end, below what may be a long list of jobs.
        # Snakemake calls no hook (onsuccess) in a dry run.
        import atexit

        from mlssl.cost import estimate as cost

        print(*left_out(), PLAN := cost.report(STUDY, CORES), sep="\n", file=sys.stderr)
        atexit.register(lambda: print(*summary(PLAN), sep="\n", file=sys.stderr))


onstart:
    freeze(STUDY)


onsuccess:
    if (OUT / "index.html").exists():
        print(f"results: {(OUT / 'index.html').resolve()}", file=sys.stderr)


onerror:
    # On failure, build tables, figures and page from the results that exist; a missing or failed run is shown as such.
    shell(COMPILE)
    print(f"results so far: {(OUT / 'index.html').resolve()}", file=sys.stderr)
