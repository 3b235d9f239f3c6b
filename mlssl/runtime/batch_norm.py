"""Batch norm for several ranks: synchronised over the global batch, or with shuffled keys (MoCo)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlssl.runtime import distributed


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace all batch norms by ones that compute their statistics over the batches of all ranks.

    Parameters and buffers, and their names, stay the same. Returns the model, changed in place; if it is itself a
    batch norm, its replacement.
    """
    if device.type == "cuda":
        return convert_sync_batchnorm(model)  # timm's, because torch's drops the activation of BatchNormAct2d
    if isinstance(model, _BatchNorm):
        return CpuSyncBatchNorm(model)
    for name, child in model.named_children():
        setattr(model, name, synchronise(child, device))
    return model


class CpuSyncBatchNorm(nn.Module):
    """Replaces a batch norm on a CPU, where torch's SyncBatchNorm does not work; shares its parameters and buffers.

    The input is this rank's part of a batch, B x C x …. timm's BatchNormAct2d keeps its dropout and activation.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, bn: _BatchNorm) -> None:
        super().__init__()
        assert bn.track_running_stats
        assert bn.momentum is not None
        self.eps, self.momentum = bn.eps, bn.momentum
        self.weight, self.bias = bn.weight, bn.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, bn.get_buffer(name))
        self.drop, self.act = getattr(bn, "drop", nn.Identity()), getattr(bn, "act", nn.Identity())
        self.training = bn.training

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            y = self._normalised(x)
        else:
            y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return self.act(self.drop(y))

    def _normalised(self, x: Tensor) -> Tensor:
        """`x` normalised with the statistics of all ranks; updates the running ones."""
        dims, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        values = x if x.dtype == torch.float64 else x.float()
        here = values.new_tensor([x.numel() / x.shape[1]])
        sums, n = distributed.total(torch.cat([values.sum(dims), here])).split([x.shape[1], 1])
        mean = sums / n
        centred = values - mean.view(shape)
        variance = distributed.total(centred.square().sum(dims)) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)


def shuffle_over_ranks(encoder: nn.Module) -> None:
    """Let a key encoder shuffle the images over the ranks before its forward pass, and return the keys in order.

    MoCo's shuffled batch norm (He et al. 2020, arXiv 1911.05722, section 3.3): a query and its key are
    normalised in different batches, so that the statistics do not reveal the positive key. The order is drawn from
    torch's global CPU generator, which has the same state on every rank. The encoder takes the images of this rank,
    B x C x H x W, and returns a tuple of tensors, B x … each; both are changed by forward hooks.
    """
    shuffle = _Shuffle()
    encoder.register_forward_pre_hook(shuffle.images)
    encoder.register_forward_hook(shuffle.keys)


class _Shuffle:
    """The two hooks of `shuffle_over_ranks`, for one forward pass after the other."""

    def __init__(self) -> None:
        self._back = torch.empty(0)
        """Positions of this rank's keys among the shuffled keys of all ranks."""

    def images(self, encoder: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (images,) = inputs
        device = images.device
        if torch.is_autocast_enabled(device.type):  # the first layer would do it, after twice the bytes are sent
            images = images.to(torch.get_autocast_dtype(device.type))
        everyone = distributed.gather(images)
        order, part = torch.randperm(len(everyone)), distributed.part(len(everyone))
        mine = torch.stack([order[part], order.argsort()[part]])
        there, self._back = (mine.pin_memory() if device.type == "cuda" else mine).to(device, non_blocking=True)
        return (everyone[there],)

    def keys(self, encoder: nn.Module, inputs: tuple[Tensor], keys: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(distributed.gather(key)[self._back] for key in keys)
