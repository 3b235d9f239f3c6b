"""What a training step of each method costs: time in turns on one machine, operations, memory, parameters, code."""

from __future__ import annotations

import ast
import io
import math
import statistics
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from mlssl.cost.speed import Trainer
from mlssl.data.pairs import read_pairs_about
from mlssl.data.proposals import read_about
from mlssl.parts.dictionary import Dictionary
from mlssl.study.code import does_nothing, source_files
from mlssl.study.identity import proposals_file
from mlssl.study.settings import CostBenchmark, Pretrain
from mlssl.study.study import Study

Row = dict[str, float | int | None]
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
"""Types of tokens that are no code."""
LEVEL = 0.95
"""Confidence of the intervals of step times."""


class Passes(NamedTuple):
    """Images that went through a backbone in one step, divided by the batch."""

    trained: float
    """With gradient."""
    frozen: float
    """Without: key and target encoders."""


def benchmark_study(study: Study, config: CostBenchmark, device: torch.device) -> dict[str, Row]:
    """Method -> its costs, of the compared methods that train, with what they need before (see `benchmark`)."""
    configs = {method: run.config for method, run in study.costed.items()}
    for first in study.first_stages.values():
        configs.setdefault(study.runs[first].config.method, study.runs[first].config)
    rows = benchmark(configs, config, device)
    for method, run in study.costed.items():
        boxes = proposals_file(run.config.proposals, study.store)
        if run.config.takes_proposals and boxes.exists():
            found = read_about(boxes)
            rows[method] |= {"before_s": found["core_seconds"], "before_mb": boxes.stat().st_size / 1e6}
        if run.first_stage:
            before = study.runs[run.first_stage].config
            share = share_of_steps(before, run.config)
            rows[method]["first_stage"] = share * (rows[before.method]["relative"] or 0)
        if run.config.pairs_file and Path(run.config.pairs_file).exists():
            rows[method]["pairs_s"] = read_pairs_about(Path(run.config.pairs_file))["seconds"]
    return rows


def benchmark(configs: Mapping[str, Pretrain], config: CostBenchmark, device: torch.device) -> dict[str, Row]:
    """Method -> its costs; the methods take turns, so that a slow phase of the machine affects all.

    `step_s` seconds per step, median; `images_per_s`; `relative`, `relative_low`, `relative_high` the step's time
    divided by that of `config.relative_to` in the same round, median and its 95 % interval; `gflop` floating point
    operations per image, forward and backward, in 1e9 (a multiply-add is two); `passes_trained`, `passes_frozen`;
    `saved_mb` tensors kept for the backward pass, without parameters, MB; `peak_mb` of the GPU, MB, None on a CPU;
    `parameters_trained` and `parameters_exported` (those of the backbone); `state_mb` parameters, buffers and
    dictionaries, MB; `code_lines` of the method's own module. `benchmark_study` adds what methods need before:
    `before_s` and `before_mb` of proposals and `pairs_s` of pairs, from their files, and `first_stage`, the cost of
    the training whose network pairs boxes, in the unit of `relative` for each step of the method.
    """
    trainers: dict[str, Trainer] = {}
    rows: dict[str, Row] = {}
    for name, own in tqdm(configs.items(), desc="operations and memory", unit="method"):
        trainer = trainers[name] = Trainer(own, device)
        fill_dictionaries(trainer.module)
        trainer.step()  # allocates momentum and chooses kernels
        rows[name] = counts(trainer, own)
    taken: dict[str, list[float]] = {name: [] for name in configs}
    for _ in tqdm(range(config.rounds), desc="time", unit="round"):
        for name, trainer in trainers.items():
            trainer.step()  # brings its weights back into the caches
            taken[name].append(statistics.fmean(trainer.seconds() for _ in range(config.steps)))
    for name, seconds in taken.items():
        ratios = [mine / base for mine, base in zip(seconds, taken[config.relative_to], strict=True)]
        low, high = median_interval(ratios)
        step_s = statistics.median(seconds)
        rows[name] |= {
            "step_s": step_s,
            "images_per_s": trainers[name].batch / step_s,
            "relative": statistics.median(ratios),
            "relative_low": low,
            "relative_high": high,
        }
    return rows


def share_of_steps(first: Pretrain, config: Pretrain) -> float:
    """The steps of a first stage for each step of the run that follows; NaN if their lengths have two units."""
    if first.steps is not None and config.steps is not None:
        return first.steps / config.steps
    if first.epochs is not None and config.epochs is not None:
        return first.epochs * config.batch_size / (config.epochs * first.batch_size)
    return math.nan


def counts(trainer: Trainer, config: Pretrain) -> Row:
    """All costs of a method that are counted and not timed."""
    module, backbone, device = trainer.module, trainer.backbone, trainer.device
    with FlopCounterMode(display=False) as flops:
        passes = count_passes(trainer)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    saved = saved_bytes(trainer)
    trained = {id(p): p.numel() for p in module.parameters() if p.requires_grad}
    assert config.target is not None
    return {
        "gflop": flops.get_total_flops() / trainer.batch / 1e9,
        "passes_trained": passes.trained,
        "passes_frozen": passes.frozen,
        "saved_mb": saved / 1e6,
        "peak_mb": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
        "parameters_trained": sum(trained.values()),
        "parameters_exported": sum(p.numel() for p in backbone.parameters()),
        "state_mb": sum(x.numel() * x.element_size() for x in [*module.parameters(), *module.buffers()]) / 1e6,
        "code_lines": code_lines(module_file(config.target)),
    }


def fill_dictionaries(module: nn.Module) -> None:
    """Declare all entries of the method's dictionaries as written, so that searches and losses have full size."""
    for part in module.modules():
        if isinstance(part, Dictionary):
            part.set_extra_state({"written": part.size})


def count_passes(trainer: Trainer) -> Passes:
    """Count, in one step, the images that reach the first convolution of a backbone, query or key."""
    seen = {True: 0, False: 0}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[output.requires_grad] += len(output)

    kind = type(trainer.backbone)
    firsts = [
        next(layer for layer in part.modules() if isinstance(layer, nn.Conv2d))
        for part in trainer.module.modules()
        if type(part) is kind
    ]
    handles = [first.register_forward_hook(count) for first in firsts]
    try:
        trainer.step()
    finally:
        for handle in handles:
            handle.remove()
    return Passes(seen[True] / trainer.batch, seen[False] / trainer.batch)


def saved_bytes(trainer: Trainer) -> int:
    """Bytes of the tensors that one step keeps for its backward pass, each storage once, without parameters."""
    known = {p.untyped_storage().data_ptr() for p in trainer.module.parameters()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        trainer.step()
    return sum(kept.values())


def module_file(target: str) -> Path:
    """The source file of a method, given by the dotted path of its class."""
    module = target.rpartition(".")[0]
    return source_files(module)[module]


def code_lines(file: Path) -> int:
    """Number of lines of a source file that have code: no comments, docstrings and blank lines."""
    text = file.read_text(encoding="utf-8")
    nothing = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and does_nothing(node)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {
        line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - nothing)


def median_interval(values: list[float], level: float = LEVEL) -> tuple[float, float]:
    """Interval of the median from order statistics, at least at `level`; NaN for fewer values than that needs.

    The number of values below the median is binomial with p = 1/2 (Conover, Practical Nonparametric Statistics,
    section 3.2).
    """
    n = len(values)
    below = int(binom.ppf((1 - level) / 2, n, 0.5))
    if below < 1:
        return math.nan, math.nan
    ordered = sorted(values)
    return ordered[below - 1], ordered[n - below]
