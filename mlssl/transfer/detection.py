"""Object detection and instance segmentation: Mask R-CNN with an FPN, built from torchvision's modules."""

from __future__ import annotations

import contextlib
import io
import math
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from mlssl.data.augment.parameters import MEAN, STD
from mlssl.data.coco import Split
from mlssl.errors import MissingLabels
from mlssl.parts.backbone import stage_maps
from mlssl.results import METRICS_LEFT_OUT
from mlssl.runtime import distributed
from mlssl.seeds import seed_of
from mlssl.study.settings import Detection
from mlssl.transfer import needs
from mlssl.transfer.finetune import finetune
from mlssl.transfer.load import (
    autocast,
    bar,
    batches,
    draw,
    evaluation_order,
    image_tensor,
    load_backbone,
    private_rng,
    read_splits,
)
from mlssl.transfer.needs import boxes as missing

METRICS = ("AP", "AP50", "AP75")
"""The first three of COCOeval's summary, in its order."""
COCO_SIZE = 800
"""Short side, in pixels, for which COCO's anchor sizes are designed."""
MAX_AREA = 1e9
"""Below COCOeval's limit of 1e10 square pixels, from which on it ignores an object."""
SCORE_THRESHOLD = 0.05
DETECTIONS_PER_IMAGE = 100


class Pyramid(nn.Module):
    """The backbone's four stages and an FPN: five maps of `out_channels` channels, highest resolution first."""

    def __init__(self, backbone: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = out_channels
        # Batch norm in the FPN as in MoCo's COCO recipe, which MLS and its peers use.
        self.fpn = FeaturePyramidNetwork(
            _stage_channels(backbone), out_channels, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        # Only this part runs in bfloat16 (on a GPU), which cannot represent box coordinates to the pixel.
        with autocast(images.device):
            maps = stage_maps(self.backbone, images.contiguous(memory_format=torch.channels_last))
            pyramid = self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps)))
        return OrderedDict((name, m.float()) for name, m in pyramid.items())


def _stage_channels(backbone: nn.Module) -> list[int]:
    was_training = backbone.training
    with torch.no_grad():
        channels = [m.shape[1] for m in stage_maps(backbone.eval(), torch.zeros(1, 3, 64, 64))]
    backbone.train(was_training)
    return channels


def build_model(backbone: nn.Module, config: Detection, categories: int, *, masks: bool = True) -> MaskRCNN:
    """Mask R-CNN (arXiv 1703.06870) with FPN (arXiv 1612.03144); class 0 is background.

    Without `masks` it has no mask head, which is Faster R-CNN (arXiv 1506.01497).

    Anchors are COCO's for a short side of 800 pixels, scaled with the square root of `config.size`: in small
    images objects shrink but the strides of the maps do not, so the maps would be too coarse to separate
    anchors that shrink as much as the objects.
    """
    zoom = math.sqrt(config.size / COCO_SIZE)
    channels, classes = config.fpn_channels, 1 + categories
    levels = ["0", "1", "2", "3"]
    align = partial(MultiScaleRoIAlign, levels, sampling_ratio=2)
    model = MaskRCNN(
        Pyramid(backbone, channels),
        min_size=config.size,
        max_size=int(config.size * 5 / 3),
        image_mean=list(MEAN),
        image_std=list(STD),
        rpn_anchor_generator=AnchorGenerator(
            sizes=tuple((s * zoom,) for s in (32, 64, 128, 256, 512)), aspect_ratios=((0.5, 1.0, 2.0),) * 5
        ),
        rpn_pre_nms_top_n_train=2 * config.proposals,
        rpn_pre_nms_top_n_test=config.proposals,
        rpn_post_nms_top_n_train=config.proposals,
        rpn_post_nms_top_n_test=config.proposals,
        box_roi_pool=align(output_size=7),
        box_head=TwoMLPHead(channels * 7 * 7, config.box_head_channels),
        box_predictor=FastRCNNPredictor(config.box_head_channels, classes),
        box_score_thresh=SCORE_THRESHOLD,
        box_detections_per_img=DETECTIONS_PER_IMAGE,
        box_batch_size_per_image=config.rois_per_image,
        mask_roi_pool=align(output_size=14),
        mask_head=MaskRCNNHeads(channels, (channels,) * config.mask_head_layers, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes),
    )
    if not masks:
        model.roi_heads.mask_roi_pool = model.roi_heads.mask_head = model.roi_heads.mask_predictor = None
    return model


def learning_rate(iteration: int, config: Detection) -> float:
    """Learning rate of an iteration (from 0): linear warm-up, then divided by 10 at each milestone."""
    warmup = min(1.0, (iteration + 1) / max(config.warmup_iterations, 1))
    passed = sum(iteration >= round(m * config.iterations) for m in config.milestones)
    return config.lr * warmup * 0.1**passed


def trainable(split: Split) -> list[int]:
    """Indices of the images with at least one object that is not a crowd and whose box has an area inside."""
    with_objects = {a["image_id"] for a in needs.objects(split)}
    return [i for i, image in enumerate(split.images) if image["id"] in with_objects]


def training_example(split: Split, kept: list[int], seed: int, t: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The t-th training sample, flipped with probability 0.5: uint8 3 x H x W and its objects.

    Objects are `boxes` float N x 4 (x1 y1 x2 y2, pixels), `labels` int64 N from 1, `masks` uint8 N x H x W.
    Crowds are excluded.
    """
    position, rng = draw(t, len(kept), seed, "detection")
    i = kept[position]
    image, objects = image_tensor(split, i), split.instances(i)
    single = ~objects.crowd
    boxes, masks = torch.from_numpy(objects.boxes[single]), torch.from_numpy(objects.masks[single])
    if torch.rand((), generator=rng) < 0.5:
        image, masks = image.flip(-1), masks.flip(-1)
        boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
    return image, {"boxes": boxes, "labels": torch.from_numpy(objects.labels[single]) + 1, "masks": masks}


def _evaluation_example(split: Split, i: int) -> tuple[int, Tensor]:
    return i, image_tensor(split, i)


def _as_lists(examples: list[tuple]) -> tuple[list, list]:
    first, second = zip(*examples, strict=True)
    return list(first), list(second)


def loss_terms(model: nn.Module, batch: tuple[list, list], device: torch.device) -> dict[str, Tensor]:
    """Mask R-CNN's losses of a batch, by their names in torchvision."""
    images, targets = batch
    return model(
        [image.to(device, non_blocking=True).float() / 255 for image in images],
        [{name: value.to(device, non_blocking=True) for name, value in target.items()} for target in targets],
    )


def train(
    model: MaskRCNN, split: Split, config: Detection, *, seed: int, device: torch.device, progress: bool
) -> None:
    """Finetune all layers in place.

    With several ranks, each rank samples and weights the anchors and regions of its own images, as is usual.

    Raises FloatingPointError, with the iteration and the loss terms, when the loss is not finite.
    """
    finetune(
        model,
        partial(training_example, split, trainable(split), seed),
        partial(loss_terms, device=device),
        partial(learning_rate, config=config),
        config,
        task="detection",
        # The anchor and region samplers use torch's global random generator.
        random="samplers",
        collate=_as_lists,
        seed=seed,
        device=device,
        progress=progress,
    )


def coco_results(prediction: dict[str, Tensor], image_id: int, category_ids: list[int]) -> list[dict[str, Any]]:
    """Convert torchvision's prediction for one image to COCO's result format.

    `prediction` holds `boxes` N x 4 (x1 y1 x2 y2), `labels` N (1 + category index), `scores` N and, unless the
    model has no mask head, `masks` N x 1 x H x W in [0, 1], all at the image's original size; masks are thresholded
    at 0.5.
    """
    if len(prediction["labels"]) == 0:
        return []
    boxes = prediction["boxes"].double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    labels, scores = prediction["labels"].tolist(), prediction["scores"].tolist()
    results = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "score": score, "bbox": box}
        for label, score, box in zip(labels, scores, boxes.tolist(), strict=True)
    ]
    if "masks" in prediction:
        masks = (prediction["masks"][:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        for result, code in zip(results, rle.encode(np.asfortranarray(masks)), strict=True):
            result["segmentation"] = code
    return results


@torch.no_grad()
def predict(
    model: MaskRCNN, split: Split, count: int, batch_size: int, *, device: torch.device, progress: bool
) -> list[dict[str, Any]]:
    """COCO results for the first `count` images; RuntimeError when an image was not evaluated exactly once."""
    model.eval()
    category_ids = [c["id"] for c in split.categories]
    results, seen = [], []
    loader = batches(partial(_evaluation_example, split), evaluation_order(count), batch_size, device, _as_lists)
    for indices, images in bar(loader, "detection, evaluation", progress):
        predictions = model([image.to(device).float() / 255 for image in images])
        for i, prediction in zip(indices, predictions, strict=True):
            results += coco_results(prediction, split.images[i]["id"], category_ids)
        seen += indices
    seen = distributed.gather_list(seen)
    if sorted(seen) != list(range(count)):
        raise RuntimeError(f"{split.folder}: saw {len(set(seen))} of {count} images, in {len(seen)} reads")
    return distributed.gather_list(results)


def coco_scores(
    split: Split, count: int, results: list[dict[str, Any]], *, masks: bool = True
) -> dict[str, float | None]:
    """COCO's AP_bbox, AP50_bbox, …, AP75_segm in percent over the first `count` images; no segm without `masks`.

    None where COCO leaves the score undefined: no annotated object is included in the evaluation.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(split, count)
        scores = {}
        for kind, other in (("bbox", "segmentation"), ("segm", "bbox"))[: 1 + masks]:
            # COCO computes an object's area from its box if it has one, so each kind needs separate results.
            found = [{k: v for k, v in r.items() if k != other} for r in results]
            # loadRes cannot read an empty list.
            detected = truth.loadRes(found) if found else COCO()
            evaluation = COCOeval(truth, detected, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for metric, value in zip(METRICS, evaluation.stats, strict=False):
                scores[f"{metric}_{kind}"] = None if value < 0 else 100 * float(value)
    return scores


def _coco(split: Split, count: int) -> COCO:
    truth = COCO()
    images = split.images[:count]
    annotations = [a for image in images for a in split.annotations[image["id"]] if a["has_box"]]
    truth.dataset = {
        "info": {},
        "images": images,
        "categories": split.categories,
        # COCOeval modifies the annotations. It takes a match with id 0 for none, and the area decides only whether
        # an object is within its limits, so neither is the file's own.
        "annotations": [
            {**a, "id": i, "area": min(a["bbox"][2] * a["bbox"][3], MAX_AREA)}
            for i, a in enumerate(annotations, start=1)
        ],
    }
    truth.createIndex()
    return truth


def evaluate(
    backbone_file: Path, config: Detection, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with COCO's AP, AP50 and AP75 of boxes and masks in percent, after the last iteration, and notes.

    A score that COCO leaves undefined has no row; the notes list it. Unless every object has a mask, boxes alone
    are trained and scored, and the notes have the reason. Raises MissingLabels with the sentence of `missing`.
    """
    train_split, val = read_splits(config.data)
    if why := missing(train_split, val):
        raise MissingLabels(why)
    unmasked = needs.unmasked(train_split) or needs.unmasked(val)
    masks = unmasked is None
    count = min(config.eval_images or len(val), len(val))
    with private_rng(device):
        backbone, _ = load_backbone(backbone_file)
        torch.manual_seed(seed_of(seed, "detection", "heads"))
        model = build_model(backbone, config, len(val.categories), masks=masks)
        model.to(device, memory_format=torch.channels_last)
        train(model, train_split, config, seed=seed, device=device, progress=progress)
        results = predict(model, val, count, config.batch_size, device=device, progress=progress)
    scores = coco_scores(val, count, results, masks=masks)
    rows = [
        {"protocol": "detection", "metric": metric, "value": value, "n": count}
        for metric, value in scores.items()
        if value is not None
    ]
    with_objects = len(trainable(train_split))
    milestones = ", ".join(str(round(m * config.iterations)) for m in config.milestones)
    notes = {
        "head": f"{'Mask' if masks else 'Faster'} R-CNN, FPN of {config.fpn_channels} channels, "
        f"box head of 2 x {config.box_head_channels}, "
        + (f"mask head of {config.mask_head_layers} layers" if masks else "no mask head"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "schedule": f"{config.iterations} iterations of {config.batch_size}, SGD, lr {config.lr} after "
        f"{config.warmup_iterations} of warm-up, a tenth from {milestones}",
        "augmentation": "horizontal flip",
        "batch_norm": "trained in backbone and FPN, with the statistics of the whole batch",
        "size": config.size,
        "anchors": [round(size, 1) for (size,) in model.rpn.anchor_generator.sizes],
        "train_images": with_objects,
        "train_images_without_object": len(train_split) - with_objects,
        "eval_images": count,
        "detections": len(results),
        "undefined": [metric for metric, value in scores.items() if value is None],
    }
    if not masks:
        notes[METRICS_LEFT_OUT] = {f"{metric}_segm": unmasked for metric in METRICS}
    return rows, notes
