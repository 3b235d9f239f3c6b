"""Tables of scores: one row per level of an axis, one column per score."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from mlssl.analysis.aggregate import Summary, scores_of, summarise
from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import NONE, Score
from mlssl.claims.best import best_levels
from mlssl.claims.differences import LevelDifference
from mlssl.claims.evaluate import Samples
from mlssl.claims.resolution import MARK, MARKED
from mlssl.page.images import relative
from mlssl.page.parts import Cell, Link, Table, named
from mlssl.study.study import Study
from mlssl.tables import differences

CAPTION = (
    "Cells: mean ± sample standard deviation (number of seeds, of how many if some are missing). ★: the set of "
    "levels that do not differ from the best one beyond noise, shown where two levels or more have two seeds, "
    "without methods that train with labels."
)
MISSING = "missing"
STATES = ("failed", "left out", "undefined", "missing")


def score_table(study: Study, samples: Samples, axis: str, unresolved: Collection[Score]) -> Table:
    """The levels of an axis with the scores of its table; a MARK after the numbers of scores in `unresolved`."""
    scores = scores_of(study, axis)
    runs = runs_of(study, axis)
    columns = {}
    for score in scores:
        summaries = summarise(study, samples.metrics, axis, score)
        best = set() if score in unresolved else best_levels(samples, axis, score)
        columns[score] = {
            level: cell(s, score, runs[level], best=level in best, mark=MARK if score in unresolved else "")
            for level, s in summaries.items()
        }
    rows = [(named(level), *(columns[score][level] for score in scores)) for level in study.axes()[axis]]
    caption = f"{CAPTION} {MARKED}" if any(score in unresolved for score in scores) else CAPTION
    return Table(caption, (in_words(axis), *(score.label for score in scores)), tuple(rows))


def difference_table(found: Sequence[LevelDifference], axis: str) -> Table:
    """The differences of an axis that have a result, one row per level and one column per evaluator."""
    rows: dict[str, dict[Score, Cell]] = {}
    less = ""
    for one in found:
        if one.axis == axis and one.found is not None:
            rows.setdefault(one.level, {})[one.score] = Cell(differences.cell(one), key=one.found.mean)
            less = one.less
    scores = dict.fromkeys(score for cells in rows.values() for score in cells)
    return Table(
        f"Each level less {in_words(less)}, in percentage points, with 95 % intervals. {differences.MARKS}",
        (in_words(axis), *(score.label for score in scores)),
        tuple(
            (named(level), *(cells.get(score, Cell(NONE, state="undefined")) for score in scores))
            for level, cells in rows.items()
        ),
    )


def cell(s: Summary, score: Score, runs: Mapping[int, Link], *, best: bool, mark: str = "") -> Cell:
    """`43.00 ± 3.61 (3)` and the mark, with the values of the seeds, or why there is none."""
    if not s.expected:
        return Cell(NONE, state="undefined")
    if not s.n:
        state = next((word for word in STATES if word in s.status), "missing")
        return Cell(MISSING if only_missing(s) else s.status, state=state)
    return Cell(
        text=number(s, score.digits) + mark + (f"; {s.status}" if s.absent and not only_missing(s) else ""),
        key=s.mean,
        best=best,
        state="partial" if s.absent and not only_missing(s) else "",
        links=tuple(Link(f"{v:.{score.digits}f}", runs[seed].href) for seed, v in s.values.items()),
    )


def number(s: Summary, digits: int = 2) -> str:
    """`43.00 ± 3.61 (3)`; `(3 of 5)` if results are missing; without a spread for one seed."""
    spread = "" if math.isnan(s.std) else f" ± {s.std:.{digits}f}"
    of = f" of {s.expected}" if only_missing(s) else ""
    return f"{s.mean:.{digits}f}{spread} ({s.n}{of})"


def only_missing(s: Summary) -> bool:
    """Whether results of seeds are missing, and for no other reason than that they have not been made."""
    return set(s.absent) == {MISSING}


def runs_of(study: Study, axis: str) -> dict[str, dict[int, Link]]:
    """Level -> seed -> the run, with a link to its folder if that exists."""
    found: dict[str, dict[int, Link]] = {level: {} for level in study.axes()[axis]}
    for place in study.cells:
        if place.axis == axis:
            found[place.level][study.runs[place.run].config.seed] = run_link(study, place.run)
    return found


def run_link(study: Study, run: str) -> Link:
    """The name of a run, with a link to its folder if that exists."""
    folder = study.out / "runs" / run
    return Link(run, relative(study, folder) if folder.is_dir() else "")
