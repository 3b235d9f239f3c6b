"""Find the photo of each label by its name, whatever the case, the suffix or Unicode's form of the name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from unicodedata import normalize

from mlssl.data.images import SUFFIXES
from mlssl.errors import DataError
from mlssl.photos.formats import Entry, LabelFile, PhotoLabels


@dataclass(frozen=True, eq=False)
class Level:
    """What of two names has to be equal; the fields are in the order in which levels are tried."""

    part: Callable[[str], str]
    """The whole path, its last two parts, or its last."""
    suffix: bool
    """Whether the suffix counts."""
    form: Callable[[str], str]
    """What is compared instead of the text."""

    def key(self, name: str, *, strip: bool = True) -> str:
        """The key of a name; `strip`: without suffix, if that does not count."""
        return self.form(self.part(name if self.suffix or not strip else without_suffix(name)))


def without_suffix(name: str) -> str:
    """As pathlib sees the suffix: not in `.hidden`, and not at the end of `name.`."""
    folder, slash, last = name.rpartition("/")
    dot = last.rfind(".")
    return folder + slash + last[:dot] if 0 < dot < len(last) - 1 else name


def plain(name: str) -> str:
    """With `/`, and without `./` in front."""
    return name.replace("\\", "/").removeprefix("./")


def composed(name: str) -> str:
    """Unicode's NFC: a disk of macOS has NFD, a table usually NFC."""
    return normalize("NFC", name)


def folded(name: str) -> str:
    """Without regard to case."""
    return normalize("NFC", name).casefold()


def last_two(name: str) -> str:
    return "/".join(name.split("/")[-2:])


def file_name(name: str) -> str:
    return name.rpartition("/")[2]


LEVELS = (
    Level(str, True, str),
    *(
        Level(part, suffix, form)
        for part in (str, last_two, file_name)
        for suffix in (True, False)
        for form in (composed, folded)
    ),
)
"""The most reliable first."""
PATHS = 3
"""The first levels, on which the entire path is equal: two labels of one photo are then a mistake."""
STEM = LEVELS[-1]


class Names:
    """The names of all photos: paths with `/` below the folder of photos."""

    def __init__(self, names: Iterable[str]) -> None:
        self.all = list(names)
        self._known: dict[Level, dict[str, list[str]]] = {}

    def known(self, level: Level) -> dict[str, list[str]]:
        """The photos of each key."""
        if level not in self._known:
            by_key: dict[str, list[str]] = defaultdict(list)
            for name in self.all:
                by_key[level.key(name)].append(name)
            self._known[level] = dict(by_key)
        return self._known[level]

    def of(self, name: str, level: Level) -> list[str]:
        """The photos that a name means on a level: those of its whole text, else those of it without its suffix.

        A label file may also be called `photo.jpg.txt`.
        """
        known, name = self.known(level), plain(name)
        hits = known.get(level.key(name, strip=False)) or known.get(level.key(name), [])
        shorter = without_suffix(name)
        return hits or (known.get(level.key(shorter), []) if shorter.lower().endswith(SUFFIXES) else [])

    def best(self, name: str) -> list[str]:
        """The photos that a name means on the first level on which it means any."""
        return next((hits for level in LEVELS if (hits := self.of(name, level))), [])

    def is_photo(self, name: str) -> bool:
        """Whether a name, exactly or with an omitted suffix, is that of a photo or of several."""
        name = plain(name)
        return any(level.key(name, strip=False) in self.known(level) for level in LEVELS)

    def has_stem(self, path: str) -> bool:
        """Whether the stem of a file is that of a photo."""
        return bool(self.of(path, STEM))


def find_photos(content: LabelFile, names: Names) -> tuple[dict[str, PhotoLabels], list[str]]:
    """Match labels to photos; returns labels by photo, and a sentence per unmatched entry.

    A name matches if it means one photo on a level of `LEVELS` that no label has yet, and no other entry means it.
    A name said inside a photo's own label file counts only where the file's name means no photo, or several.
    Raises DataError if two entries have the same path, and if name and content of a file mean different photos.
    """
    for entry in content.entries:
        if entry.said is not None:
            _agree(entry, names)
    found: dict[str, PhotoLabels] = {}
    unmatched = _match(content.entries, lambda entry: entry.names, names, found)
    unmatched = _match(unmatched, lambda entry: () if entry.said is None else (entry.said,), names, found)
    return found, [_missing(entry, names) for entry in unmatched]


def _match(
    entries: list[Entry], aliases: Callable[[Entry], Iterable[str]], names: Names, found: dict[str, PhotoLabels]
) -> list[Entry]:
    """Add matches to `found`, and return the entries without one."""
    unmatched = entries
    for i, level in enumerate(LEVELS):
        if not unmatched:
            break
        matches: dict[str | None, list[Entry]] = defaultdict(list)
        for entry in unmatched:
            free = ([n for n in names.of(alias, level) if n not in found] for alias in aliases(entry))
            matches[next((hits[0] for hits in free if len(hits) == 1), None)].append(entry)
        unmatched = matches.pop(None, [])
        for photo, same in matches.items():
            if photo is not None and len(same) == 1:
                found[photo] = same[0].labels
            elif i < PATHS:
                raise DataError(
                    f"{same[1].labels.where}: '{photo}' is labelled a second time, after "
                    f"{same[0].labels.where}; remove one"
                )
            else:
                unmatched += same
    left = {id(entry) for entry in unmatched}
    return [entry for entry in entries if id(entry) in left]


def _agree(entry: Entry, names: Names) -> None:
    """DataError if the name of a label file and the name in it mean different photos."""
    assert entry.said is not None
    if STEM.key(plain(entry.said)) == STEM.key(entry.names[0]):
        return
    own = next((hits for alias in entry.names if (hits := names.best(alias))), [])
    said = names.best(entry.said)
    if own and said and not set(own) & set(said):
        raise DataError(
            f"{entry.labels.where}: is named like '{own[0]}', but its filename is that of '{said[0]}'; correct the "
            "filename, or rename the file"
        )


def _missing(entry: Entry, names: Names) -> str:
    name = entry.names[-1]
    hits = names.best(name)
    if len(hits) > 1:
        return f"{entry.labels.where}: '{name}' may be '{hits[0]}' or '{hits[1]}'"
    if hits:
        return f"{entry.labels.where}: '{name}' may be '{hits[0]}', as other labels may"
    return f"{entry.labels.where}: no photo is named '{name}'"
