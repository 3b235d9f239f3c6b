"""Import a folder of photos: strip metadata, hide people, group near-duplicates, split, and write a report."""

from __future__ import annotations

import errno
import filecmp
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from mlssl.data.formats.classes import YAML
from mlssl.data.images import by_suffix, find_files, stamp
from mlssl.digest import digest_of
from mlssl.errors import ConfigError, DataError, Resumable
from mlssl.files import write_text
from mlssl.photos.duplicates import NEAR
from mlssl.photos.image_labels import check_masks
from mlssl.photos.labels import read_labels
from mlssl.photos.masks import find_masks
from mlssl.photos.people import FACES, WAYS, check_detector, read_deny
from mlssl.photos.report import summary, table
from mlssl.photos.splits import check_division
from mlssl.photos.work import Photo, check_all, digest_of_copy, make_all
from mlssl.photos.write import write_dataset

VERSION = 4
"""Increase it when an import's output changes for the same photos and settings."""
TEXT: tuple[str, ...] = (".cache", ".csv", ".data", ".db", ".htm", ".html", ".ini", ".json", ".jsonl", ".labels")
TEXT += (".lnk", ".md", ".names", ".tsv", ".txt", ".xml", ".yaml", ".yml")
"""Suffixes of labels, notes and a system's own files, which nobody takes for photos."""


def import_photos(
    photos: Path | str,
    out: Path | str,
    *,
    labels: Path | str | None = None,
    val_share: float = 0.25,
    seed: int = 0,
    anonymise: str | None = None,
    people: Path | str | None = None,
    deny: Path | str | None = None,
    max_skipped: float = 0.05,
    near: int = NEAR,
    workers: int | None = None,
) -> Path:
    """Make a dataset in COCO's layout at `out` from all images below the folder `photos`, and return `out`.

    `out/train` and `out/val` get JPEGs without metadata, named by number, rotated upright (or as their boxes
    need); `out/annotations` describes the labelled ones. `out/import.json`, `summary.txt`, `skipped.tsv`,
    `duplicates.tsv` and `altered.tsv` record what was done; `import.json` also maps each file to its photo. The
    summary is printed.

    Masks beside their photos (see `find_masks`) are left out. `labels`: see `read_labels`. Official splits are kept
    (see `splits.official`). Otherwise a share `val_share` of the labelled photos, drawn with `seed` and, where each
    has one category, stratified by it, goes to `val`, with all near-duplicates (hashes that differ in at most
    `near` bits); all others go to `train`. `anonymise`, `blur`
    or `pixelate`, hides `people`: either regions in a file of any label format (all categories count, and every
    photo it names must exist), or `faces` that a detector finds. `deny`: see `read_deny`; byte-identical copies of
    these photos are left out too. An unusable image is left out, with a reason; the import stops if their share
    exceeds `max_skipped`. `workers`: number of processes, default one per core.

    Labels, people and splits are checked before the first photo is copied. `out` appears when it is complete. After
    a kill, or an error that only the copies could show, a call keeps the copies that it would make again,
    also with other labels or settings. A complete `out` is left unchanged.
    Raises ConfigError or DataError with a remedy; also if `out` was made from other photos or settings.
    """
    photos, out = Path(photos), Path(out)
    check(photos, out, val_share, anonymise, people, max_skipped, near, workers)
    paths, others = find_files(photos)
    names = [path.relative_to(photos).as_posix() for path in paths]
    stamps = {name: stamp(path, name) for path, name in zip(paths, names, strict=True)}
    others = [path for path in others if path.suffix.lower() not in TEXT]
    settings = {
        "version": VERSION,
        "photos": digest_of(list(stamps.values())),
        "labels": digest_of_files(labels),
        "anonymise": anonymise,
        "people": FACES if people == FACES else digest_of_files(people),
        "deny": digest_of_files(deny),
        "val_share": val_share,
        "seed": seed,
        "near": near,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if is_complete(out, settings):
            return out
        files = dict(zip(names, paths, strict=True))
        masks = find_masks(files)
        denied = {} if deny is None else with_copies(read_deny(deny, names), files)
        denied = {name: reason for name, reason in denied.items() if name not in masks}
        names = [name for name in names if name not in masks]
        found = None if labels is None else read_labels(labels, names, folder=photos)
        masks |= {} if found is None else found.own
        names = [name for name in names if name not in masks]
        shown = check_masks(found.photos, found.classes, photos) if found and found.classes else None
        hidden = None if people is None or people == FACES else read_labels(people, names, max_missing=0)
        jobs = [
            Photo(
                number,
                files[name],
                name,
                labels=None if found is None else found.photos.get(name),
                people=None if hidden is None else hidden.photos.get(name),
                detect_faces=people == FACES,
            )
            for number, name in enumerate(names, start=1)
            if name not in denied
        ]
        jobs = [replace(job, made_of=digest_of_copy(job, stamps[job.name], anonymise)) for job in jobs]
        part, processes = out.with_name(f".{out.name}.part"), workers or os.cpu_count() or 1
        check_all(jobs, processes)
        if found is not None:
            check_division([job.name for job in jobs], found, val_share, seed, shown)
        try:
            results = work(jobs, part, out, anonymise, max_skipped, processes)
            header: dict[str, Any] = {
                "photos": str(photos),
                "found": len(paths),
                "not_read": [f"{len(others):,} files of other kinds: {by_suffix(others)}"] if others else [],
                "max_skipped": max_skipped,
                "settings": settings,
            }
            header["not_read"] += [] if found is None else found.notes
            header["not_read"] += [] if hidden is None else [f"people: {note}" for note in hidden.notes]
            written = write_dataset(
                part, jobs, results, header, found, denied, masks, named=hidden is not None, presence=shown
            )
        except DataError as error:
            if isinstance(error, Resumable):
                raise
            raise DataError(f"{error} (the copies stay in {part} for the next call)") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(f"{part}: the disk is full; make room and call again, the import resumes") from None
        text = summary(written, out)
        write_text(part / "summary.txt", f"{text}\n")
        os.sync()
        os.replace(part, out)
        skipped_table(out).unlink(missing_ok=True)
    print(text)
    return out


def check(
    photos: Path,
    out: Path,
    val_share: float,
    anonymise: str | None,
    people: Path | str | None,
    max_skipped: float,
    near: int,
    workers: int | None,
) -> None:
    """Raise ConfigError for invalid settings, before any photo is read."""
    if not 0 <= val_share < 1:
        raise ConfigError(f"val_share: {val_share} is not a share of the labelled photos; give 0 <= val_share < 1")
    if not 0 <= max_skipped <= 1:
        raise ConfigError(f"max_skipped: {max_skipped} is not a share of the photos; give a number from 0 to 1")
    if not 0 <= near <= 16:
        raise ConfigError(f"near: {near} is not from 0 to 16 bits; the default {NEAR} finds most copies")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: {workers} is less than 1; give 1 or more")
    if anonymise not in (None, *WAYS):
        raise ConfigError(f"anonymise: '{anonymise}' is not known; give {' or '.join(WAYS)}, or leave it out")
    if (anonymise is None) != (people is None):
        has, lacks = ("people", "anonymise") if anonymise is None else ("anonymise", "people")
        raise ConfigError(f"{has} is given and {lacks} is not, so nobody would be hidden; give both or neither")
    if out.resolve().is_relative_to(photos.resolve()):
        raise ConfigError(f"out: {out} is inside the photos folder {photos}; choose another folder")
    if people == FACES:
        check_detector()


def work(
    jobs: list[Photo], part: Path, out: Path, anonymise: str | None, max_skipped: float, workers: int
) -> list[dict[str, Any]]:
    """Process all photos and return one result each, by number; DataError as soon as too many are skipped."""
    names, results, skipped = {job.number: job.name for job in jobs}, [], []
    with tqdm(total=len(jobs), desc="import", unit="photo", mininterval=0.5) as bar:
        for made in make_all(jobs, part, version=VERSION, how=anonymise, workers=workers):
            results += made
            skipped += [(names[r["number"]], r["skipped"]) for r in made if "skipped" in r]
            bar.update(len(made))
            if len(skipped) > max_skipped * len(jobs):
                write_text(skipped_table(out), table(("file", "reason"), skipped))
                raise Resumable(
                    f"{skipped_table(out)}: {len(skipped):,} of {len(jobs):,} photos cannot be used, more than "
                    f"max_skipped {max_skipped:g}; the first: {skipped[0][0]} {skipped[0][1]}; "
                    "repair or remove them, or raise max_skipped"
                )
    return sorted(results, key=lambda result: result["number"])


def is_complete(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether `out` is a complete import with these settings; DataError if it is anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "import.json").exists():
        raise DataError(f"{out}: exists and was not made by an import; choose another folder, or remove it")
    made = json.loads((out / "import.json").read_text())["settings"]
    other = [key for key in settings if made.get(key) != settings[key]]
    if other:
        raise DataError(f"{out}: was imported with other {', '.join(other)}; choose another folder, or remove it")
    return True


def with_copies(denied: Mapping[str, str], paths: Mapping[str, Path]) -> dict[str, str]:
    """The denied photos and their byte-identical copies, each with the reason."""
    reasons = {name: f"left out: deny list, '{line}'" for name, line in denied.items()}
    sizes: dict[int, list[str]] = {}
    for name, path in paths.items():
        if name not in denied and path.is_file():
            sizes.setdefault(path.stat().st_size, []).append(name)
    for name in denied:
        if paths[name].is_file():
            for other in sizes.get(paths[name].stat().st_size, []):
                if filecmp.cmp(paths[name], paths[other], shallow=False):
                    reasons.setdefault(other, f"left out: a copy of '{name}', which is denied")
    return reasons


def skipped_table(out: Path) -> Path:
    """File that lists the unusable photos after an import stopped because of them."""
    return out.with_name(f"{out.name}.skipped.tsv")


def digest_of_files(path: Path | str | None) -> str | None:
    """A digest that changes when the file, or a file in the folder, changes; None for None."""
    if path is None:
        return None
    path = Path(path)
    if path.suffix.lower() in YAML and path.is_file():  # A data.yaml means the labels of its folder.
        path = path.parent
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return digest_of([stamp(file, str(file)) for file in files])
