"""Pages of several studies: two or more side by side, and the leaderboard. The templates compute nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlssl.analysis.names import label_in_words, plain
from mlssl.analysis.outputs import NONE
from mlssl.analysis.several import Entry, Evaluator, Results, labels, metrics_of, title
from mlssl.claims import between
from mlssl.claims.between import Pair
from mlssl.errors import ConfigError
from mlssl.files import write_text
from mlssl.page.parts import Answer, Cell, Fact, Question, Table
from mlssl.page.write import rendered
from mlssl.statistics.paired import ALPHA, Difference
from mlssl.statistics.unpaired import Unpaired
from mlssl.tables import leaderboard
from mlssl.tables.gains import ends

MOST = 6
"""Answers on the first screen; the table has all."""
TONES = {between.HIGHER: "good", between.LOWER: "bad", "the same numbers": "same"}
HOW = (
    "Scores in percent: mean ± sample standard deviation (seeds). Differences in points with their 95 % interval: "
    "paired by seed where seeds match, over seeds and, with image_groups.tsv, evaluation images; else unpaired "
    "(Welch), over seeds."
)


@dataclass(frozen=True)
class Side:
    """One study against the first."""

    name: str
    refused: tuple[str, ...]
    """Evaluators that are not compared, each with the reason."""
    only: str
    """Methods that one of the two lacks; empty if there are none."""
    table: Table


@dataclass(frozen=True)
class Comparison:
    """The page of `mlssl page A B`."""

    name: str
    state: str
    answers: tuple[Question, ...]
    cost: tuple[Fact, ...]
    sure: tuple[Fact, ...]
    sides: tuple[Side, ...]
    provenance: tuple[Fact, ...]


@dataclass(frozen=True)
class Board:
    """One table of the leaderboard."""

    title: str
    about: str
    table: Table


@dataclass(frozen=True)
class Leaderboard:
    """The page of `mlssl leaderboard`."""

    name: str
    rules: str
    boards: tuple[Board, ...]
    provenance: tuple[Fact, ...]


@dataclass(frozen=True)
class Line:
    """One method by one metric in two studies."""

    evaluator: Evaluator
    metric: str
    label: str
    pair: Pair
    found: Difference | Unpaired

    @property
    def text(self) -> str:
        """`+0.40 points [-0.25, 1.05]`."""
        low, high = (self.found.low, self.found.high) if isinstance(self.found, Unpaired) else self.found.interval()
        return f"{self.found.mean:+.2f} points{ends(low, high)}"

    @property
    def how(self) -> str:
        """`paired, n = 3` or `unpaired, n = 3 and 2`."""
        if isinstance(self.found, Unpaired):
            return f"unpaired, n = {self.found.n_other} and {self.found.n}"
        return f"paired, n = {self.found.n}"

    @property
    def word(self) -> str:
        return between.word(self.found, self.metric)


def compare(results: Sequence[Results]) -> Comparison:
    """The second study and all later ones against the first.

    Raises ConfigError for one study alone, and where an evaluator has other settings or data in each of two.
    """
    if len(results) < 2:
        raise ConfigError(f"{results[0].folder}: is one study alone; give two or more to compare them")
    first, answers, sides, all_lines = results[0], [], [], []
    for second in results[1:]:
        shared, refused = between.common(first, second)
        found, only = lines(first, second, shared)
        if not found:
            raise ConfigError(f"{first.name} and {second.name} have no method with scores in common")
        answers.append(question(first, second, found))
        sides.append(Side(second.name, tuple(refused), only, difference_table(first, second, found)))
        all_lines += found
    return Comparison(
        name=" and ".join(one.name for one in results) + " compared",
        state=f"{len(all_lines)} differences to {first.name}, of scores with the same settings and data",
        answers=tuple(answers),
        cost=tuple(fact for one in results for fact in cost(one)),
        sure=certainty(all_lines),
        sides=tuple(sides),
        provenance=provenance(results),
    )


def lines(first: Results, second: Results, shared: Sequence[Evaluator]) -> tuple[list[Line], str]:
    """All differences, and the methods that one of the two lacks."""
    mine, theirs = between.groups(first), between.groups(second)
    found, only = [], []
    for evaluator in shared:
        matched = between.pairs(first, second, evaluator)
        only += between.unmatched(first, second, evaluator, matched)
        names = labels([pair.first for pair in matched])
        for label, pair in zip(names, matched, strict=True):
            for metric in metrics_of([pair.first]):
                two = (
                    between.sample(pair.first, evaluator, metric, mine),
                    between.sample(pair.second, evaluator, metric, theirs),
                )
                if (difference := between.difference(*two)) is not None:
                    found.append(Line(evaluator, metric, label, pair, difference))
    return found, ", ".join(dict.fromkeys(only))


def question(first: Results, second: Results, found: Sequence[Line]) -> Question:
    """The differences by the first score, of the first MOST methods."""
    score = found[0].evaluator, found[0].metric
    own = [line for line in found if (line.evaluator, line.metric) == score]
    answers = tuple(
        Answer(worded(line.label), f"{line.text}, {line.how}", line.word, TONES.get(line.word, "open"))
        for line in own[:MOST]
    )
    note = f"The table below has {len(own) - MOST} more." if len(own) > MOST else ""
    return Question(f"{second.name} less {first.name}: {score[0].title}, {title(score[1])}", answers, note)


def worded(label: str) -> str:
    """`mls, k = 1` in the field's words."""
    return plain(label_in_words(label))


def difference_table(first: Results, second: Results, found: Sequence[Line]) -> Table:
    """One row per method, evaluator and metric."""
    rows = tuple(
        (
            Cell(worded(line.label), name=line.label),
            Cell(line.evaluator.title),
            Cell(title(line.metric)),
            Cell(line.pair.settings),
            score(line.pair.first, line.metric),
            score(line.pair.second, line.metric),
            Cell(line.text, line.found.mean),
            Cell(line.how),
            Cell(line.word),
        )
        for line in found
    )
    columns = ("method", "evaluator", "metric", "settings of pretraining", first.name, second.name)
    return Table(HOW, (*columns, "difference", "how", f"{second.name} is"), rows)


def score(entry: Entry, metric: str) -> Cell:
    """`43.00 ± 3.61 (3)`."""
    mean, n = entry.mean(metric), len(entry.values.get(metric, {}))
    lost = f"; {leaderboard.absent(entry)}" if entry.absent else ""
    key = None if math.isnan(mean) else mean
    return Cell(f"{leaderboard.score(entry, metric)} ({n}){lost}", key, state="partial" if lost else "")


def cost(results: Results) -> tuple[Fact, ...]:
    """The wall time of a study's pretrainings, with the devices."""
    entries = {(e.method, e.digest): e for of_one in results.entries.values() for e in of_one}.values()
    minutes = [m for entry in entries for m in entry.minutes]
    devices = ", ".join(sorted({device for entry in entries for device in entry.devices})) or "device not recorded"
    text = f"{sum(minutes):,.1f} minutes, {len(minutes)} runs ({devices})" if minutes else "not known"
    return (Fact(f"pretraining, {results.name}", text),)


def certainty(found: Sequence[Line]) -> tuple[Fact, ...]:
    """Seeds, evaluation images, how differences were taken, and how many to expect by chance."""
    seeds = sorted({count for line in found for count in (line.pair.first.seeds, line.pair.second.seeds)})
    images = sorted({n for line in found[:1] for n in (*line.pair.first.n, *line.pair.second.n)})
    paired = sum(isinstance(line.found, Difference) for line in found)
    with_interval = sum("[" in line.text for line in found)
    facts = [
        Fact("seeds", f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"),
        Fact("differences", f"{paired} paired by seed, {len(found) - paired} unpaired"),
        Fact("by chance", f"of {with_interval} intervals about {2 * ALPHA * with_interval:.1f} exclude 0"),
    ]
    if images:
        facts.insert(1, Fact("evaluated on", " or ".join(f"{n:,}" for n in images) + " images or crops"))
    return tuple(facts)


def board(evaluator: Evaluator, entries: Sequence[Entry]) -> Board:
    """The table of one evaluator."""
    table = leaderboard.printed(entries)
    keys = [
        (None, *(entry.mean(metric) for metric in metrics_of(entries)), entry.seeds, entry.images_seen)
        for entry in entries
    ]
    rows = tuple(
        (
            Cell(worded(texts[0]), name=texts[0]),
            *(
                Cell(text, None if key is None or math.isnan(key) else key)
                for text, key in zip(texts[1:], row_keys, strict=True)
            ),
        )
        for texts, row_keys in zip(table.to_numpy().tolist(), keys, strict=True)
    )
    return Board(evaluator.title, leaderboard.about(evaluator), Table("", tuple(map(str, table.columns)), rows))


def leaderboard_page(results: Sequence[Results], boards: dict[Evaluator, list[Entry]]) -> Leaderboard:
    """The page of the leaderboard."""
    name = "Leaderboard of " + (f"{len(results)} studies" if len(results) > 1 else results[0].name)
    return Leaderboard(name, leaderboard.RULES, tuple(board(*one) for one in boards.items()), provenance(results))


def provenance(results: Sequence[Results]) -> tuple[Fact, ...]:
    """Folder and commits of each study."""
    facts = []
    for one in results:
        commits = sorted({c for of_one in one.entries.values() for entry in of_one for c in entry.commits})
        facts.append(Fact(one.name, f"{one.folder}; commits {', '.join(commits) or NONE}"))
    return tuple(facts)


def write_comparison(results: Sequence[Results], path: Path) -> Path:
    """Write the page of a comparison; returns its path."""
    write_text(path, rendered("comparison.html", compare(results)))
    return path


def write_leaderboard(results: Sequence[Results], folder: Path) -> Path:
    """Write `leaderboard.tsv`, `leaderboard.md` and `index.html`; returns the path of the page."""
    boards = leaderboard.ranked(results)
    if not boards:
        raise ConfigError(f"{', '.join(str(one.folder) for one in results)}: no evaluator has a score yet")
    leaderboard.write_leaderboard(boards, folder)
    write_text(folder / "index.html", rendered("leaderboard.html", leaderboard_page(results, boards)))
    return folder / "index.html"
