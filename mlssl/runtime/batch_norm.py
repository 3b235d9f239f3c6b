"""Batch norm for several ranks: synchronised over the global batch, or with shuffled keys (MoCo)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from mlssl.runtime import distributed


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """Make all batch norms of the model compute their statistics over the batches of all ranks."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():  # torch's SyncBatchNorm needs a GPU
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = partial(synchronised, module)
    return model


def synchronised(bn: nn.Module, x: Tensor) -> Tensor:
    """Output of `bn` for this rank's part of a batch (B x C x …), with the statistics of all ranks."""
    if not bn.training:
        return type(bn).forward(bn, x)
    dims, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
    values = x if x.dtype == torch.float64 else x.float()
    here = values.new_tensor([x.numel() / x.shape[1]])
    *sums, n = distributed.total(torch.cat([values.sum(dims), here])).split([x.shape[1], 1])
    mean = sums[0] / n
    centred = values - mean.view(shape)
    variance = distributed.total(centred.square().sum(dims)) / n
    with torch.no_grad():
        bn.num_batches_tracked += 1
        bn.running_mean.lerp_(mean, bn.momentum)
        bn.running_var.lerp_(variance * n / (n - 1), bn.momentum)
    y = centred * (variance + bn.eps).rsqrt().view(shape)
    if bn.affine:
        y = y * bn.weight.view(shape) + bn.bias.view(shape)
    return y.to(x.dtype)


def shuffled(encode: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Wrap a key encoder's forward pass: shuffle the images over the ranks, and return the keys to their own rank.

    MoCo's shuffled batch norm (He et al. 2020, arXiv 1911.05722, section 3.3): a query and its key are
    normalised in different batches, so that the statistics do not reveal the positive key. The order is drawn from
    torch's global CPU generator, which has the same state on every rank.
    """

    def shuffle(pixels: Tensor) -> tuple[Tensor, ...]:
        everyone = distributed.gather(pixels)
        order, mine = torch.randperm(len(everyone)), distributed.part(len(everyone))
        keys = encode(everyone[order[mine].to(pixels.device)])
        back = order.argsort()[mine].to(pixels.device)
        return tuple(distributed.gather(key)[back] for key in keys)

    return shuffle
