"""The result file of a pretrained run: its cost, and what its log says of the training."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from mlssl import results
from mlssl.digest import digest_of
from mlssl.parts.embeddings import COLLAPSED
from mlssl.pretrain.prepare import Run
from mlssl.pretrain.run.folder import COMPUTES, code_of
from mlssl.runtime import distributed
from mlssl.runtime.device import facts
from mlssl.runtime.precision import effective
from mlssl.study.sources import contents


def result_of(run: Run) -> dict[str, Any]:
    """The result file of a run that has just been trained: its cost."""
    config, training = run.config, run.training
    seen, seconds = run.total * config.batch_size, training.watch.seconds()
    cost = {"steps": run.total, "images_seen": seen, "seconds": seconds, "images_per_s": seen / seconds}
    notes: dict[str, Any] = {
        "precision": effective(config.precision, run.device)[0],
        "store": run.placement,
        "skipped_images": len(run.store.skipped),
        "ranks": distributed.count(),
        **run.notes,
        **collapse(run.folder.log),
        **scores_during(run.folder.log),
    }
    if len(training.segments) > 1:
        notes["segments"] = [
            {"from_step": s["step"], "commit": s["commit"], "code": digest_of(s["code"])}
            | {key: s[key] for key in COMPUTES if key in s}
            for s in training.segments
        ]
    return results.result(
        run.folder.about,
        code=code_of(training.segments),
        data=contents(config.data),
        **facts(run.device),
        watch=training.watch,
        rows=[
            {"protocol": "pretrain", "metric": name, "value": round(value, 2), "n": len(run.store)}
            for name, value in cost.items()
        ]
        + diagnostics_rows(run.folder.log),
        notes=notes,
    )


def diagnostics_rows(log: Path) -> list[dict[str, Any]]:
    """One row per diagnostic of the method: its mean over the `n` lines of the log that have it."""
    found = [line["diagnostics"] for line in map(json.loads, log.read_text().splitlines()) if "diagnostics" in line]
    return [
        {"protocol": "pretrain", "metric": name, "value": fmean(one[name] for one in found), "n": len(found)}
        for name in (found[0] if found else ())
    ]


def collapse(log: Path) -> dict[str, str]:
    """A note if the embeddings of the last step in the log had collapsed; of methods that log their `spread`."""
    found = [line["diagnostics"] for line in map(json.loads, log.read_text().splitlines()) if "diagnostics" in line]
    last = found[-1].get("spread") if found else None
    if last is None or last >= COLLAPSED:
        return {}
    return {
        "collapse": f"the embeddings have collapsed: their spread is {last:.3g} at the end; random "
        f"directions have 1, and less than {COLLAPSED:g} counts as a collapse"
    }


def scores_during(log: Path) -> dict[str, Any]:
    """A note about the scores that were taken during training: their number, the last one, and their time."""
    found = [line for line in map(json.loads, log.read_text().splitlines()) if "knn_mAP" in line]
    if not found:
        return {}
    seconds = round(sum(line["knn_seconds"] for line in found), 2)
    last = found[-1]["knn_mAP"]
    return {"knn_during_training": {"scores": len(found), "last_mAP": last, "seconds_beside_training": seconds}}
