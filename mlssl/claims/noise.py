"""How noisy each evaluator of a study is, and which difference it can detect."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlssl.analysis.outputs import Score
from mlssl.claims.evaluate import Samples
from mlssl.claims.paper import Level
from mlssl.statistics import paired
from mlssl.study.study import Study

REPEATS = "repeats.tsv"
"""Optional, beside metrics.tsv: the metrics.tsv of the same runs made once more, such as on another machine."""


@dataclass(frozen=True)
class Noise:
    """Of one evaluator; standard deviations in the units of its score, NaN where they are not known."""

    score: Score
    levels: int
    """Trained levels with all their seeds."""
    n: int
    """Seeds."""
    sd_seeds: float
    """Of one level over seeds, evaluation images fixed; pooled over levels."""
    sd_paired: float
    """Of the difference of two levels over seeds: what pairing leaves of sqrt(2) times `sd_seeds`."""
    sd_images: float
    """Of the difference of two levels over evaluation images, the same for all seeds."""
    sd_repeat: float
    """Of one seed that is made again."""
    detectable: float
    """Smallest true difference of two levels found in 80 % of studies of n seeds by a two-sided 5 % test."""


def noise(
    study: Study, metrics: pd.DataFrame, groups: pd.DataFrame | None, repeats: pd.DataFrame | None = None
) -> list[Noise]:
    """One entry per evaluator that claims use; `groups` and `repeats` as the files of their names."""
    samples = Samples(study, metrics, groups)
    return [of(study, samples, score, repeats) for score in samples.scores]


def of(study: Study, samples: Samples, score: Score, repeats: pd.DataFrame | None) -> Noise:
    """Pooled over the trained levels with all of their n seeds; a run in two tables counts once."""
    found, runs_of = [], []
    for axis, levels in samples.axes.items():
        for level in levels:
            runs = {c.run for c in study.cells if (c.axis, c.level) == (axis, level)}
            sample = samples.get(Level(((axis, level),)), score)
            trained = all(study.runs[run].config.target for run in runs)
            if trained and sample.summary.expected and not sample.summary.absent and runs not in runs_of:
                found.append(sample)
                runs_of.append(runs)
    counts = [len(sample.values) for sample in found]
    # The largest number of seeds that two levels have, which can be paired; else that of one level.
    n = max((count for count in counts if counts.count(count) > 1 and count > 1), default=max(counts, default=0))
    seeds = next((sorted(s.values) for s in found if len(s.values) == n), [])
    found = [s for s in found if sorted(s.values) == seeds]
    repeat = repeat_sd(samples.metrics, repeats, score)
    nothing = Noise(score, len(found), n, math.nan, math.nan, math.nan, repeat, math.nan)
    if n < 2 or not found:
        return nothing
    values = np.array([[s.values[seed] for seed in seeds] for s in found])
    sd_seeds = math.sqrt(values.var(axis=1, ddof=1).mean())
    if len(found) < 2:
        return Noise(score, 1, n, sd_seeds, math.nan, math.nan, repeat, math.nan)
    # The variance of a difference, averaged over all pairs of L levels, is 2 L / (L - 1) times the average variance
    # of a level's deviation from the mean of all levels.
    many = len(found)
    centred = values - values.mean(axis=0)
    seed_variance = 2 * many / (many - 1) * float(centred.var(axis=1, ddof=1).mean())
    images: tuple[paired.Images, ...] = ()
    known = [s.groups.get(seed) for s in found for seed in seeds]
    if all(g is not None for g in known) and len({len(g) for g in known if g is not None}) == 1:
        out = np.array([[s.groups[seed] for seed in seeds] for s in found])
        out = out - out.mean(axis=0)
        each = [paired.difference(v, o).images[0] for v, o in zip(centred, out, strict=True)]
        total, interaction = (
            2 * many / (many - 1) * float(np.mean(x))
            for x in ([i.total for i in each], [i.interaction for i in each])
        )
        images = (paired.Images(max(total - interaction, 0.0), total, interaction, each[0].groups),)
    pooled = paired.Difference(0.0, n, seed_variance / n, images)
    sd_images = math.sqrt(images[0].variance) if images else math.nan
    return Noise(score, many, n, sd_seeds, math.sqrt(seed_variance), sd_images, repeat, pooled.detectable())


def repeat_sd(metrics: pd.DataFrame, repeats: pd.DataFrame | None, score: Score) -> float:
    """Standard deviation of repeating a run, from the runs that both tables have; NaN with fewer than two."""
    if repeats is None:
        return math.nan
    first, second = (
        frame[(frame["protocol"] == score.protocol) & (frame["metric"] == score.metric)].set_index("run")["value"]
        for frame in (metrics, repeats)
    )
    both = pd.concat([first, second], axis=1, join="inner").dropna()
    return paired.repeat_noise(both.to_numpy())[0] if len(both) > 1 else math.nan
