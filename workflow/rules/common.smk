# Shared by the files of rules: the expanded study, the paths of its files, and what is finished.
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from mlssl.analysis import outputs
from mlssl.data import selective_search
from mlssl.digest import digest_of
from mlssl.errors import ConfigError, DataError, did_you_mean
from mlssl.project import study_file
from mlssl.runtime import gpu_slot
from mlssl.runtime.launch import Layout, threads_beside
from mlssl.study.code import stage_code
from mlssl.study.load import freeze, load
from mlssl.study.overrides import from_text
from mlssl.study.identity import proposals_file, transfer_digest
from mlssl.study.progress import Progress
from mlssl.study.sources import KINDS, READY
from mlssl.study.study import PICTURES

CONFIG = ("study", "set", "gpu_slots", "changed_code")
"""What `--config` takes."""
for KEY in set(config) - set(CONFIG):
    # SystemExit, here and below: the sentence alone is printed, without Snakemake's place in this file around it.
    raise SystemExit(f"--config: unknown key '{KEY}'{did_you_mean(KEY, CONFIG)}; known are {', '.join(CONFIG)}")
try:
    GIVEN = study_file(str(config.get("study", "demo")))
    STUDY = load(GIVEN, in_job=not workflow.is_main_process, overrides=from_text(str(config.get("set") or "")))
    PROGRESS = Progress(STUDY)
except (ConfigError, DataError) as error:
    raise SystemExit(str(error)) from None
OUT = STUDY.out
FROZEN = STUDY.frozen
"""The study file as this Snakemake call read it; the jobs read this copy."""
ASKED = [word.removeprefix("axis_") for word in sys.argv if word.startswith("axis_")]
"""The axes that are targets; the workflow object does not know the targets yet."""
DRY_RUN = workflow.output_settings.dryrun
"""Whether this is a dry run. `workflow.dryrun` is not set before all rules are read."""

# Commands of a stage: on the CPU, on one GPU, and on all GPUs of a run.
# A scheduler gives its jobs their GPUs. On this machine, a call starts as many jobs at a time as there are GPUs for.
GPUS = gpu_slot.visible() if workflow.local_exec and not workflow.remote_exec else []
SLOTS = bool(config.get("gpu_slots", GPUS))
"""Whether jobs reserve GPUs of this machine: by default where it has some."""
if GPUS and "gpu" not in workflow.global_resources:
    workflow.global_resources["gpu"] = len(GPUS)
RUN_LAYOUT = Layout(STUDY.gpus_per_run, STUDY.nodes, SLOTS)
MLSSL = shlex.join(Layout().command())
COLLECTED = [OUT / name for name in ("metrics.tsv", "runs.tsv", "image_groups.tsv")]
COMPILE = " && ".join(f"{{MLSSL}} {step} --study={{FROZEN:q}}" for step in ("collect", "tables", "figures", "page"))
COMPILE += " && touch -t 197001020000 {COLLECTED:q}"
"""The command that makes tables, figures and page of the results that exist. What it collects looks older than any
result, so the next call compiles again, also results that are copied here with their old times."""
ON_GPU = shlex.join(Layout(slots=SLOTS).command())
ON_ALL_GPUS = shlex.join(RUN_LAYOUT.command())


def threads_per_rank(wildcards, threads):
    return RUN_LAYOUT.threads_per_rank(threads)


def made(source):
    """The file that marks a finished data set; empty for a folder that no command creates."""
    return [source.ready] if source.kind in KINDS else []


def left_out():
    """What the data lack for transfers, one line each, if they are there already; the rule `check` says it again."""
    sources = (STUDY.source, STUDY.transfer_source)
    if not STUDY.transfers or any(s.kind in KINDS and not s.ready.exists() for s in sources):
        return []
    from mlssl.transfer.needs import quick_report

    try:
        return quick_report(STUDY.transfers)
    except DataError as error:
        return [str(error)]


def summary(plan):
    """The totals of a plan, of the study or of the axes that are targets, and how many of Snakemake's jobs are in it;
    nothing if Snakemake has planned none."""
    if workflow.dag is None:
        return []
    planned = [job.rule.name for job in workflow.dag.needrun_jobs(exclude_finished=False)]
    from mlssl.cost.estimate import counted

    asked = tuple(f"axis {axis}: " for axis in ASKED)
    totals = [line for line in plan.splitlines() if line.startswith(asked or ("all: ", "still to do: "))]
    return [*totals, counted(planned, ("proposals", "pairs", "pretrain", *STUDY.transfers, *PICTURES))]


if workflow.is_main_process and not DRY_RUN and (ABSENT := STUDY.absent()):
    raise SystemExit(ABSENT[0])  # a dry run says so in its estimate


UNTRAINED = STUDY.runs.keys() - PROGRESS.finished("pretrain")
"""The runs that still need what comes before their training."""
if workflow.is_main_process and (NEEDED := STUDY.proposals_of(UNTRAINED)):
    try:
        for FILE in NEEDED:
            selective_search.check(FILE)
    except ConfigError as error:
        if not DRY_RUN:
            raise SystemExit(str(error)) from None
        print(error, file=sys.stderr)


if workflow.is_main_process and any(Path(file).exists() for file in STUDY.weights):
    # In another process, because reading weights imports torch: a file that is refused is refused by a dry run.
    CHECK = [*Layout().command(), "check", "--weights", f"--study={GIVEN}"]
    CHECK += ["--set", *STUDY.overrides] if STUDY.overrides else []
    CHECKED = subprocess.run(CHECK, capture_output=True, text=True)
    if CHECKED.returncode:
        raise SystemExit(CHECKED.stderr.strip())


DATA, TRANSFER_DATA = made(STUDY.source), made(STUDY.transfer_source)
PRETRAINED = [STUDY.result(run, "pretrain") for run in STUDY.runs]
TRANSFERRED = [STUDY.result(run, t) for t, runs in STUDY.transfer_runs.items() for run in runs]
TABLES = outputs.table_files(STUDY)
FIGURES = outputs.figure_files(STUDY)
try:
    CORES = workflow.cores or 1
except WorkflowError:  # schedulers set no number of cores; the profile sets the threads of these rules
    CORES = 1
GPU_THREADS = threads_beside(CORES, len(GPUS))
"""CPU threads of a job for each of its GPUs, which read the images of transfers."""

# Snakemake sees data sets, pretrainings and transfers only while they are unfinished. So a newer input, an edited
# source or a touched file never makes it delete and repeat finished results; only `mlssl redo` does.
# Jobs see all rules, because a job may have finished before; so does a report, which lists finished results. The
# workflow object does not say that a report was requested, so this reads the command line. With --report-after-run
# Snakemake also runs jobs.
REPORT = any(word.split("=")[0] == "--report" for word in sys.argv) and "--report-after-run" not in sys.argv
ALL_RULES = REPORT or not workflow.is_main_process
CHANGED_CODE = "--changed-code" if config.get("changed_code") else ""
"""With `changed_code`, unfinished runs that other code started are resumed."""


def pattern(names):
    """Wildcard pattern of these names; it matches nothing if there are none."""
    return "|".join(names) or "(?!)"


def unfinished(stage):
    """Wildcard pattern of the runs that still need this stage."""
    wanted = STUDY.runs if stage == "pretrain" else STUDY.transfer_runs.get(stage, ())
    finished = set() if ALL_RULES else PROGRESS.finished(stage)
    return pattern(run for run in wanted if run not in finished)


SOURCES = {Path(s.data.root).name: s for s in (STUDY.transfer_source, STUDY.source) if s.kind in KINDS}
"""Name of a data set under results/data -> how it is made: that of the pretrainings, and that of the transfers."""


def unmade(kind):
    """Wildcard pattern of the data sets of this kind that do not exist yet."""
    return pattern(n for n, s in SOURCES.items() if s.kind == kind and (ALL_RULES or not s.ready.exists()))


def code_of(stage):
    """Digest of the source code of a cheap stage; the stage runs again when it changes."""
    return digest_of(stage_code(stage))


# Functions, because Snakemake expands wildcards in plain strings.
CAPTION = {
    "about": lambda wildcards: STUDY.about,
    "budget": lambda wildcards: outputs.budget(STUDY, counted=REPORT),
    "seeds": lambda wildcards: ", ".join(map(str, STUDY.seeds)),
}
"""Text for the report's captions."""


def shown(files, caption, category):
    """Tables or figures with the caption and labels that they have in the report."""
    return [report(file, caption=caption, category=category, labels=outputs.report_labels(file)) for file in files]


wildcard_constraints:
    run=pattern(STUDY.runs),
    method=pattern(STUDY.pictured),
