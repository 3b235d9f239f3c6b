"""What the page is made of: plain text and numbers that are already formatted. The template computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mlssl.analysis.names import in_words, plain


@dataclass(frozen=True)
class Link:
    """`href` is relative to the page; empty where the file does not exist, so that only the text is shown."""

    text: str
    href: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    key: float | None = None
    """Number by which the column is sorted; None for text, which is sorted as such."""
    best: bool = False
    """Whether it belongs to the set of levels that do not differ from the best one."""
    state: str = ""
    """`missing`, `failed`, … where there is no number."""
    links: tuple[Link, ...] = ()
    """One per seed: its value, and the folder of its run."""
    name: str = ""
    """The name in the study file, where the text is in the field's words."""


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its heading."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A figure of the study inside the page."""

    title: str
    alt: str
    note: str = ""
    """How to read it."""
    source: str = ""
    """A `data:` address; empty if the file does not exist yet."""
    width: int = 0
    height: int = 0
    links: tuple[Link, ...] = ()
    """The files on disk."""
    wide: bool = False
    """Whether it takes the width of the page, as sheets of photographs do."""


@dataclass(frozen=True)
class Answer:
    """One sentence with its verdict; `tone` is one of good, bad, same, open."""

    name: str
    text: str
    word: str
    tone: str


@dataclass(frozen=True)
class Question:
    """A question of the study with its answers, one per method or axis."""

    title: str
    answers: tuple[Answer, ...]
    note: str = ""
    unit: str = ""
    """Of the numbers in the answers."""


@dataclass(frozen=True)
class Ablation:
    """One axis: the finding is its title."""

    name: str
    """In the study file."""
    words: str
    """In the field's words."""
    finding: str
    compared: bool
    """Whether two levels have a result."""
    picture: Picture
    table: Table
    differences: Table
    """Of the levels, paired by seed; no rows without two results."""


@dataclass(frozen=True)
class Fact:
    """A term with its value; `block` values are shown with their line ends."""

    term: str
    text: str
    block: bool = False


@dataclass(frozen=True)
class Page:
    """All sections, in their order."""

    name: str
    about: str
    budget: str
    state: str
    """How many results exist."""
    absent: tuple[Fact, ...]
    """What is missing or failed, with the reason."""
    gain: Question
    cost: tuple[Fact, ...]
    sure: tuple[Fact, ...]
    questions: tuple[Question, ...]
    main_figure: Picture
    main_table: Table
    main_differences: Table
    """Of the methods that train without labels."""
    claims_figure: Picture | None
    claims: Table | None
    """None where the study says nothing about the paper's claims, as on own photos."""
    ablations: tuple[Ablation, ...]
    embeddings: tuple[Picture, ...]
    training: tuple[Picture, ...]
    data_picture: Picture | None
    data: tuple[Fact, ...]
    costs: Table
    step_costs: Table | None
    """What one training step costs, measured in turns."""
    gain_cost: Picture | None
    provenance: tuple[Fact, ...]
    runs: Table
    downloads: tuple[tuple[str, tuple[Link, ...]], ...] = field(default_factory=tuple)


def words(texts: Sequence[str]) -> tuple[Cell, ...]:
    """Cells without numbers."""
    return tuple(Cell(text) for text in texts)


def named(name: str) -> Cell:
    """A method or level in the field's words."""
    return Cell(plain(in_words(name)), name=name)


def tone(word: str) -> str:
    """The tone of a verdict's words."""
    starts = {"supported": "good", "different": "good", "contradicted": "bad", "no difference": "same"}
    return next((tone for start, tone in starts.items() if word.startswith(start)), "open")
