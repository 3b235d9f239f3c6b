"""Prepare a public dataset from a folder, from archives in it, or by download."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from mlssl.data.layout import candidates, write_split
from mlssl.datasets.catalogue import DATASETS, Archive, Dataset
from mlssl.datasets.fetch import download as fetch
from mlssl.datasets.fetch import verify
from mlssl.datasets.unpack import unpack
from mlssl.errors import DataError, did_you_mean
from mlssl.files import write_json


def prepare(
    name: str,
    out: Path | str,
    *,
    source: Path | str | None = None,
    download: bool = False,
    splits: Sequence[str] | None = None,
) -> Path:
    """Convert the dataset `name` to COCO's layout at `out`, and return `out`.

    `source` is a folder in the dataset's official layout, or one with its archives; only missing files are
    downloaded, to `<out>.archives`, and only if `download`. `splits`: default all published ones. Images of a
    folder become symlinks; those of archives are stored in `out`. `out/prepared.json` records the counts, the
    published counts and the original category ids; a differing count is printed to stderr, and is no error.
    `out` appears when it is complete; an existing one is left unchanged. Raises DataError with a remedy.
    """
    if name not in DATASETS:
        raise DataError(
            f"dataset: '{name}' is not known{did_you_mean(name, DATASETS)}; one of {', '.join(DATASETS)}"
        )
    dataset, out = DATASETS[name], Path(out)
    wanted = list(dataset.splits if splits is None else splits)
    unknown = [split for split in wanted if split not in dataset.splits]
    if unknown or not wanted:
        raise DataError(f"{name}: split '{', '.join(unknown)}' is not known; give {', '.join(dataset.splits)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if is_complete(name, out, wanted):
            return out
        part = out.with_name(f".{out.name}.part")
        made, unpacked, kept = part / "made", part / "unpacked", out.with_name(f"{out.name}.archives")
        roots, archives = gather(name, wanted, unpacked, kept, source=source, may_fetch=download)
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        try:
            written = convert(dataset, wanted, roots, made, unpacked)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(f"{made}: the disk is full; make room and call again") from None
        record = {
            "dataset": name,
            "home": dataset.home,
            "source": None if source is None else str(Path(source).resolve()),
            "archives": archives,
            **written,
        }
        for split, values in record["splits"].items():
            report(name, split, values)
        write_json(made / "prepared.json", record)
        os.replace(made, out)
        shutil.rmtree(part, ignore_errors=True)
    if kept.exists():
        print(f"{name}: the archives are kept in {kept}; they may be removed", file=sys.stderr)
    return out


def is_complete(name: str, out: Path, splits: Sequence[str]) -> bool:
    """Whether `out` is complete; an empty folder counts as missing. DataError if it is anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record = out / "prepared.json"
    if not record.exists():
        raise DataError(f"{out}: exists and was not made by this command; choose another folder, or remove it")
    made = json.loads(record.read_text())
    if made["dataset"] != name or not set(splits) <= set(made["splits"]):
        had = f"{made['dataset']} ({', '.join(made['splits'])})"
        raise DataError(f"{out}: holds {had}, not {name} ({', '.join(splits)}); choose another folder or remove it")
    return True


def gather(
    name: str, splits: Sequence[str], unpacked: Path, kept: Path, *, source: Path | str | None, may_fetch: bool
) -> tuple[list[Path], list[dict[str, str | None]]]:
    """The folders that have all files the splits need, and records of the archives that were used."""
    roots = [] if source is None else [Path(source)]
    if source is not None and not Path(source).is_dir():
        raise DataError(f"{source}: no such folder; source must hold {name} or its archives")
    needed = [archive for archive in DATASETS[name].archives if not present(archive, splits, roots)]
    here = {a.file: next(candidates(roots, a.file), None) for a in needed}
    missing = [a for a in needed if here[a.file] is None and not (may_fetch and a.url)]
    missing = [a for a in missing if not (kept / a.file).exists()]
    if missing:
        raise DataError(f"{name}: {advice(missing, source, DATASETS[name])}")
    used = []
    for archive in needed:
        path = here[archive.file]
        if path is None:
            path = fetch(archive.url or "", kept / archive.file, size=archive.size, md5=archive.md5)
        else:
            try:
                verify(path, size=archive.size, md5=archive.md5)
            except DataError as error:
                raise DataError(f"{path}: {error}; it is damaged or another version: download it again") from None
        used.append({"file": archive.file, "url": archive.url, "md5": archive.md5})
        if archive.file in archive.holds:
            roots.append(path.parent)
        else:
            roots.append(unpack(path, unpacked / archive.file))
            if not present(archive, splits, roots):
                raise DataError(
                    f"{path}: does not contain {', '.join(archive.holds)}; download the official archive"
                )
    return roots, used


def present(archive: Archive, splits: Sequence[str], roots: Sequence[Path]) -> bool:
    """Whether the folders have all files of an archive that these splits need."""
    own = [split for split in splits if not archive.splits or split in archive.splits]
    return all(next(candidates(roots, held.format(split=split)), None) for held in archive.holds for split in own)


def advice(missing: Sequence[Archive], source: Path | str | None, dataset: Dataset) -> str:
    """The remedy for missing archives."""
    files = ", ".join(archive.file for archive in missing)
    where = "no source folder is given" if source is None else f"they are not in {source}, nor is their content"
    by_hand = f"place {files} in a folder and give it as source (see {dataset.home}"
    if all(archive.url for archive in missing):
        return f"{files}: {where}; allow the download, or {by_hand})"
    return f"{files}: {where}, and cannot be fetched without a login or are not online; {by_hand})"


def convert(dataset: Dataset, splits: Sequence[str], roots: Sequence[Path], made: Path, own: Path) -> dict:
    """Write all splits below `made`; returns counts and categories for prepared.json."""
    counts, categories = {}, None
    for split in splits:
        found = dataset.read(roots, split)
        if categories not in (None, found.categories):
            raise DataError(f"{split}: its categories are not those of {splits[0]}; use splits of one version")
        categories = found.categories
        written = write_split(made, split, found, own)
        if dataset.also is not None:
            dataset.also(roots, split, made / split)
        counts[split] = {"published": dataset.splits[split], **written}
    mapped = [
        {"id": i, "name": name, "original": original} for i, (name, original) in enumerate(categories or [], 1)
    ]
    return {"splits": counts, "categories": mapped}


def report(name: str, split: str, values: dict) -> None:
    """Print to stderr how a split differs from the published one."""
    if values["images"] != values["published"]:
        print(
            f"{name} {split}: {values['images']:,} images, {values['published']:,} are published; "
            "results are not comparable with published ones",
            file=sys.stderr,
        )
    if values["left_out"]:
        print(
            f"{name} {split}: {values['left_out']:,} listed images are left out; the first: "
            f"{values['left_out_first'][0]}",
            file=sys.stderr,
        )
