"""What figures and the page call methods, axes, levels and losses: the field's words for the names in a study file.

A name without an entry, such as that of one's own method, is not changed.
"""

from __future__ import annotations

import re

METHODS = {
    "mls": "MLS",
    "moco_v2": "MoCo-v2",
    "densecl": "DenseCL",
    "knn_moco": "kNN-MoCo",
    "nnclr": "NNCLR",
    "msf": "MSF",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "pixpro": "PixPro",
    "self_emd": "Self-EMD",
    "slotcon": "SlotCon",
    "pixcontrast": "PixContrast",
    "resim": "ReSim",
    "soco": "SoCo-C4",
    "soco_fpn": "SoCo-FPN",
    "soco_random_boxes": "SoCo's loss, random boxes",
    "soco_fpn_random_boxes": "SoCo-FPN's loss, random boxes",
    "orl": "ORL",
    "knn_moco_others": "kNN-MoCo, denominator of others",
    "mls_balanced": "MLS, balanced",
    "mls_knn_softmax": "MLS, kNN softmax",
    "mls_bce_pos": "MLS, BCE⁺",
    "random": "untrained",
    "colour_histogram": "colour histogram",
}
AXES = {
    "k": "K",
    "lam": "λ",
    "dictionary_size": "dictionary size",
    "rule": "pseudo-label rule",
    "label_noise": "noise-tolerant loss",
    "normalise": "normalisation",
    "loss_at_equal_force": "loss at equal label gradient",
    "k_at_force": "K, balanced loss",
    "lam_at_force": "λ, balanced loss",
    "k_by_dictionary_size_at_force": "K for each dictionary size, balanced loss",
    "lam_bce_pos": "λ, BCE⁺",
    "lam_knn_softmax": "λ, kNN softmax",
}
LEVELS = {
    "infonce": "InfoNCE",
    "infonce+knn_softmax": "InfoNCE + kNN softmax",
    "infonce+bce_pos": "InfoNCE + BCE⁺",
    "infonce+bce": "InfoNCE + BCE",
    "bce alone": "BCE alone",
    "infonce, then bce": "InfoNCE, then BCE",
    "bce": "BCE",
    "bce_soft": "BCE, soft labels",
    "positive_unlabelled": "positive-unlabelled",
    "q_g_only": "$Q_g$ only",
    "q_z_only": "$Q_z$ only",
    "q_g_and_q_z": "$Q_g$ and $Q_z$",
    "top_k": "top K",
}
LOSSES = {
    "loss": "total loss",
    "info_nce": "InfoNCE",
    "bce": "multi-label BCE",
    "bce_pos": "multi-label BCE⁺ (positives only)",
    "knn_softmax": "kNN softmax",
    "dense": "dense InfoNCE",
    "classification": "classification (with labels)",
    "neighbour_contrast": "InfoNCE with neighbours",
    "neighbour_cosine": "cosine to neighbours",
    "mean_shift": "mean shift",
}
"""Terms in a run's log."""
TERMS = METHODS | AXES | LEVELS
NAME = re.compile(
    "|".join(rf"(?<![\w+]){re.escape(name)}(?![\w+])" for name in sorted(TERMS, key=len, reverse=True))
)


def in_words(name: str) -> str:
    """A method, axis or level."""
    return TERMS.get(name, name)


def loss_in_words(name: str) -> str:
    """A term of a loss in a run's log."""
    return LOSSES.get(name, name.replace("_", " "))


def label_in_words(label: str) -> str:
    """A label that is made of names: `mls − moco_v2`."""
    return NAME.sub(lambda found: TERMS[found[0]], label)


def plain(text: str) -> str:
    """Without the signs of formulas, for text that is not drawn: `$Q_g$ only` becomes `Q_g only`."""
    return text.replace("$", "")
