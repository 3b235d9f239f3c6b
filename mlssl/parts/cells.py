"""Where the cells of a view's map lie in the image: positions in pixels of the stored image, flips included."""

from __future__ import annotations

import torch
from torch import Tensor

from mlssl.parts.view import View


def centres(view: View, side: int) -> Tensor:
    """The centres (x, y) of the cells of a `side` x `side` map, B x side² x 2, row by row.

    A flipped view's cells run from right to left.
    """
    place = (torch.arange(side, device=view.box.device) + 0.5) / side
    x, y, w, h = view.box[:, :, None].float().unbind(1)  # B x 1 each
    across = x + w * torch.where(view.flip[:, None], 1 - place, place)
    down = y + h * place
    return torch.stack(
        [across[:, None, :].expand(-1, side, -1), down[:, :, None].expand(-1, -1, side)], dim=3
    ).flatten(1, 2)


def cell_diagonal(view: View, side: int) -> Tensor:
    """Length of the diagonal of a cell, B."""
    return (view.box[:, 2:].float() / side).norm(dim=1)


def pairs_of(view1: View, view2: View, side: int, threshold: float) -> Tensor:
    """PixPro's A (arXiv 2011.10043, eq. 1), bool B x side² x side²: which cells of two views show the same place.

    Their distance in pixels of the image, over the larger cell diagonal of both views, is below `threshold`.
    """
    distance = torch.cdist(centres(view1, side), centres(view2, side), compute_mode="donot_use_mm_for_euclid_dist")
    diagonal = torch.maximum(cell_diagonal(view1, side), cell_diagonal(view2, side))
    return distance / diagonal[:, None, None] < threshold


def overlap_in(view: View, other: View) -> Tensor:
    """The rectangle that two views share, in `view`: B x 4, left, top, right, bottom as shares of its sides.

    In a flipped view, left is where it is seen. Where the views share nothing, right <= left or bottom <= top.
    """
    low, high = _corners(view)
    other_low, other_high = _corners(other)
    size = high - low
    start = (torch.maximum(low, other_low) - low) / size
    end = (torch.minimum(high, other_high) - low) / size
    left = torch.where(view.flip, 1 - end[:, 0], start[:, 0])
    right = torch.where(view.flip, 1 - start[:, 0], end[:, 0])
    return torch.stack([left, start[:, 1], right, end[:, 1]], dim=1)


def _corners(view: View) -> tuple[Tensor, Tensor]:
    box = view.box.float()
    return box[:, :2], box[:, :2] + box[:, 2:]
