"""How strongly each loss pulls at the query embedding: norms of gradients, for the training log."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mlssl.method.pseudo_labels import Labels


def gradient(loss: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Gradient B x d of `loss(z)`, a mean over the batch, at unit vectors z (B x d), times B.

    Without the component along z: z is L2-normalised, so that component changes nothing.
    """
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        (found,) = torch.autograd.grad(loss(at), at)
    return len(z) * (found - (found * z).sum(dim=1, keepdim=True) * z)


def forces(
    info_nce: Callable[[Tensor], Tensor], multi_label: Callable[[Tensor, Labels], Tensor], z: Tensor, y: Labels
) -> dict[str, Tensor]:
    """Gradients per query at z (B x d) of both losses; scalars on z's device, means over the batch.

    `info_nce(z)` is InfoNCE, `multi_label(z, y)` the multi-label loss times its weight. The label-dependent part of
    the multi-label gradient is what is left after subtracting the gradient without any label. With eq. 9 it is
    -lambda / (tau D) times the sum of the k positives. The rest, lambda / (tau D) times the sum of
    sigmoid(p / tau) q over the dictionary, does not depend on the labels.

    Keys: `grad_info_nce`, `grad_multi_label` and `grad_labels` are L2 norms, `cos_labels` is the cosine of the
    label-dependent part and InfoNCE's gradient, 0 where one is 0.
    """
    none = y._replace(positive=torch.zeros_like(y.positive))
    nce = gradient(info_nce, z)
    both = gradient(lambda at: multi_label(at, y), z)
    labels = both - gradient(lambda at: multi_label(at, none), z)
    norms = {"grad_info_nce": nce, "grad_multi_label": both, "grad_labels": labels}
    cosine = F.cosine_similarity(labels, nce, dim=1).mean()
    return {name: value.norm(dim=1).mean() for name, value in norms.items()} | {"cos_labels": cosine}
