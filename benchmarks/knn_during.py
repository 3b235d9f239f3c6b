"""What `pretrain.knn_every` costs: `python -m benchmarks.knn_during SCENES OUT.json`, on one core.

SCENES has the training images of the default study (`mlssl scenes --out SCENES --images 3000 --size 128 --seed 1`).
MLS of that study is pretrained for an epoch, with and without four scores, in turns; counted is the processor time
of the whole command, so other work on the machine changes it little.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from mlssl import files, results
from mlssl.parts.backbone import create_backbone
from mlssl.project import study_file
from mlssl.runtime import device
from mlssl.study.load import load
from mlssl.study.settings import Data, Pretrain
from mlssl.study.validation import plain
from mlssl.transfer.during import IMAGES, Neighbours

PAIRS, SCORES = 4, 4
CPU = torch.device("cpu")


def trained(config: Pretrain, store: Path, folder: Path) -> float:
    """Processor seconds of `mlssl pretrain`, its start included."""
    folder.mkdir()
    (folder / "settings.yaml").write_text(json.dumps(plain(config)))
    words = ["pretrain", "--config", folder / "settings.yaml", "--out", folder / "run", "--store", store]
    command = [sys.executable, "-m", "mlssl", *map(str, words), "--threads", "1", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{folder}: the pretraining has failed")
    return usage.ru_utime + usage.ru_stime


def parts(config: Pretrain) -> tuple[float, float]:
    """Processor seconds of reading the images, once a run, and of one score."""
    start = time.process_time()
    score = Neighbours(config, CPU)
    read = time.process_time() - start
    backbone = create_backbone(config.backbone)
    score(backbone)
    start = time.process_time()
    score(backbone)
    return read, time.process_time() - start


def main() -> None:
    scenes, out = Path(sys.argv[1]), Path(sys.argv[2])
    device.set_up(CPU, 1)
    study = load(study_file("demo"))
    default = study.runs[study.compared["mls"]].config
    data = Data(str(scenes.resolve()), short_side=default.data.short_side)
    plainly = replace(default, data=data, epochs=1)
    scored = replace(plainly, knn_every=1 / SCORES)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "store"
        trained(replace(plainly, epochs=None, steps=1), store, Path(place) / "store_built")
        for pair in range(PAIRS):
            without = trained(plainly, store, Path(place) / f"without{pair}")
            with_scores = trained(scored, store, Path(place) / f"with{pair}")
            read, score = parts(scored)
            rows.append({"without_s": without, "with_s": with_scores, "read_s": read, "score_s": score})
            print(rows[-1])
            write(out, plainly.total_steps(3000), rows)


def write(out: Path, steps: int, rows: list[dict[str, float]]) -> None:
    """After each pair, so that a measurement that is stopped leaves those it has."""
    header = {
        "command": "python -m benchmarks.knn_during",
        "commit": results.git_commit(),
        "steps": steps,
        "scores": SCORES,
        "images": IMAGES,
        **device.facts(CPU),
    }
    middle = {name: median(row[name] for row in rows) for name in rows[0]}
    files.write_json(out, {"header": header, "rows": rows, "median": middle})


if __name__ == "__main__":
    main()
