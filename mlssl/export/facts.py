"""What must travel with weights: how they were trained, on what, with which input, and which network they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlssl import results
from mlssl.parts.preprocessing import stated


def facts(path: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a `backbone.pt`, from its meta and from the `pretrain.json` beside it, if there is one.

    `input` has mean and standard deviation per channel, in the order of `channels`, of pixels from 0 to
    `pixel_range`. What is not known is None.
    """
    config = meta.get("config", {})
    found = results.read_result(path.parent / "pretrain.json")
    header = found["header"] if found else {}
    trained = {row["metric"]: row["value"] for row in found["rows"]} if found else {}
    notes = header.get("notes", {})
    views = config.get("views", {})
    return {
        "architecture": meta["backbone"],
        "method": meta.get("method"),
        "class": meta.get("target"),
        "parameters": config.get("params"),
        "encoder": encoder(meta, config, notes),
        "epochs": config.get("epochs"),
        "steps": trained.get("steps", config.get("steps")),
        "batch_size": config.get("batch_size"),
        "crop": views.get("crop"),
        "seed": meta.get("seed"),
        "run": meta.get("run"),
        "data": {key: config.get("data", {}).get(key) for key in ("root", "train", "images_id")},
        "commit": header.get("commit"),
        "versions": header.get("versions"),
        "input": stated(config.get("init_preprocessing")),
        "stride": "first 1x1" if (config.get("init_preprocessing") or {}).get("stride_in_1x1") else "3x3",
        "source_sha256": sha256(path),
    }


def encoder(meta: Mapping[str, Any], config: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    """Which network the weights are, in words."""
    if meta.get("target"):
        return "backbone of the query (online) encoder, in its last step; projectors and queues are left out"
    if config.get("init"):
        return f"weights of a file as they are: {notes.get('init') or config['init']}"
    return "untrained weights"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scores(folder: Path) -> list[tuple[str, str, float, int]]:
    """Protocol, metric, value and number of examples of every finished transfer beside a backbone."""
    found = []
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(result, dict) and result.get("header", {}).get("stage") not in (None, "pretrain"):
            found += [
                (row["protocol"], row["metric"], row["value"], row["n"])
                for row in result["rows"]
                if row["value"] is not None
            ]
    return found


def card(known: Mapping[str, Any], file: str, how: str, found: list[tuple[str, str, float, int]]) -> str:
    """The model card, Markdown: how to load the file, the facts, and the scores of the transfers."""

    def text(value: Any) -> str:
        shown = json.dumps(value) if isinstance(value, dict | list) else str(value)
        return "not known" if value is None else shown.replace("|", "\\|")

    rows = [f"| {key.replace('_', ' ')} | {text(value)} |" for key, value in known.items()]
    parts = [
        f"# {known['architecture']}, {known['method']}",
        f"Weights without a classifier, in `{file}`, exported by mlssl.",
        how,
        "## Facts\n\n| fact | value |\n| --- | --- |\n" + "\n".join(rows),
    ]
    if found:
        lines = [f"| {p} | {m} | {v:.2f} | {n:,} |" for p, m, v, n in found]
        parts.append(
            "## Evaluations\n\nOn the data of the run's study.\n\n| protocol | metric | value | n |\n"
            "| --- | --- | --- | --- |\n" + "\n".join(lines)
        )
    return "\n\n".join(parts) + "\n"
