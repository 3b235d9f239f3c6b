"""Trace the project's own steps on a GPU that is not there.

    python tests/cuda/test_cuda_traces.py [NAME ...]      prints a table

This file is executed with the libraries of `runtime` and prints JSON.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from ghost import GhostCuda, Trace, ghost_cuda
from torch.utils._python_dispatch import _disable_current_modes

from mlssl.data.loader import Ahead, Steps
from mlssl.data.pairs import PairFile
from mlssl.data.proposals import ProposalFile
from mlssl.data.store import ImageStore
from mlssl.parts.backbone import create_backbone
from mlssl.pretrain.build import build_method, build_optimizer, build_scaler, prepare_method
from mlssl.pretrain.memory import training_bytes
from mlssl.pretrain.step import step
from mlssl.pretrain.training import Training
from mlssl.study.settings import Data, Detection, Pairs, Pretrain, Segmentation, Views
from mlssl.transfer import finetune
from mlssl.transfer.detection.model import build_model as build_detector
from mlssl.transfer.detection.train import loss_terms as detection_losses
from mlssl.transfer.segmentation.model import build_model as build_segmenter
from mlssl.transfer.segmentation.train import loss_terms as segmentation_losses

CUDA = torch.device("cuda:0")
MLS, MOCO = "mlssl.method.mls.MLS", "baselines.moco_v2.MoCoV2"
DENSECL, SUPERVISED = "baselines.densecl.DenseCL", "baselines.supervised.Supervised"
KNN_MOCO, NNCLR, MSF = "baselines.knn_moco.KNNMoCo", "baselines.nnclr.NNCLR", "baselines.msf.MSF"
BYOL, SIMSIAM = "baselines.byol.BYOL", "baselines.simsiam.SimSiam"
PIXPRO, SELF_EMD = "baselines.pixpro.PixPro", "baselines.self_emd.SelfEMD"
PIXCONTRAST, RESIM = "baselines.pixcontrast.PixContrast", "baselines.resim.ReSim"
SOCO, SOCO_FPN = "baselines.soco.SoCo", "baselines.soco_fpn.SoCoFPN"
ORL = "baselines.orl.ORL"
WITHOUT_DICTIONARY = (SUPERVISED, BYOL, SIMSIAM, PIXPRO, PIXCONTRAST, SELF_EMD, SOCO, SOCO_FPN, ORL)
ORL_VIEWS = ({}, {}, *({"crop": 32, "region": r} for r in ("box", "moved_box", "pair", "pair_of_neighbour")))
BYOL_VIEWS = ({"blur_p": 1.0}, {"blur_p": 0.1, "solarise_p": 0.2, "overlap": 0.01})
BATCH, CROP = 256, 96
PHOTOS = [(480, 640), (640, 480), (427, 640), (640, 427)]
WARM_UP = 2
"""Steps before the traced one, which fill caches of constants."""


def facts(trace: Trace) -> dict[str, Any]:
    return {
        "waits": dict(trace.waits),
        "launches": sum(trace.launches.values()),
        "lines": dict(trace.lines.most_common(12)),
        "uploads": trace.uploads,
        "touched_mb": round(trace.touched / 1e6),
        "peak_mb": round(trace.peak / 1e6),
        "batch_norms": sorted(trace.batch_norms),
    }


def store_of(sizes: list[tuple[int, int]], place: str) -> ImageStore:
    """A store without files: zeros, in GPU memory (`device`) or in the page cache (`mapped`)."""
    store = ImageStore.__new__(ImageStore)
    store.sizes, store.names = torch.tensor(sizes), [str(i) for i in range(len(sizes))]
    store._ends = (store.sizes.prod(dim=1) * 3).cumsum(0).tolist()
    store._starts = [0, *store._ends[:-1]]
    device = CUDA if place == "device" else torch.device("cpu")
    store.pixels = torch.zeros(store._ends[-1], dtype=torch.uint8, device=device)
    return store


def boxes_of(store: ImageStore) -> tuple[ProposalFile, PairFile]:
    """One box of each image, and the next image's as its only pair, without files."""
    n = len(store)
    boxes = ProposalFile.__new__(ProposalFile)
    boxes._boxes = torch.tensor([[16, 16, 80, 80]]).expand(n, 4)
    boxes._count, boxes._first = torch.ones(n, dtype=torch.int64), torch.arange(n)
    pairs = PairFile.__new__(PairFile)
    pairs.proposals = boxes
    pairs._neighbours, pairs._first = (torch.arange(n)[:, None] + 1) % n, torch.arange(n)[:, None]
    pairs._count, pairs._rows = torch.ones(n, 1, dtype=torch.int64), torch.zeros(n, 2, dtype=torch.int64)
    return boxes, pairs


def pretraining(
    mode: GhostCuda,
    target: str,
    *,
    sizes: list[tuple[int, int]] | None = None,
    place: str = "device",
    backbone: str = "resnet18",
    crop: int = CROP,
    precision: str = "bf16",
    each_view: tuple[dict[str, Any], ...] = ({}, {}),
    on_pairs: bool = False,
    **params: Any,
) -> dict[str, Any]:
    """Views, step and weight check with a full dictionary, after some steps of warm-up."""
    supervised, has_dictionary = target == SUPERVISED, target not in WITHOUT_DICTIONARY
    params = {"dictionary_size": 4096, **params} if has_dictionary else params
    config = Pretrain(
        Data("x"),
        method="m",
        target=target,
        supervised=supervised,
        backbone=backbone,
        batch_size=BATCH,
        views=Views(crop=crop),
        each_view=each_view,
        pairs=Pairs("m") if on_pairs else None,
        params=params,
        precision=precision,
    )
    sizes = (sizes or [(128, 128)]) * (2 * BATCH // len(sizes or [1]))
    labels = torch.zeros(len(sizes), 80, dtype=torch.bool) if supervised else None
    estimate = estimated_mb(config, labels)
    module, _ = build_method(config, CUDA, labels)
    optimizer, scaler = build_optimizer(config, module), build_scaler(config, CUDA)
    training = Training(module, optimizer, images="", segments=[], scaler=scaler)
    method = prepare_method(config, module, CUDA)
    if has_dictionary:
        module.dictionary.set_extra_state({"written": module.dictionary.size})
    store = store_of(sizes, place)
    with _disable_current_modes():  # their tensors stay on the host
        boxes = boxes_of(store) if config.pairs else ()
    views = Steps(store, config, CUDA, slice(None), *boxes)
    before = mode.begin().peak
    outputs: list[torch.Tensor] = []
    module.get_submodule("encoders.query").register_forward_hook(lambda m, x, y: outputs.extend(y))
    for at in range(WARM_UP):
        step(method, training.optimizer, views[at % 2], at / 10, scaler)
    outputs.clear()
    traced = mode.begin()
    ahead = Ahead(views)
    ahead.prepare(1)
    pair = ahead[1]
    found = {"views": facts(traced)}
    traced = mode.begin()
    parts = step(method, training.optimizer, pair, 0.5, scaler)
    found["step"] = facts(traced)
    found["training_mb"] = {"needed": round((traced.peak - before) / 1e6), "estimated": estimate}
    traced = mode.begin()
    training.refuse_non_finite()
    found["check"] = facts(traced)
    kept = module.dictionary.read() if has_dictionary else {}
    found["dtypes"] = {
        "losses": sorted({str(x.dtype) for x in parts.values()}),
        "dictionary": sorted({str(x.dtype) for x in kept.values() if x.dtype.is_floating_point}),
        "outputs": [str(x.dtype) for x in outputs],
        "views": [str(pair[0].pixels.dtype), list(pair[0].pixels.stride())],
    }
    return found


def estimated_mb(config: Pretrain, labels: torch.Tensor | None) -> int:
    """What `mlssl.pretrain.memory` reserves for training, from a method on the CPU."""
    with _disable_current_modes():
        labels = None if labels is None else torch.zeros(labels.shape, dtype=torch.bool)
        return round(training_bytes(config, *build_method(config, torch.device("cpu"), labels), "bf16") / 1e6)


def finetuning(mode: GhostCuda, loss_terms: Any, model: torch.nn.Module, config: Any, batch: Any) -> dict[str, Any]:
    """The training steps of `transfer.finetune` on batches in pinned memory; the last one is traced."""
    iterations = WARM_UP + 1
    seen: list[torch.Tensor] = []

    def loader(*args: Any) -> Any:
        for at in range(iterations):
            if at == iterations - 1:
                mode.begin()
            yield pinned(batch)

    def losses(model: torch.nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        terms = loss_terms(model, batch, CUDA)
        seen.extend(terms.values())
        return terms

    before, finetune.batches = finetune.batches, loader
    try:
        finetune.finetune(
            model,
            lambda t: None,
            losses,
            lambda i: 0.01,
            config,
            task="segmentation",
            random="x",
            seed=0,
            device=CUDA,
            progress=False,
        )
    finally:
        finetune.batches = before
    return {"step": facts(mode.trace), "dtypes": {"losses": sorted({str(x.dtype) for x in seen})}}


def pinned(batch: Any) -> Any:
    """As DataLoader's `pin_memory` gives it."""
    return torch.utils._pytree.tree_map(lambda x: x.pin_memory() if isinstance(x, torch.Tensor) else x, batch)


def segmentation_step(mode: GhostCuda) -> dict[str, Any]:
    config = Segmentation(Data("x"), size=128, iterations=WARM_UP + 1, batch_size=4, head_channels=64)
    model = build_segmenter(create_backbone("resnet18", output_stride=8), config, 81)
    model.to(CUDA).to(memory_format=torch.channels_last)
    batch = [torch.zeros(4, 3, 128, 128, dtype=torch.uint8), torch.zeros(4, 128, 128, dtype=torch.uint8)]
    return finetuning(mode, partial(segmentation_losses, config=config), model, config, batch)


def detection_step(mode: GhostCuda) -> dict[str, Any]:
    sizes = SimpleNamespace(fpn_channels=64, box_head_channels=128, mask_head_layers=2)
    config = Detection(
        Data("x"),
        size=256,
        iterations=WARM_UP + 1,
        batch_size=2,
        proposals=100,
        rois_per_image=32,
        **vars(sizes),
    )
    model = build_detector(create_backbone("resnet18"), config, 80).to(CUDA)
    target = {
        "boxes": torch.tensor([[10.0, 10, 110, 110], [50, 60, 200, 200]]),
        "labels": torch.tensor([1, 2]),
        "masks": torch.zeros(2, 240, 320, dtype=torch.uint8),
    }
    batch = ([torch.zeros(3, 240, 320, dtype=torch.uint8)] * 2, [target] * 2)
    return finetuning(mode, detection_losses, model, config, batch)


TRACES = {
    "mls": lambda mode: pretraining(mode, MLS, k=20),
    "mls_mutual": lambda mode: pretraining(mode, MLS, k=20, rule="mutual"),
    "moco_v2": lambda mode: pretraining(mode, MOCO),
    "moco_v2_fp16": lambda mode: pretraining(mode, MOCO, precision="fp16"),
    "knn_moco": lambda mode: pretraining(mode, KNN_MOCO),
    "nnclr": lambda mode: pretraining(mode, NNCLR),
    "msf": lambda mode: pretraining(mode, MSF),
    "byol": lambda mode: pretraining(mode, BYOL),
    "simsiam": lambda mode: pretraining(mode, SIMSIAM),
    "pixpro": lambda mode: pretraining(mode, PIXPRO, each_view=BYOL_VIEWS),
    "pixcontrast": lambda mode: pretraining(mode, PIXCONTRAST, each_view=BYOL_VIEWS),
    "resim": lambda mode: pretraining(mode, RESIM),
    "soco": lambda mode: pretraining(mode, SOCO),
    "soco_fpn": lambda mode: pretraining(mode, SOCO_FPN, each_view=({}, {}, {"crop": CROP // 2})),
    "orl": lambda mode: pretraining(mode, ORL, each_view=ORL_VIEWS, on_pairs=True),
    "self_emd": lambda mode: pretraining(mode, SELF_EMD),
    "densecl": lambda mode: pretraining(mode, DENSECL),
    "supervised": lambda mode: pretraining(mode, SUPERVISED),
    "segmentation": segmentation_step,
    "detection": detection_step,
    "photos": lambda mode: pretraining(mode, MOCO, sizes=PHOTOS, place="mapped", crop=224, backbone="resnet50"),
}

if __name__ == "__main__":
    found = {}
    for name in sys.argv[1:]:
        with ghost_cuda() as mode:
            found[name] = TRACES[name](mode)
    print(json.dumps(found))
