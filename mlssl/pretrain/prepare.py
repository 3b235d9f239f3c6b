"""What a run trains, before its first step: settings, images, boxes, method and the state to resume from."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlssl.data.loader import Steps
from mlssl.data.pairs import PairFile, read_pairs_about
from mlssl.data.placement import Place
from mlssl.data.proposals import ProposalFile
from mlssl.data.store import ImageStore
from mlssl.errors import ConfigError, DataError
from mlssl.pretrain import memory
from mlssl.pretrain.build import build_method, build_optimizer, build_scaler
from mlssl.pretrain.labels import image_labels
from mlssl.pretrain.run.folder import RunFolder, RunWriter, segment
from mlssl.pretrain.training import Training
from mlssl.runtime import distributed
from mlssl.runtime.device import facts
from mlssl.runtime.precision import effective
from mlssl.study.code import stage_code
from mlssl.study.fingerprint import content_id
from mlssl.study.identity import proposals_file, weights_id
from mlssl.study.methods import check_views, is_supervised, resolve
from mlssl.study.settings import Pretrain
from mlssl.study.sources import CACHE, by_content


@dataclass
class Run:
    """What the ranks of a run train; each has its own."""

    name: str
    config: Pretrain
    folder: RunFolder
    store: ImageStore
    device: torch.device
    total: int
    """Optimiser steps of the run; 0 without a method."""
    method: nn.Module
    backbone: nn.Module
    """The part of the method to export."""
    training: Training
    trained_before: bool
    """Whether the state that was loaded is that of the last step."""
    views: Steps
    place: Place
    """Where the store's pixels are."""
    placement: str
    """The same for people, with the reason."""
    notes: dict[str, Any]
    """What the result says about the start of the run."""


def prepare(
    config: Pretrain,
    store_path: Path,
    folder: RunFolder,
    writer: RunWriter | None,
    *,
    device: torch.device,
    changed_code: bool,
    at_most: Place = "device",
) -> Run:
    """Build the method, resume from the newest state, and move the images to their place in memory.

    With `at_most` mapped, the images stay out of GPU memory.

    Raises ConfigError and DataError for settings, images or a state that do not fit together, before anything is
    written.
    """
    store, name = ImageStore(store_path), folder.about["run"]
    if store.images_id != config.data.images_id:
        raise DataError(
            f"{store_path}: was built from other images ({store.images_id}) than those of this run "
            f"({config.data.images_id}); move the store away to rebuild it"
        )
    # A file that is gone is refused when it is read.
    if (found := initial_id(config)) not in ("-", config.init_id):
        raise ConfigError(
            f"init: {config.init}: has other contents ({found}) than those that name this run ({config.init_id}); "
            "restore the file, or call snakemake again, which gives the run another name"
        )
    if config.batch_size > len(store):
        raise ConfigError(
            f"pretrain.batch_size: {config.batch_size} is more than the {len(store)} training images; give less"
        )
    total = config.total_steps(len(store)) if config.target else 0
    if config.target and not total:
        raise ConfigError(f"epochs {config.epochs:g} of {len(store)} images are 0 optimiser steps; give more")
    part = distributed.part(config.batch_size)

    labels = image_labels(store, config.data) if config.supervised else None
    notes: dict[str, Any] = {}
    proposals, pairs = read_boxes(config, store, notes)
    if distributed.is_main():
        for boxes in filter(None, (proposals, pairs)):
            print(f"{name}: {boxes}", file=sys.stderr)
    method, backbone = build_method(config, device, labels, notes)
    if "init" in notes and distributed.is_main():
        print(f"{name}: starts from {config.init}: {notes['init']}", file=sys.stderr)
    images = "+".join([f"{store.crc32:08x}", *(f"{b.about['crc32']:08x}" for b in (proposals, pairs) if b)])
    precision, remark = effective(config.precision, device)
    if remark:
        notes["precision_remark"] = remark
        if distributed.is_main():
            print(f"{name}: {remark}", file=sys.stderr)
    present = segment(0, stage_code("pretrain", config.target), device=facts(device)["device"], precision=precision)
    training = Training(
        method,
        build_optimizer(config, method),
        images=images,
        segments=[present],
        scaler=build_scaler(config, device),
    )
    newest = folder.load_state(images=images, present=present, total=total, changed_code=changed_code)
    if newest:
        training.restore(newest.values, device)
    distributed.wait_for_all()  # the first rank changes the folder only after all have read it
    if writer:
        writer.begin(newest)
    trained_before = newest is not None and training.step == total
    if trained_before and distributed.is_main():
        print(f"{name}: has been trained; its outputs are written again from {folder.state}", file=sys.stderr)

    torch.backends.cudnn.benchmark = device.type == "cuda"  # all steps have the same shapes
    needed = memory.training_bytes(config, method, backbone, precision) if total and device.type == "cuda" else 0
    place, described = memory.put_images(store, device, training=needed, at_most=at_most)
    return Run(
        name=name,
        config=config,
        folder=folder,
        store=store,
        device=device,
        total=total,
        method=method,
        backbone=backbone,
        training=training,
        trained_before=trained_before,
        views=Steps(store, config, device, part, proposals, pairs),
        place=place,
        placement=described,
        notes=notes,
    )


def read_boxes(
    config: Pretrain, store: ImageStore, notes: dict[str, Any]
) -> tuple[ProposalFile | None, PairFile | None]:
    """The boxes that the method trains on, if it does; `notes` receives what the result says of them."""
    if not config.takes_proposals:
        return None, None
    proposals = ProposalFile(proposals_file(config.proposals, store.path), store, config.proposals)
    notes["proposals"] = proposals.note()
    if not config.takes_pairs:
        return proposals, None
    if config.pairs_file is None:
        raise ConfigError("pretrain.pairs_file: pairs need it; give the file that `mlssl pairs` has written")
    pairs = PairFile(Path(config.pairs_file), config, proposals)
    notes["pairs"] = pairs.note()
    return proposals, pairs


def initial_id(config: Pretrain) -> str | None:
    """The identity of the initial weights, `-` if their file is gone; None for a random start."""
    if not config.init:
        return None
    content, _ = content_id(Path(config.init), CACHE)
    return content if content == "-" else weights_id(content, config.init_prefix, config.init_preprocessing)


def identified(config: Pretrain) -> Pretrain:
    """The settings with all parameters of the method, and the identities of images, initial weights and pairs.

    Missing identities are computed from the content.
    """
    check_views(config.target, len(config.each_view), "pretrain")
    init = config.init_id or initial_id(config)
    params = resolve(config.target, {}, config.params, config.method)
    supervised, pairs = is_supervised(config.target), config.pairs_id
    if pairs is None and config.pairs_file is not None and Path(config.pairs_file).exists():
        pairs = read_pairs_about(Path(config.pairs_file))["network"]
    data = by_content(config.data)
    return replace(config, data=data, init_id=init, pairs_id=pairs, params=params, supervised=supervised)
