"""Which photos are validated on: official splits, or a draw that is stratified by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlssl.errors import DataError
from mlssl.photos.labels import Labels
from mlssl.seeds import seed_of


@dataclass(frozen=True)
class Division:
    """A division of N photos into training and validation."""

    in_val: np.ndarray
    """bool N."""
    labelled: np.ndarray
    """bool N: photos whose labels are written."""
    how: str
    """In words, for the summary."""
    across: int = 0
    """Groups of near-duplicates with photos in both; official splits are not changed."""


def divide(
    names: Sequence[str],
    labels: Labels,
    group: np.ndarray,
    share: float,
    seed: int,
    presence: Mapping[str, np.ndarray] | None = None,
) -> Division:
    """Divide photos by their official splits if the labels have them, else by `choose_val`.

    `group` int N: near-duplicates have the same number. `presence`: photo -> bool C, the classes in its semantic
    mask. With a `share` of 0, all photos are for training. Raises DataError if a split has no labelled photo, or
    if an official split has a category, of exclusive ones, that training lacks.
    """
    labelled = np.array([name in labels.photos for name in names])
    if not share:
        return Division(np.zeros(len(names), dtype=bool), labelled, "no validation (val_share 0)")
    if labels.splits:
        return official(names, labels, group, labelled)
    category = single_category(names, labels) if presence is None else None
    in_val = choose_val(group, labelled, share, seed, category)
    if presence is not None:
        in_val = keep_classes(in_val, group, labelled, [presence.get(name) for name in names])
    several = category is not None and len(np.unique(category[labelled])) > 1
    return Division(in_val, labelled, "drawn, stratified by category" if several else "drawn")


def check_division(
    names: Sequence[str],
    labels: Labels,
    share: float,
    seed: int,
    presence: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Raise DataError, as `divide` does, for labels that no import can divide, whichever photos it can use."""
    if not any(name in labels.photos for name in names):
        raise DataError("labels: all labelled photos are on the deny list; label others, or import without labels")
    divide(names, labels, np.arange(len(names)), share, seed, presence)


def official(names: Sequence[str], labels: Labels, group: np.ndarray, labelled: np.ndarray) -> Division:
    """The official splits: `test` is validated on if it has labels, and val is for training then; else `val`.

    Labels of photos in no split are not used. Unlabelled photos of val and test are kept from training.
    """
    split = np.array([labels.splits.get(name, "") for name in names])
    labelled = labelled & (split != "")
    chosen = "test" if (labelled & (split == "test")).any() else "val"
    in_val = (split == chosen) | (split == "test")
    for part, what in ((labelled & ~in_val, "train"), (labelled & in_val, chosen)):
        if not part.any():
            raise DataError(
                f"labels: no labelled photo of the official split '{what}' can be used; add some, or remove the "
                "splits"
            )
    if labels.exclusive:
        category = np.array(
            [labels.photos[n].objects[0].category if ok else -1 for n, ok in zip(names, labelled, strict=True)]
        )
        lacking = np.setdiff1d(category[labelled & in_val], category[~in_val & labelled])
        if len(lacking):
            first = names[int(np.flatnonzero((category == lacking[0]) & in_val)[0])]
            raise DataError(
                f"{first}: category '{labels.categories[lacking[0]][0]}' is in split {chosen} and not in train "
                f"({len(lacking)} such categories); add training photos of it, or remove it from {chosen}"
            )
    counts = {s: int((labelled & (split == s)).sum()) for s in ("train", "val", "test")}
    how = f"official, validation on {chosen}: {', '.join(f'{n:,} {s}' for s, n in counts.items() if n)}"
    across = len(np.intersect1d(group[in_val], group[~in_val]))
    return Division(in_val, labelled, how, across)


def single_category(names: Sequence[str], labels: Labels) -> np.ndarray | None:
    """int N: the category of each photo, -1 without labels; None if a labelled photo has none or several."""
    found = np.full(len(names), -1)
    for i, name in enumerate(names):
        if name in labels.photos:
            categories = {o.category for o in labels.photos[name].objects}
            if len(categories) != 1:
                return None
            found[i] = categories.pop()
    return found


def choose_val(
    group: np.ndarray, labelled: np.ndarray, share: float, seed: int, category: np.ndarray | None = None
) -> np.ndarray:
    """bool N: which images go to val. Entire groups are drawn until val has `share` of the labelled images.

    `category` int N stratifies the draw: val gets `share` of each category, rounded so that the sum is `share` of
    all. A group belongs to the category that most of its labelled images have. Images without labels stay with
    their group, so train has no near-duplicate of an image in val. Raises DataError if groups are too large for two
    splits.
    """
    wanted = max(1, round(share * labelled.sum()))
    firsts, counts = np.unique(group[labelled], return_counts=True)
    order = np.random.default_rng(seed_of(seed, "import", "val")).permutation(len(firsts))
    stratum = np.zeros(len(firsts), dtype=int)
    if category is not None:
        table = np.zeros((len(firsts), category.max() + 1), dtype=int)
        np.add.at(table, (np.searchsorted(firsts, group[labelled]), category[labelled]), 1)
        stratum = np.unique(table.argmax(axis=1), return_inverse=True)[1]
    quota = quotas(np.bincount(stratum, weights=counts), wanted)
    taken, left = np.zeros(len(quota)), np.bincount(stratum)
    chosen: list[int] = []
    for i in order:
        s = stratum[i]
        if taken[s] + counts[i] <= quota[s] and left[s] > 1:
            chosen.append(firsts[i])
            taken[s] += counts[i]
            left[s] -= 1
    if not chosen and len(firsts) > 1:  # Every group exceeds its share.
        chosen = [firsts[np.argmin(counts)]]
    if not chosen:
        raise DataError(
            f"val_share: {share:g} of {labelled.sum():,} labelled photos leaves a split empty, as near-duplicates "
            "stay together; label other photos too, or lower near, or set val_share to 0"
        )
    return np.isin(group, chosen)


def quotas(counts: np.ndarray, wanted: int) -> np.ndarray:
    """int S: how many of `counts` to take so that they sum to `wanted`, by the largest remainders."""
    exact = counts * wanted / counts.sum()
    found = np.floor(exact).astype(int)
    most = np.argsort(-(exact - found), kind="stable")[: wanted - found.sum()]
    found[most] += 1
    return found


def keep_classes(
    in_val: np.ndarray, group: np.ndarray, labelled: np.ndarray, presence: Sequence[np.ndarray | None]
) -> np.ndarray:
    """`in_val` without the groups whose semantic masks show a class that no training mask shows.

    One group stays in val in any case; a class that only this one has is refused when the set is checked.
    """
    in_val = in_val.copy()
    known = np.flatnonzero([ok and p is not None for ok, p in zip(labelled, presence, strict=True)])
    shown = np.stack([p for i, p in enumerate(presence) if p is not None and labelled[i]])
    for c in range(shown.shape[1]):
        has = known[shown[:, c]]
        if len(has) and in_val[has].all():
            moved = group == group[has[0]]
            if (in_val & labelled & ~moved).any():
                in_val &= ~moved
    return in_val
