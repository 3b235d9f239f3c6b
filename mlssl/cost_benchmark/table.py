"""The benchmark of costs as rows of a result file, as TSV and as a table to read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mlssl.study.settings import CostBenchmark

Row = Mapping[str, float | int | None]
COLUMNS = {
    "relative": "step, relative",
    "images_per_s": "images/s",
    "gflop": "GFLOP per image",
    "passes": "backbone passes per image",
    "saved_mb": "kept for the backward pass, MB",
    "peak_mb": "peak on the GPU, MB",
    "parameters_trained": "parameters trained, millions",
    "state_mb": "weights and dictionaries, MB",
    "code_lines": "lines of its file",
}
"""Key -> title."""


def rows_of(found: Mapping[str, Row]) -> list[dict[str, Any]]:
    """As rows of a result file: protocol `cost <method>`; values that do not apply are left out."""
    return [
        {"protocol": f"cost {method}", "metric": metric, "value": value, "n": 1}
        for method, row in found.items()
        for metric, value in row.items()
        if value is not None and not math.isnan(value)
    ]


def read(path: Path) -> pd.DataFrame:
    """What `tsv` wrote, one row per method (the index)."""
    return pd.read_csv(path, sep="\t", index_col="method")


def tsv(found: Mapping[str, Row]) -> str:
    """One row per method, one column per cost, NA where it does not apply."""
    table = pd.DataFrame.from_dict(dict(found), orient="index").rename_axis("method")
    return table.to_csv(sep="\t", na_rep="NA", float_format="%.6g")


def cells(method: str, row: Row) -> list[str]:
    """The cells of a method's row, in the order of COLUMNS."""
    low, high = row["relative_low"], row["relative_high"]
    interval = "" if _missing(low) or _missing(high) else f" [{low:.3f}, {high:.3f}]"
    first = "" if _missing(row.get("first_stage")) else f" + {row['first_stage']:.3f}"
    trained, frozen = row["passes_trained"], row["passes_frozen"]
    text = {
        "relative": f"{row['relative']:.3f}{interval}{first}",
        "images_per_s": f"{row['images_per_s']:.0f}",
        "gflop": f"{row['gflop']:.3g}",
        "passes": f"{trained:g}" + (f" + {frozen:g}" if frozen else ""),
        "saved_mb": f"{row['saved_mb']:.0f}",
        "peak_mb": "–" if _missing(row["peak_mb"]) else f"{row['peak_mb']:.0f}",
        "parameters_trained": f"{(row['parameters_trained'] or 0) / 1e6:.2f}",
        "state_mb": f"{row['state_mb']:.1f}",
        "code_lines": f"{row['code_lines']:.0f}",
    }
    return [method, *(text[key] for key in COLUMNS)]


def markdown(found: Mapping[str, Row], config: CostBenchmark, device: str) -> str:
    """The table and how to read it."""
    lines = [["method", *COLUMNS.values()], ["---"] * (1 + len(COLUMNS))]
    lines += [cells(method, row) for method, row in found.items()]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n{about(config, device)}{before(found)}\n"


def about(config: CostBenchmark, device: str) -> str:
    """How the costs were measured."""
    return (
        f"One training step on random images of the stored size, on {device}. Time relative to "
        f"{config.relative_to}: median of {config.rounds} rounds in which the methods take turns, with its 95 % "
        "interval. GFLOP: forward and backward, 10⁹ operations, a multiply-add counted as two. Backbone passes: "
        "with gradient + without. Dictionaries are full. Reading images, and stages before pretraining, are not "
        "included."
    )


def before(found: Mapping[str, Row]) -> str:
    """Sentences on what methods need before their training; empty if nothing."""
    text = ""
    for method, row in found.items():
        if not _missing(row.get("before_s")):
            text += (
                f" Before its training, {method} needs proposals: {row['before_s']:,.0f} s of one core and "
                f"{row['before_mb']:.1f} MB, once for all runs on these images."
            )
        if not _missing(row.get("first_stage")):
            text += f" The number after the + is the training of the network that pairs boxes for {method}"
            text += "." if _missing(row.get("pairs_s")) else f"; the pairing took {row['pairs_s']:,.0f} s."
    return text


def with_first_stage(costs: pd.DataFrame) -> pd.Series:
    """Method -> the time of a step, with its share of the training of a first stage."""
    return costs.relative + (costs.first_stage.fillna(0) if "first_stage" in costs else 0)


def _missing(value: float | int | None) -> bool:
    return value is None or math.isnan(value)
