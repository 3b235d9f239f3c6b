"""What an import has done, for people: tables and a summary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Lines of tab-separated cells; a tab, an end of a line or what is no text in a file's name is escaped."""
    return "".join("\t".join(_cell(cell) for cell in row) + "\n" for row in (head, *rows))


def reasons(told: Iterable[str]) -> dict[str, int]:
    """How often each reason is given, its numbers aside (N where they differ); the most frequent first."""
    kinds: dict[str, list[str]] = {}
    for reason in told:
        kinds.setdefault(re.sub(r"\d[\d,]*", "N", reason), []).append(reason)
    counts = {kind if len(set(given)) > 1 else given[0]: len(given) for kind, given in kinds.items()}
    return dict(Counter(counts).most_common())


def summary(told: Mapping[str, Any], out: Path) -> str:
    """A dozen lines that a person reads after an import."""
    rows = [
        ("photos", f"{told['found']:,} found in {told['photos']}"),
        ("used", f"{told['used']:,}: {told['train']:,} train, {told['val']:,} val"),
    ]
    if told["denied"]:
        rows.append(("denied", f"{told['denied']:,} left out, named or copies of such (altered.tsv)"))
    for reason, count in list(told["skipped_by_reason"].items())[:5]:
        rows.append(("skipped", f"{count:,} {reason} (skipped.tsv)"))
    for side, values in told["sizes"].items():
        spread = " / ".join(f"{values[key]:,g}" for key in ("min", "median", "max"))
        rows.append((side, f"{spread} pixels (smallest / median / largest)"))
    twins = told["duplicates"]
    rows.append(
        ("duplicates", f"{twins['photos']:,} are like another, {twins['groups']:,} groups (duplicates.tsv)")
    )
    altered, settings = told["altered"], told["settings"]
    if settings["anonymise"]:
        hidden = f"{altered['regions']:,} regions in {altered['photos']:,} photos (altered.tsv)"
        rows.append((settings["anonymise"], hidden))
        if altered["not_named"]:
            rows.append(
                ("CAUTION", f"{altered['not_named']:,} photos are not named in the file of people: not altered")
            )
        if settings["people"] == "faces":
            rows.append(("CAUTION", "the detector misses some faces; look at the photos before you share them"))
    rows.append(("metadata", "removed from all"))
    labels = told["labels"]
    if labels:
        rows.append(("labels", f"{labels['format']}: {labels['train']:,} photos train, {labels['val']:,} val"))
        if labels["boxes"] != "as given":
            rows.append(("boxes", f"{labels['boxes']} for each label, as {labels['format']} has none"))
        if labels["held_back"]:
            rows.append(("held back", f"{labels['held_back']:,} unlabelled photos like one in val, not trained on"))
        if labels["missing"]:
            rows.append(
                ("missing", f"{labels['missing']:,} labels without their photo; {labels['missing_first'][0]}")
            )
        for category in told["categories"]:
            rows.append(("category", f"{category['name']}: {category['train']:,} train, {category['val']:,} val"))
    rows.append(("written to", str(out)))
    return "\n".join(f"{what:<12}{value}" for what, value in rows)


def _cell(value: Any) -> str:
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
