"""Readable reports of an import: tables and a summary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Tab-separated lines; tabs, line ends and undecodable bytes in file names are escaped."""
    return "".join("\t".join(_cell(cell) for cell in row) + "\n" for row in (head, *rows))


def reasons(given: Iterable[str]) -> dict[str, int]:
    """Count of each reason, most frequent first; reasons that differ only in numbers are merged (numbers as N)."""
    kinds: dict[str, list[str]] = {}
    for reason in given:
        kinds.setdefault(re.sub(r"\d[\d,]*", "N", reason), []).append(reason)
    counts = {kind if len(set(same)) > 1 else same[0]: len(same) for kind, same in kinds.items()}
    return dict(Counter(counts).most_common())


def summary(record: Mapping[str, Any], out: Path) -> str:
    """A readable summary, in about a dozen lines, of the content of `import.json`."""
    rows = [
        ("photos", f"{record['found']:,} found in {record['photos']}"),
        ("used", f"{record['used']:,}: {record['train']:,} train, {record['val']:,} val"),
    ]
    if record["denied"]:
        rows.append(("denied", f"{record['denied']:,} left out by the deny list, copies included (altered.tsv)"))
    for reason, count in list(record["skipped_by_reason"].items())[:5]:
        rows.append(("skipped", f"{count:,} {reason} (skipped.tsv)"))
    if record["masks"]:
        rows.append(("masks", f"{record['masks']:,} images left out: masks of photos, no photos (skipped.tsv)"))
    rows += [("not read", note) for note in record["not_read"][:5]]
    if record["nearly_black"]:
        dark = record["nearly_black"]
        rows.append(
            (
                "CAUTION",
                f"{len(dark):,} photos are nearly black ({dark[0]}); if they hold 12 bits in 16, multiply by 16",
            )
        )
    for side, values in record["sizes"].items():
        spread = " / ".join(f"{values[key]:,g}" for key in ("min", "median", "max"))
        rows.append((side, f"{spread} pixels (smallest / median / largest)"))
    twins = record["duplicates"]
    rows.append(
        ("duplicates", f"{twins['photos']:,} near-duplicates in {twins['groups']:,} groups (duplicates.tsv)")
    )
    altered, settings = record["altered"], record["settings"]
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
    labels = record["labels"]
    if labels:
        rows.append(("labels", f"{labels['format']}: {labels['train']:,} photos train, {labels['val']:,} val"))
        if labels["boxes"] != "as given":
            has = "have" if labels["format"].endswith("s") else "has"
            rows.append(("boxes", f"{labels['boxes']} for each label, as {labels['format']} {has} none"))
        if labels["split"] != "drawn":
            rows.append(("split", labels["split"]))
        if labels["across"]:
            rows.append(("CAUTION", f"{labels['across']:,} groups of near-duplicates are in both official splits"))
        if labels["unlisted"]:
            rows.append(("unlisted", f"{labels['unlisted']:,} labelled photos are in no official split: no labels"))
        if labels["held_back"]:
            what = "unlabelled photos of val or near-duplicates of photos in val, not trained on"
            rows.append(("held back", f"{labels['held_back']:,} {what}"))
        if labels["without_area"]:
            rows.append(("left out", f"{labels['without_area']:,} objects with neither an area nor a mask"))
        if labels["without_class"]:
            empty = labels["without_class"]
            rows.append(("CAUTION", f"{len(empty):,} masks have only pixels that are ignored (of {empty[0]})"))
        if labels["missing"]:
            rows.append(
                ("missing", f"{labels['missing']:,} labels without their photo; {labels['missing_first'][0]}")
            )
        for category in record["categories"]:
            rows.append(("category", f"{category['name']}: {category['train']:,} train, {category['val']:,} val"))
    rows.append(("written to", str(out)))
    return "\n".join(f"{what:<12}{value}" for what, value in rows)


def _cell(value: Any) -> str:
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
