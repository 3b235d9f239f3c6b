"""Estimate how long a study takes, from its jobs, their work, and known rates. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlssl.cost import own_photos, rates
from mlssl.cost.near import UNSURE, near
from mlssl.cost.rates import Source
from mlssl.errors import ConfigError
from mlssl.pictures.size import sizes
from mlssl.study.settings import Pretrain
from mlssl.study.study import PICTURES, Study
from mlssl.study.validation import plain

RESULTS = Path("results")
PHOTO = (640, 480)
"""Width and height in pixels assumed for photos of unknown size: the usual size in COCO."""


@dataclass(frozen=True)
class Job:
    """One stage of one run."""

    run: str
    stage: str
    key: str
    """Key of its rate."""
    seconds: float | None
    """Estimated; None if the rate or the amount of work is unknown."""
    source: str | None
    """Source of the rate."""
    done: bool
    """Whether its result exists already."""
    scaled: bool = False
    """Whether the rate is that of other settings, scaled (see `near`)."""


def steps(config: Pretrain, train_images: int | None) -> int | None:
    """Optimiser steps of a run; None if they depend on images that cannot be counted yet."""
    if config.target is None:
        return 0
    if config.steps is not None:
        return config.steps
    return None if train_images is None else config.total_steps(train_images)


def pretrainings(study: Study) -> dict[str, Pretrain]:
    """Rate key -> configuration, for each pretraining rate that the study needs."""
    found: dict[str, Pretrain] = {}
    for run in study.runs.values():
        if run.config.target:
            found.setdefault(rates.key("pretrain", run.config.backbone, plain(run.config)), run.config)
    return found


def rate(sources: Sequence[Source], key: str) -> Source | None:
    """The first source that has a rate for this key."""
    return next((source for source in sources if key in source.seconds), None)


def rate_or_near(sources: Sequence[Source], key: str, device: str) -> tuple[float | None, str | None, bool]:
    """Seconds per unit, their source, and whether they are scaled from other settings; None where nothing is near.

    Rates of another device than `device` are not scaled.
    """
    if source := rate(sources, key):
        return source.seconds[key], source.name, False
    for source in sources:
        if source.device == device and (other := near(key, source.seconds)):
            return other.seconds, f"{source.name}, scaled from: {other.key}", True
    return None, None, False


def jobs(study: Study, sources: Sequence[Source], device: str = "cpu") -> list[Job]:
    """All jobs of a study, each with the first rate found, plus the time of a job's start if known.

    Without a rate for its settings, a job has that of the most similar settings on `device`, scaled (see `near`).
    """
    pretrained_on = own_photos.images(study.source)[0]
    train, val = own_photos.images(study.transfer_source)
    found = []
    for run in study.runs.values():
        length = steps(run.config, pretrained_on)
        for stage in ("pretrain", *(t for t, runs in study.transfer_runs.items() if run.id in runs)):
            config = plain(run.config if stage == "pretrain" else study.transfers[stage])
            amount = None
            if stage != "pretrain" or length is not None:
                amount = rates.units(stage, config, steps=length or 0, train_images=train, val_images=val)
            key = rates.key(stage, run.config.backbone, config)
            each, name, scaled = rate_or_near(sources, key, device)
            done = study.result(run.id, stage).exists()
            if each is None or amount is None:
                found.append(Job(run.id, stage, key, None, None, done))
            else:
                found.append(Job(run.id, stage, key, amount * each + start(stage, sources), name, done, scaled))
    found += searches(study, sources, pretrained_on) + pairings(study, sources, pretrained_on, device)
    return found + drawings(study, sources, pretrained_on, device)


def searches(study: Study, sources: Sequence[Source], images: int | None) -> list[Job]:
    """The jobs that find proposals, one for each file of them, beside the first run that trains on it.

    Their cost is taken to be in proportion to the pixels of the stored images.
    """
    found = []
    for file, run in study.proposals.items():
        known, seconds = rate(sources, rates.PROPOSALS), None
        if known is not None and images is not None:
            millions = images * stored_pixels(study) / 1e6
            seconds = millions * known.seconds[rates.PROPOSALS] + start("proposals", sources)
        name = known.name if known and seconds is not None else None
        found.append(Job(run, "proposals", rates.PROPOSALS, seconds, name, file.exists(), seconds is not None))
    return found


def pairings(study: Study, sources: Sequence[Source], images: int | None, device: str) -> list[Job]:
    """The jobs that pair boxes, beside the first run that trains on them; they embed each image and its boxes."""
    found = []
    for file, run in study.pairs.items():
        config = study.runs[study.runs[run].first_stage or run].config
        each, name, _ = rate_or_near(sources, rates.key("pretrain", config.backbone, plain(config)), device)
        key, seconds = f"pairs, {config.backbone}", None
        if each is not None and images is not None:
            crops = images * (1 + rates.BOXES)
            seconds, name = crops * each / (PASSES * config.batch_size), f"{name}, as a share of a training step"
        users = [r.id for r in study.runs.values() if r.config.pairs_file == str(file)]
        done = file.exists() or all(study.result(user, "pretrain").exists() for user in users)
        found.append(Job(run, "pairs", key, seconds, name, done, seconds is not None))
    return found


PASSES = 8
"""An image of a training step costs as much as this many crops of a picture: two views, each forward and backward
(BACKWARD) through the query encoder and forward through the key encoder."""


def drawings(study: Study, sources: Sequence[Source], images: int | None, device: str) -> list[Job]:
    """The jobs that draw neighbours and histograms; a crop's cost is a share of that of a training step."""
    found: list[Job] = []
    trained = [run.config for run in study.runs.values() if run.config.target]
    for method, run in study.pictured.items():
        assert study.pictures is not None
        backbone = study.runs[run].config.backbone
        config = next((c for c in trained if c.backbone == backbone), study.runs[run].config)
        each, name, _ = rate_or_near(sources, rates.key("pretrain", backbone, plain(config)), device)
        for stage, path in zip(PICTURES, study.picture_files(method), strict=True):
            key, passes = f"{stage}, {backbone}", 2 if stage == "histograms" else 1
            if each is None or images is None or not config.target:
                found.append(Job(run, stage, key, None, None, path.exists()))
                continue
            crops = sum(sizes(study.pictures, images).values())
            seconds = passes * crops * each / (PASSES * config.batch_size) + start(stage, sources)
            found.append(
                Job(run, stage, key, seconds, f"{name}, as a share of a training step", path.exists(), True)
            )
    return found


def start_key(stage: str, sources: Sequence[Source]) -> str:
    """The key of the time that a job of a stage takes besides its work: the stage's own key if it has a rate."""
    own = rates.start(stage)
    return own if rate(sources, own) else rates.START


def start(stage: str, sources: Sequence[Source]) -> float:
    """Seconds that a job of a stage takes besides its work; 0 if unknown."""
    key = start_key(stage, sources)
    known = rate(sources, key)
    return known.seconds[key] if known else 0.0


def total(found: Iterable[Job]) -> float:
    """Sum of the seconds of all jobs whose time is known."""
    return sum(job.seconds or 0.0 for job in found)


SHARED = ("pretrain", "detection", "segmentation")
"""Stages that use all GPUs of a run."""


def wall_clock(
    found: Sequence[Job], at_once: int, gpus_per_run: int = 1, first_stages: Mapping[str, str] | None = None
) -> float:
    """Seconds until all jobs are done on `at_once` cores or GPUs: the longest chain, or the sum / `at_once`.

    A chain is a pretraining, after its proposals and its first stage (`first_stages`: run -> another run), followed
    by its longest transfer. Jobs on several GPUs are assumed to be `gpus_per_run` times faster.
    """
    chains: dict[str, float] = {}
    trained: dict[str, float] = {}
    for run in {job.run for job in found}:
        own = {
            j.stage: (j.seconds or 0.0) / (gpus_per_run if j.stage in SHARED else 1) for j in found if j.run == run
        }
        trained[run] = own.pop("proposals", 0.0) + own.pop("pairs", 0.0) + own.pop("pretrain", 0.0)
        chains[run] = trained[run] + max(own.values(), default=0.0)
    for run, first in (first_stages or {}).items():
        chains[run] = chains.get(run, 0.0) + trained.get(first, 0.0)
    return max([total(found) / at_once, *chains.values()])


def seconds_left(study: Study, cores: int, *, results: Path = RESULTS, reference: Path = rates.REFERENCE) -> float:
    """Seconds until what is missing of a study is done, on `cores` cores or one GPU.

    Raises ConfigError if a rate that most of it depends on is unknown.
    """
    device = rates.this_device()
    left = [
        j for j in jobs(study, rates.sources(results, device=device, reference=reference), device) if not j.done
    ]
    if unknown := [job.key for job in left if job.seconds is None and job.stage in ("pretrain", *study.transfers)]:
        raise ConfigError(
            f"how fast '{unknown[0]}' is here is not known; `mlssl estimate STUDY --measure` measures it"
        )
    return wall_clock(left, 1 if device != "cpu" else cores, study.gpus_per_run, study.first_stages)


def report(
    study: Study, cores: int, *, gpus: int = 1, results: Path = RESULTS, reference: Path = rates.REFERENCE
) -> str:
    """The estimate as text: a line per run, totals per axis and overall, and the sources of the rates.

    GPU jobs run on `gpus` GPUs at a time, independent of `cores`.
    """
    device = rates.this_device()
    sources = rates.sources(results, device=device, reference=reference)
    found = jobs(study, sources, device)
    published = [job for job in found if job.source == rates.PUBLISHED_SOURCE]
    on_gpu = device != "cpu" or bool(published)
    if on_gpu:
        at_once, unit = max(gpus, study.gpus_per_run), rates.published_machine() if published else device
        where = f"one {unit}" if at_once == 1 else f"{at_once} of {unit}"
    else:
        at_once, where = cores, "one core" if cores == 1 else f"{cores} cores"
    lines = [f"{study.path}: {len(study.runs)} runs, {len(found)} jobs", *own_photos.report(study)]
    lines += table(study, found)
    for axis in study.axes():
        runs = {cell.run for cell in study.cells if cell.axis == axis}
        own = of_runs(study, runs, found)
        left = [job for job in own if not job.done]
        lines.append(f"axis {axis}: {len(runs)} runs, {span(own, on_gpu)}")
        if len(left) < len(own):
            lines[-1] += f"; still to do: {len(left)} jobs, {span(left, on_gpu)}" if left else "; done"
        lines[-1] += waiting(left, at_once, where, study)
    if len(study.axes()) > 1:
        lines[-1] += "  (a run that several axes share counts in each)"
    for name, part in (("all", found), ("still to do", [job for job in found if not job.done])):
        lines.append(f"{name}: {len(part)} jobs, {span(part, on_gpu)}{waiting(part, at_once, where, study)}")
    lines.append(f"disk: {disk(study)}")
    for source, count in Counter(job.source for job in found if job.source).items():
        lines.append(f"{count} jobs by {source}")
    if on_gpu and study.gpus_per_run > 1:
        lines.append(f"a run's {study.gpus_per_run} GPUs are taken to share its work without loss")
    for key in dict.fromkeys(start_key(job.stage, sources) for job in found):
        if starting := rate(sources, key):
            lines.append(f"{key}: {starting.seconds[key]:.1f} s, by {starting.name}")
    unknown = Counter(job.key for job in found if job.seconds is None)
    lines += [f"unknown, {count} jobs: {key}" for key, count in unknown.items()]
    if any(not key.startswith(("no pretraining", "pseudo_labels")) for key in unknown):
        lines.append(f"`mlssl estimate --study {study.path} --measure` times what is unknown here")
    if any(job.scaled for job in found):
        lines.append(f"~ scaled from other settings, within a factor of {UNSURE:g} either way")
    lines.append("not counted: making or storing the images, tables and figures")
    return "\n".join(lines)


def of_runs(study: Study, runs: Collection[str], found: Iterable[Job]) -> list[Job]:
    """The jobs of these runs without pictures, and the training of the first stages that they need."""
    first = {study.first_stages[run] for run in runs if run in study.first_stages}
    return [
        job
        for job in found
        if (job.run in runs and job.stage not in PICTURES)
        or (job.run in first and job.stage in ("proposals", "pretrain"))
    ]


SECONDS = ("check", "contact_sheet", "histogram_sheet", "collect", "tables", "figures", "page")
"""Rules that take seconds whatever the study is, and are priced as such."""
NO_WORK = re.compile(r"all|axis_.+")
"""The rules that only ask for others."""


def counted(planned: Sequence[str], estimated: Collection[str]) -> str:
    """How the jobs that Snakemake plans (names of rules) are priced; `estimated` are the rules with a rate.

    Every job is in exactly one part, so the parts add up to Snakemake's count.
    """
    others = [name for name in planned if name not in estimated]
    short = [name for name in others if name in SECONDS]
    idle = [name for name in others if NO_WORK.fullmatch(name)]
    unpriced = [name for name in others if name not in (*SECONDS, *idle)]
    parts = [f"{len(short)} of seconds each ({', '.join(sorted(set(short)))})"] if short else []
    parts += [f"{len(unpriced)} not priced ({', '.join(sorted(set(unpriced)))})"] if unpriced else []
    parts += [f"`{name}`, which does nothing" for name in idle]
    rest = f"the other {len(others)}: {'; '.join(parts)}" if others else "no other"
    return f"{len(planned)} jobs of Snakemake: {len(planned) - len(others)} of them are in the estimate, {rest}."


def stored_pixels(study: Study) -> float:
    """Pixels of a stored training image; of photos of unknown size, of the usual one."""
    side, (width, height) = study.data.short_side, getattr(study.source.settings, "size", PHOTO)
    shrink = 1 if isinstance(side, str) else min(1, side / min(width, height))
    return float(width * height * shrink**2)


def disk(study: Study) -> str:
    """Disk space of the study as text: the image store and the weights of every run, without the source images."""
    images = own_photos.images(study.source)[0]
    known = rates.PARAMETERS.get(next(iter(study.runs.values())).config.backbone)
    parts = []
    if images is None:
        parts.append("store unknown, because its images cannot be counted yet")
    else:
        width, height = getattr(study.source.settings, "size", PHOTO)
        store = 3 * stored_pixels(study) * images
        parts.append(f"store {size(store)}, if photos are {width} x {height}")
    if known is None:
        parts.append("weights unknown")
    else:
        # Query and key encoder and the optimiser's momentum, in the checkpoint and in the state; and the backbone.
        parts.append(f"weights about {size(len(study.runs) * (2 * 3 + 1) * 4 * known)}")
    return "; ".join(parts)


def size(number: float) -> str:
    """Format a number of bytes: `31 GB`, `120 MB`."""
    return f"{number / 1e9:,.0f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"


def table(study: Study, found: Sequence[Job]) -> list[str]:
    """Lines of a table: run, steps, time of each stage; `(done)` if its result exists."""
    before = [stage for stage, files in (("proposals", study.proposals), ("pairs", study.pairs)) if files]
    stages = [*before, "pretrain", *study.transfers, *(PICTURES if study.pictured else ())]
    by_place = {(job.run, job.stage): job for job in found}
    rows = [["run", "steps", *stages]]
    train = own_photos.images(study.source)[0]
    for run in study.runs.values():
        length = steps(run.config, train)
        cells = [cell(by_place.get((run.id, stage))) for stage in stages]
        rows.append([run.id, "unknown" if length is None else f"{length:,}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def cell(job: Job | None) -> str:
    """A job's time; `–` if the study does not include the job."""
    if job is None:
        return "–"
    return "~" * job.scaled + duration(job.seconds) + (" (done)" if job.done else "")


def span(found: Sequence[Job], on_gpu: bool = False) -> str:
    """Computing time or GPU-hours; `at least` if some of it is unknown, `unknown` if all of it is."""
    known = sum(job.seconds is not None for job in found)
    if found and not known:
        return "unknown time of computing"
    low, high = (
        sum((job.seconds or 0.0) * (factor if job.scaled else 1) for job in found)
        for factor in (1 / UNSURE, UNSURE)
    )
    amount = f"{total(found) / 3600:,.1f} GPU-hours" if on_gpu else f"{duration(total(found))} of computing"
    if any(job.scaled for job in found):
        between = f"{low / 3600:,.1f} to {high / 3600:,.1f}" if on_gpu else f"{duration(low)} to {duration(high)}"
        amount += f" ({between})"
    return f"{'at least ' if known < len(found) else ''}{amount}"


def waiting(found: Sequence[Job], at_once: int, where: str, study: Study) -> str:
    """The wall-clock time; empty if no job's time is known."""
    known = sum(job.seconds is not None for job in found)
    about = "about" if known == len(found) else "at least"
    seconds = wall_clock(found, at_once, study.gpus_per_run, study.first_stages)
    return f"; {about} {duration(seconds)} on {where}" if known else ""


def duration(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3 h 20 min`; `unknown` for None."""
    if seconds is None:
        return "unknown"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"
