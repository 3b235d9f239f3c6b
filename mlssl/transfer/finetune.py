"""Finetuning of all layers of a model, the same for detection and segmentation: SGD on one or several ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlssl.runtime import distributed
from mlssl.runtime.batch_norm import synchronise
from mlssl.seeds import seed_of
from mlssl.study.settings import Detection, Segmentation
from mlssl.transfer.load import bar, batches, training_order

SGD_MOMENTUM = 0.9
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def finetune(
    model: nn.Module,
    example: Callable[[int], Any],
    losses: Callable[[nn.Module, Any], dict[str, Tensor]],
    learning_rate: Callable[[int], float],
    config: Detection | Segmentation,
    *,
    task: str,
    random: str,
    collate: Callable[[list[Any]], Any] | None = None,
    samples: np.ndarray | None = None,
    norm_weight_decay: float | None = None,
    seed: int,
    device: torch.device,
    progress: bool,
) -> None:
    """Train `model` in place for `config.iterations` batches of `config.batch_size` examples, over all ranks.

    `example(t)` reads the t-th training sample; `collate` makes a batch of several (torch's default if None).
    `samples`, int64 iterations x batch_size, has the samples of each batch (in order from 0 if None).
    `norm_weight_decay` is the weight decay of norm layers, if it differs from `config.weight_decay`.
    `losses(model, batch)` returns the loss terms of this rank's part of a batch, 0-d tensors whose sum is
    minimised; it calls the model that it is given, which averages the gradients over ranks. `learning_rate(i)` is
    that of iteration i, from 0. `task` is the section of the settings, which messages name. Before each iteration,
    torch's global random generator is seeded from `seed`, `task`, the iteration, the rank and `random`, which says
    what draws from it.

    Raises FloatingPointError, with the iteration and the loss terms, when the loss is not finite; on a GPU one
    iteration later.
    """
    if samples is None:
        samples = np.arange(config.iterations * config.batch_size).reshape(config.iterations, config.batch_size)
    order = training_order(samples)
    loader = batches(example, order, config.batch_size // distributed.count(), device, collate)
    optimiser = torch.optim.SGD(
        parameter_groups(model, norm_weight_decay),
        lr=config.lr,
        momentum=SGD_MOMENTUM,
        weight_decay=config.weight_decay,
    )
    model.train()
    wrapped = wrap_for_ranks(model, device)
    steps = bar(loader, task, progress)
    last: Sent | None = None
    for iteration, batch in enumerate(steps):
        torch.manual_seed(seed_of(seed, task, random, iteration) + distributed.own())
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(iteration)
        terms = losses(wrapped, batch)
        loss = sum(terms.values(), start=torch.zeros((), device=device))
        sent = Sent(loss, terms, iteration)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        # On a GPU the previous loss is read, which has arrived by now, so that no step waits for its own.
        due, last = (last, sent) if device.type == "cuda" else (sent, None)
        if due:
            steps.set_postfix(loss=f"{due.finite(task, config.lr):.2f}", refresh=False)
    if last:
        last.finite(task, config.lr)


def parameter_groups(model: nn.Module, norm_weight_decay: float | None) -> list[dict[str, Any]]:
    """The model's parameters for an optimiser; those of norm layers apart if they have their own weight decay."""
    if norm_weight_decay is None:
        return [{"params": list(model.parameters())}]
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    return [
        {"params": [p for p in model.parameters() if id(p) not in norms]},
        {"params": [p for p in model.parameters() if id(p) in norms], "weight_decay": norm_weight_decay},
    ]


class Sent:
    """Loss and loss terms of an iteration (0-d tensors), averaged over ranks, on their way to the host."""

    def __init__(self, loss: Tensor, terms: dict[str, Tensor], iteration: int) -> None:
        means = distributed.mean({"loss": loss.detach(), **terms})
        self.iteration, self.names = iteration, list(means)
        self._values = torch.stack([value.detach().float() for value in means.values()])
        self._arrived: torch.cuda.Event | None = None
        if self._values.is_cuda:
            self._values = torch.empty(len(means), pin_memory=True).copy_(self._values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def finite(self, task: str, lr: float) -> float:
        """The loss, once it is there; FloatingPointError if it is not finite."""
        if self._arrived is not None:
            self._arrived.synchronize()
        value, *terms = self._values.tolist()
        if not math.isfinite(value):
            parts = ", ".join(f"{name} {term:.4g}" for name, term in zip(self.names[1:], terms, strict=True))
            raise FloatingPointError(
                f"{task}: the loss is {value} at iteration {self.iteration} ({parts}); lower {task}.lr ({lr})"
            )
        return value


def wrap_for_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    """The model for distributed training: gradients are averaged over ranks, batch norm is synchronised."""
    if distributed.count() == 1:
        return model
    return distributed.averaged(synchronise(model, device))
