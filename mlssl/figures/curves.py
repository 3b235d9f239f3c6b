"""Training curves: the loss terms over the steps, and scores during training over epochs, from the logs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.analysis.names import in_words, loss_in_words
from mlssl.analysis.outputs import budget
from mlssl.figures.style import WIDTH, colours, finish, folded, markers, name_lines
from mlssl.study.study import COMPARE, Study

NOT_LOSSES = ("step", "lr", "images_per_s", "positives", "diagnostics", "knn_mAP", "knn_seconds")
SCORE = "knn_mAP"
"""The score during training, by nearest neighbours (`pretrain.knn_every`)."""


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's log (for a failed run, up to the failure); empty if there is no log."""
    for path in (folder / "log.jsonl", folder / "state" / "log.jsonl"):
        if path.exists() and (path.parent == folder or (path.parent / "failed.json").exists()):
            return [json.loads(line) for line in path.read_text().splitlines()]
    return []


def training_curves(study: Study) -> Figure:
    """One panel per loss term, and one of the scores during training where a run has them.

    Thin lines are seeds, thick lines their mean.
    """
    seeds: dict[str, list[tuple[str, list[dict[str, float]]]]] = {}
    for cell in study.cells:
        if cell.axis == COMPARE and study.runs[cell.run].config.target:
            log = read_log(study.out / "runs" / cell.run)
            seeds.setdefault(cell.level, []).append((cell.run, log))
    # As in the other figures, whose methods include untrained ones.
    compared = study.axes().get(COMPARE, [])
    colour, marker = (
        colours(compared),
        markers(compared),
    )
    ends: dict[Axes, dict[str, tuple[float, float, str]]] = {}
    lines = [line for runs in seeds.values() for _, log in runs for line in log]
    parts = list(dict.fromkeys(key for line in lines for key in line if key not in NOT_LOSSES))
    columns = min(2, max(1, len(parts)))
    of_losses = -(-max(1, len(parts)) // columns)
    with_scores = any(SCORE in line for line in lines)
    rows = of_losses + with_scores
    size = (WIDTH, 1.0 + 1.7 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=not with_scores)
    for ax, part in zip(grid.flat, parts, strict=False):
        ax.set_title(loss_in_words(part), loc="left")
        for method in seeds:
            last = draw(ax, [log for _, log in seeds[method]], part, colour[method], marker[method])
            if last:
                ends.setdefault(ax, {})[folded(in_words(method))] = (*last, colour[method])
    for ax in list(grid.flat)[len(parts) :]:
        ax.set_axis_off()
    for ax in grid[:of_losses, 0]:
        ax.set_ylabel("loss, nats")
    for column in range(columns):
        below = [ax for ax in grid[:of_losses, column] if ax.axison]
        if below:
            below[-1].set_xlabel("step")
            below[-1].tick_params(labelbottom=True)
    if not parts:
        grid[0, 0].text(0, 0.5, "No run has a log yet.")
    if with_scores:
        for ax in list(grid.flat)[1 : len(parts)]:
            ax.sharex(grid[0, 0])
        grid[-1, 0].set_axis_on()
        ends[grid[-1, 0]] = draw_scores(grid[-1, 0], study, seeds, colour, marker)
    without_log = {method: sum(not log for _, log in runs) for method, runs in seeds.items()}
    missing = [f"{in_words(m)}: log of {n} of {len(seeds[m])} seeds" for m, n in without_log.items() if n]
    missing += [f"{run} failed" for r in seeds.values() for run, _ in r if failed(study.out / "runs" / run)]
    notes = f"{budget(study)}. Thin: seeds; thick: their mean; each point is the mean since the previous point"
    if with_scores:
        notes += ". kNN: at most 1,000 training images, a fifth of them queries; not the score of a table"
    finish(figure, title(seeds), notes, missing)
    name_lines(figure, ends)
    return figure


def draw_scores(
    ax: Axes,
    study: Study,
    seeds: Mapping[str, Sequence[tuple[str, list[dict[str, float]]]]],
    colour: Mapping[str, str],
    marker: Mapping[str, str],
) -> dict[str, tuple[float, float, str]]:
    """kNN mAP over epochs, or over steps where the number of images is not known; returns the ends of the lines."""
    images, _ = study.source.images()
    ends = {}
    for method, runs in seeds.items():
        logs = []
        for run, log in runs:
            per_epoch = images // study.runs[run].config.batch_size if images else 1
            logs.append([line | {"step": line["step"] / max(1, per_epoch)} for line in log])
        if last := draw(ax, logs, SCORE, colour[method], marker[method]):
            ends[folded(in_words(method))] = (*last, colour[method])
    ax.set_title("nearest neighbours in training", loc="left")
    ax.set_ylabel("kNN mAP, %")
    ax.set_xlabel("epoch" if images else "step")
    return ends


def title(seeds: Mapping[str, Sequence[tuple[str, list[dict[str, float]]]]]) -> str:
    """The loss of every method at the start and the end, mean over its seeds with a log."""
    parts = []
    for method, runs in seeds.items():
        logs = [log for _, log in runs if log and "loss" in log[0]]
        if logs:
            first, last = (np.mean([log[place]["loss"] for log in logs]) for place in (0, -1))
            parts.append(f"{in_words(method)} {first:.1f} to {last:.1f}, n = {len(logs)}")
    return f"Total loss from first to last record: {'; '.join(parts)}" if parts else "Training loss"


def failed(folder: Path) -> bool:
    return (folder / "state" / "failed.json").exists() and not (folder / "pretrain.json").exists()


def draw(
    ax: Axes, logs: list[list[dict[str, float]]], part: str, colour: str, marker: str
) -> tuple[float, float] | None:
    """Draw seeds as thin lines, and their mean at the steps that all seeds have; returns where the mean ends."""
    series = [{line["step"]: line[part] for line in log if part in line} for log in logs]
    series = [s for s in series if s]
    if not series:
        return None
    dot = "o" if max(map(len, series)) == 1 else ""  # a line through one point is not visible
    for s in series:
        ax.plot(list(s), list(s.values()), color=colour, linewidth=0.5, alpha=0.5, marker=dot, markersize=3)
    common = sorted(set.intersection(*(set(s) for s in series)))
    mean = np.array([[s[step] for step in common] for s in series]).mean(axis=0)
    every = max(1, len(common) // 4)
    ax.plot(common, mean, color=colour, linewidth=1.4, marker=marker, markersize=3.5, markevery=every)
    return (common[-1], float(mean[-1])) if common else None
