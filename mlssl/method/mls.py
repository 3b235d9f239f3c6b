"""MLS: multi-label self-supervised learning with scene images (Zhu, Fu, Wu, ICCV 2023, arXiv 2308.03286).

phi, f      backbone and projector; phi^m, f^m their momentum (key) copies
v1, v2      two views of each image of the batch (B images)
g1, z1      g1 = phi(v1) in R^d_g, z1 = f(g1) in R^d_z; g2, z2 the same of v2 by the key encoder
Q_g, Q_z    the dictionary: normalised g2 and z2 of the last D keys, always in the same order
y           pseudo-labels, the k entries of Q_g nearest to g1
p           logits z1 · Q_z^T: the entries of Q_z are the weights of D binary classifiers
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor, nn

from mlssl.method import losses, records
from mlssl.method import pseudo_labels as rules
from mlssl.method.forces import forces
from mlssl.method.pseudo_labels import Labels
from mlssl.method.records import LastStep
from mlssl.parts import search as searches
from mlssl.parts.backbone import channels
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import projector
from mlssl.parts.momentum import MomentumPair
from mlssl.parts.view import View
from mlssl.ranges import Cosine, Count, NotNegative, Positive, Probability

Loss = Literal["bce", "bce_pos", "knn_softmax", "bce_soft", "focal", "asymmetric", "positive_unlabelled"]


class MLS(nn.Module):
    """Multi-label classification of views against a dictionary, beside InfoNCE (eq. 10).

    Args:
        backbone: phi, giving a B x d_g x h x w map.
        k: positives per query.
        dictionary_size: D.
        dim: d_z.
        tau: temperature, shared by InfoNCE and the multi-label loss.
        momentum: of the key encoder.
        lam: lambda, the weight of the multi-label loss.
        loss: `bce` (eq. 9), `bce_pos` or `knn_softmax` (eq. 2), the rows of table 6; or one that tolerates wrong
            labels: `bce_soft`, `focal`, `asymmetric`, `positive_unlabelled`.
        normalise: by what the terms of the multi-label loss are divided (`losses.divisors`): `dictionary`, all by D
            (eq. 9); `balanced`, positives by k and negatives by D - k; `positives`, all by k.
        nce_until: InfoNCE trains for this share of the run; 0 leaves the multi-label loss alone (section 3.3).
        ml_from: the multi-label loss trains from this share of the run on (section 3.3, warm-up).
        labels_from, logits_from: `g` or `z`, the dictionary that gives labels and logits (table 7).
        rule: which candidates are labels: `top_k` (eq. 7), `threshold`, `quantile` or `mutual`.
        threshold: least cosine of a label, for the rule of that name.
        most: largest number of labels per query, for `threshold` and `quantile`.
        search: `exact`; `sample`, where a random part of the dictionary is searched and classified instead of
            all of it, another in each step; or `ivf`, approximate, by an inverted file.
        sample: entries of that part.
        hidden: width of the projector's hidden layer; 0 takes d_g.
        projector_batch_norm: batch norm in the projector; not in the paper.
    """

    REQUIRES = (
        "k <= dictionary_size",
        "ml_from <= nce_until",
        "normalise == 'dictionary' or loss != 'knn_softmax'",
        "normalise == 'dictionary' or loss != 'positive_unlabelled'",
    )

    def __init__(
        self,
        backbone: nn.Module,
        *,
        k: Count = 20,
        dictionary_size: Count = 4096,
        dim: Count = 256,
        tau: Positive = 0.2,
        momentum: Probability = 0.995,
        lam: NotNegative = 0.5,
        loss: Loss = "bce",
        normalise: Literal["dictionary", "balanced", "positives"] = "dictionary",
        nce_until: Probability = 1.0,
        ml_from: Probability = 0.0,
        labels_from: Literal["g", "z"] = "g",
        logits_from: Literal["g", "z"] = "z",
        rule: Literal["top_k", "threshold", "quantile", "mutual"] = "top_k",
        threshold: Cosine = 0.9,
        most: Count = 100,
        search: Literal["exact", "sample", "ivf"] = "exact",
        sample: Count = 4096,
        hidden: NonNegativeInt = 0,
        projector_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        d_g = channels(backbone)
        f = projector(d_g, dim, hidden=hidden, batch_norm=projector_batch_norm)
        self.encoders = MomentumPair(Encoder(backbone, f))
        self.dictionary = Dictionary(
            dictionary_size,
            {"g": (d_g, torch.float32), "z": (dim, torch.float32)}
            | {"image": (1, torch.int64), "box": (4, torch.int64), "flip": (1, torch.bool)},
        )
        self.k, self.tau, self.momentum, self.lam = k, tau, momentum, lam
        self.loss, self.normalise = loss, normalise
        self.nce_until, self.ml_from = nce_until, ml_from
        self.labels_from, self.logits_from = labels_from, logits_from
        self.rule, self.threshold, self.most = rule, threshold, most
        self.search, self.sample = search, sample
        self.inverted_file = searches.InvertedFile(dictionary_size) if search == "ivf" else None
        self._last: LastStep | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts and diagnostics without.

        `progress` is the share of the run that is done, in [0, 1).
        """
        g1, z1 = self.encoders.query(view1.pixels)
        query = {"g": F.normalize(g1.float(), dim=1), "z": F.normalize(z1.float(), dim=1)}

        self.encoders.update(self.momentum)
        with torch.no_grad():
            g2, z2 = self.encoders.key(view2.pixels)
            g2, z2 = F.normalize(g2.float(), dim=1), F.normalize(z2.float(), dim=1)

        nce = 1.0 if progress < self.nce_until else 0.0
        lam = self.lam if progress >= self.ml_from else 0.0
        entries = self.dictionary.read()
        q_z = entries["z"]
        p = query["z"] @ q_z.T  # eq. 8
        l_nce = losses.info_nce(query["z"], z2, p, self.tau)
        l_ml, positives = torch.zeros_like(l_nce), torch.zeros_like(l_nce)
        if len(self.dictionary):  # not at the very first step: nothing to be a label yet
            if self.logits_from == "g":
                p = query["g"] @ entries["g"].T
            if self.search == "sample":
                rows = searches.sampled_slots(len(self.dictionary), self.sample)
                entries, p = {name: column[rows] for name, column in entries.items()}, p[:, rows]
            y = self.pseudo_labels(query[self.labels_from].detach(), entries[self.labels_from])
            by = losses.divisors(y, p.shape[1], self.normalise)
            l_ml = losses.MULTI_LABEL[self.loss](p, y, self.tau, by)
            positives = y.positive.sum(dim=1).float().mean()
            self._last = LastStep(view1, y, entries, query["z"].detach(), z2, q_z, lam)
        loss = nce * l_nce + lam * l_ml  # eq. 10

        self.dictionary.enqueue(g=g2, z=z2, image=view2.image[:, None], box=view2.box, flip=view2.flip[:, None])
        return {"loss": loss, "info_nce": l_nce.detach(), self.loss: l_ml.detach(), "positives": positives}

    @torch.no_grad()
    def pseudo_labels(self, queries: Tensor, entries: Tensor) -> Labels:
        """Eq. 7, or another rule: which of the D entries (D x d) are positives of each query (B x d)."""
        bounded = self.rule in ("threshold", "quantile")
        candidates = self.most if bounded else self.k
        if self.inverted_file is None:
            found = searches.exact(queries, entries, candidates)
        else:
            self.inverted_file.update(entries, self.dictionary.written)
            found = self.inverted_file.nearest(queries, entries, candidates)
        if self.rule == "threshold":
            return rules.threshold(*found, self.threshold)
        if self.rule == "quantile":
            return rules.quantile(*found, self.k)
        if self.rule == "mutual":
            return rules.mutual(*found, entries)
        return rules.top_k(*found)

    def label_record(self) -> dict[str, Tensor]:
        """The last step's pseudo-labels with their crops (`records.label_record`), {} before there are any.

        To be called before the next step.
        """
        return records.label_record(self._last) if self._last else {}

    def diagnostics(self) -> dict[str, Tensor]:
        """The gradients of the last step's losses at z1 (`forces.forces`), for the log; {} before there are labels.

        To be called before the next step. {} also if the logits come from the backbone, where no loss acts on z1.
        """
        if self._last is None or self.logits_from == "g":
            return {}
        _, y, entries, z1, z2, q_z, lam = self._last
        by = losses.divisors(y, len(entries["z"]), self.normalise)
        return forces(
            lambda z: losses.info_nce(z, z2, z @ q_z.T, self.tau),
            lambda z, labels: lam * losses.MULTI_LABEL[self.loss](z @ entries["z"].T, labels, self.tau, by),
            z1,
            y,
        )
