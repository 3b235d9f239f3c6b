"""Result files of a study, with values known by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlssl import results
from mlssl.files import write_json
from mlssl.study.code import stage_code
from mlssl.study.identity import about_run, about_transfer
from mlssl.study.sources import contents
from mlssl.study.study import Run, Study


def put(study: Study, run: Run, stage: str, rows: Sequence[Mapping[str, Any]], /, **header: Any) -> Path:
    """Write the result of one stage of a run, as if it had just been made; `header` has what is to be different."""
    about, target, data = about_run(run.config, run.id), run.config.target, run.config.data
    if stage != "pretrain":
        settings = study.transfers[stage]
        about, target, data = about_transfer(stage, settings, about), None, settings.data
    made_by = {"code": stage_code(stage, target), "data": contents(data)}
    values = results.result(about, rows, **made_by, device="cpu", threads=1, watch=results.Stopwatch())
    values["header"] |= header
    path = study.result(run.id, stage)
    write_json(path, values)
    return path
