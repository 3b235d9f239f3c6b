"""SlotCon: self-supervised learning with semantic grouping (Wen et al., NeurIPS 2022, arXiv 2205.15288).

z           projection of each cell of a view's map, R^dim; by the student (query) and the teacher (key encoder)
prototypes  K vectors, learned by the student and followed by the teacher
scores      cos(prototype, cell), K per cell
slot        mean of a view's cells, weighted by how much they belong to a prototype
active      a prototype that has the highest score of at least one cell of the view
centre      running mean of the teacher's scores, K
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from mlssl.parts.backbone import channels
from mlssl.parts.cells import overlap_in
from mlssl.parts.embeddings import gathered, mean_over_ranks, spread
from mlssl.parts.encoder import MapEncoder
from mlssl.parts.heads import mlp
from mlssl.parts.momentum import MomentumPair, ramp
from mlssl.parts.view import View
from mlssl.ranges import Count, Positive, Probability

FLOOR = 1e-6
"""Added to each weight of a cell in a slot, so that a slot without cells is their mean."""


def grouped(z: Tensor, prototypes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cells B x d x S x S and prototypes K x d -> scores B x K x S x S, slots B x K x d (eq. 1 and 4)."""
    scores = torch.einsum("kd,bdhw->bkhw", F.normalize(prototypes, dim=1), F.normalize(z, dim=1))
    attention = (scores / temperature).softmax(dim=1) + FLOOR
    attention = attention / attention.sum(dim=(2, 3), keepdim=True)
    return scores, torch.einsum("bkhw,bdhw->bkd", attention, z)


def aligned(scores: Tensor, view: View, other: View) -> tuple[Tensor, Tensor]:
    """The map over the rectangle that two views share, not flipped, as large as the map (RoIAlign).

    B x K x S x S -> the same, and bool B, whether there is such a rectangle.
    """
    side = scores.shape[-1]
    box = overlap_in(view, other) * side
    shared = (box[:, 2:] > box[:, :2]).all(dim=1)
    box = torch.where(shared[:, None], box, box.new_tensor([0, 0, side, side]))
    number = torch.arange(len(box), dtype=box.dtype, device=box.device)[:, None]
    there = roi_align(scores, torch.cat([number, box], dim=1), side, aligned=True)
    return torch.where(view.flip[:, None, None, None], there.flip(3), there), shared


def distillation(student: Tensor, teacher: Tensor, shared: Tensor) -> Tensor:
    """Cross entropy of a cell's groups, mean over the cells of the images with `shared` (bool B); 0 without any.

    Logits B x K x S x S, of student and teacher.
    """
    per_image = -(teacher.softmax(dim=1) * student.log_softmax(dim=1)).sum(dim=1).mean(dim=(1, 2))
    images = mean_over_ranks(shared.float().sum())
    return torch.where(shared, per_image, 0).sum() / torch.where(images > 0, images, 1)


def active(scores: Tensor) -> Tensor:
    """bool B x K: the prototypes that are the best of at least one cell."""
    best = scores.detach().flatten(2).argmax(dim=1)
    return F.one_hot(best, scores.shape[1]).amax(dim=1).bool()


class SlotCon(nn.Module):
    """Groups cells by prototypes alike in both views, and tells apart the slots that the groups make.

    Args:
        backbone: gives a B x d x S x S map.
        dim: of projections, prototypes and slots.
        prototypes: K.
        momentum: of the teacher at the start; it rises to 1 (`parts.momentum.ramp`).
        hidden: width of the two hidden layers of projector and predictor.
        tau: temperature of the slots' loss.
        student_tau, teacher_tau: temperatures of the groups; the teacher's is that of the slots' weights too.
        centre_momentum: of the centre.
        lam: weight of the groups' loss; 1 - lam is that of the slots'.
    """

    centre: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        dim: Count = 256,
        prototypes: Count = 256,
        momentum: Probability = 0.99,
        hidden: Count = 4096,
        tau: Positive = 0.2,
        student_tau: Positive = 0.1,
        teacher_tau: Positive = 0.07,
        centre_momentum: Probability = 0.9,
        lam: Probability = 0.5,
    ) -> None:
        super().__init__()
        head = initialised(mlp([channels(backbone), hidden, hidden, dim], of_cells=True, activation=nn.GELU))
        encoder = MapEncoder(backbone, head)
        encoder.register_parameter("prototypes", nn.Parameter(torch.randn(prototypes, dim)))
        self.encoders = MomentumPair(encoder)
        self.predictor = initialised(mlp([dim, hidden, hidden, dim], activation=nn.GELU))
        self.register_buffer("centre", torch.zeros(prototypes))
        self.momentum, self.tau, self.lam = momentum, tau, lam
        self.student_tau, self.teacher_tau, self.centre_momentum = student_tau, teacher_tau, centre_momentum
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        (z1,), (z2,) = self.encoders.query(view1.pixels), self.encoders.query(view2.pixels)
        student = [grouped(z, self.encoders.query.get_parameter("prototypes"), self.teacher_tau) for z in (z1, z2)]
        self.encoders.update(ramp(self.momentum, progress))
        with torch.no_grad():
            targets = [self.encoders.key(view.pixels)[0] for view in (view1, view2)]
            teacher = [grouped(z, self.encoders.key.get_parameter("prototypes"), self.teacher_tau) for z in targets]

        (q1, shared), (q2, _) = aligned(student[0][0], view1, view2), aligned(student[1][0], view2, view1)
        (k1, _), (k2, _) = aligned(teacher[0][0], view1, view2), aligned(teacher[1][0], view2, view1)
        q1, q2 = q1 / self.student_tau, q2 / self.student_tau
        k1, k2 = ((k - self.centre[:, None, None]) / self.teacher_tau for k in (k1, k2))
        groups = distillation(q1, k2, shared) + distillation(q2, k1, shared)
        slots = self._told_apart(student[0], teacher[1]) + self._told_apart(student[1], teacher[0])
        loss = self.lam * groups + (1 - self.lam) * slots

        # After the loss, which is of the centre of the steps before.
        mean = torch.stack([scores.mean(dim=(0, 2, 3)) for scores, _ in teacher]).mean(dim=0)
        self.centre.lerp_(mean_over_ranks(mean), 1 - self.centre_momentum)
        self._last = z1.detach().mean(dim=(2, 3))
        return {
            "loss": loss,
            "groups": groups.detach(),
            "slots": slots.detach(),
            "active": active(student[0][0]).float().sum(dim=1).mean(),
        }

    def _told_apart(self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
        """2 tau InfoNCE of slots active in both views, against all active ones of the teacher, of all ranks.

        Waits for the device, because the number of slots depends on the scores.
        """
        (scores, q), (teacher_scores, k) = student, teacher
        candidate = active(teacher_scores)
        query = (active(scores) & candidate).flatten()
        keys, own = gathered(F.normalize(k, dim=2).flatten(0, 1))
        kept, _ = gathered(candidate.flatten())
        if gathered(query)[0].sum() < 2:  # too few for a batch norm; the same on all ranks
            return sum((p.sum() * 0 for p in self.predictor.parameters()), torch.zeros_like(scores[0, 0, 0, 0]))
        p = F.normalize(self.predictor(q.flatten(0, 1)[query]), dim=1)
        label = (kept.cumsum(0) - 1)[own][query]
        total = F.cross_entropy(p @ keys[kept].T / self.tau, label, reduction="sum")
        return 2 * self.tau * total / mean_over_ranks(query.float().sum())

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1, mean over cells (`parts.embeddings.spread`)."""
        return {"spread": spread(self._last)} if self._last is not None else {}


def initialised(head: nn.Sequential) -> nn.Sequential:
    """The head with weights from a normal distribution of standard deviation 0.02, and biases of 0."""
    for layer in head:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return head
