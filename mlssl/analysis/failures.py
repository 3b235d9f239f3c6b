"""Why a stage has no result: the error at the end of its log, or of the log of what was prepared for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mlssl.study.study import Run, Study

ERROR = re.compile(r"mlssl [a-z-]+: (?P<own>.+)|(?P<other>[\w.]*(Error|Exception|Interrupt|Exit)\b.*)")
"""The last line of a log that ends with an error: as the commands print it, or as Python does."""
NO_FAILURE = ("run the same command again", "is training this run", "was taken over", "KeyboardInterrupt")
"""A log that ends like this is of a stage that was stopped, or that another process does."""
TAIL = 20_000
"""Bytes at the end of a log that are read."""


def reason(study: Study, run: Run, stage: str) -> str | None:
    """`failed: <reason>` of a stage without a result; None if it has not run, or was stopped.

    The reason is that of the stage itself, else that of its pretraining or of a preparation of its data.
    """
    diverged = study.out / "runs" / run.id / "state" / "failed.json"
    if diverged.exists() and not study.result(run.id, "pretrain").exists():
        return "failed: " + " ".join(str(json.loads(diverged.read_text())["reason"]).split())
    logs = study.out / "logs"
    sources = (study.source, study.transfer_source)
    prepared = [logs / f"{Path(source.data.root).name}.log" for source in sources if not source.ready.exists()]
    prepared += [] if study.store.exists() else [logs / "store.log"]
    prepared += [] if (study.out / "check.txt").exists() else [logs / "check.log"]
    own = [logs / name / f"{run.id}.log" for name in dict.fromkeys((stage, "pretrain"))]
    for log in (*own, *prepared):
        if log.exists() and not study.result(run.id, log.parent.name).exists() and (why := last_error(log)):
            return f"failed: {why}"
    return None


def last_error(log: Path) -> str | None:
    """The error that a log ends with, on one line; None if it does not end with one."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        lines = re.split(r"[\r\n]+", file.read().decode("utf-8", errors="replace").strip())
    found = ERROR.fullmatch(lines[-1].strip())
    if not found or any(words in found[0] for words in NO_FAILURE):
        return None
    return " ".join((found["own"] or found["other"]).split())
