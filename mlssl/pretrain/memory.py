"""Memory of a GPU that images and training share: the images' place, and what happens when it is not enough."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from mlssl.data import placement
from mlssl.data.placement import Place
from mlssl.data.store import ImageStore
from mlssl.runtime import distributed
from mlssl.runtime.machine_lock import alone
from mlssl.runtime.precision import REDUCED
from mlssl.study.settings import Pretrain


def put_images(
    store: ImageStore, device: torch.device, *, training: int, at_most: Place = "device"
) -> tuple[Place, str]:
    """Move a store's pixels to their place; returns it, and a description for the result.

    `training` is the memory in bytes that training will allocate on the GPU; `at_most` mapped leaves the GPU to it.
    Two jobs of this machine do not measure and allocate on one GPU at the same time. A store that turns out not to
    fit stays in the page cache.
    """
    need = store.pixels.numel()
    with alone(f"images-{gpu_id(device)}") if device.type == "cuda" else nullcontext():
        free = placement.free_memory(device, sharers=distributed.on_this_machine())
        place = placement.choose_place(need, free, training=training) if at_most == "device" else at_most
        try:
            store.pixels = placement.moved(store.pixels, place, device)
        except torch.OutOfMemoryError:
            place = "mapped"
    return place, placement.describe(need, place, free, training=training)


def gpu_id(device: torch.device) -> str:
    """The same for all processes, whatever number they give the GPU."""
    return str(torch.cuda.get_device_properties(device).uuid)


def training_bytes(config: Pretrain, method: nn.Module, backbone: nn.Module, precision: str) -> int:
    """Estimate of what training allocates on this rank's GPU beside the method, in bytes; rather too much.

    Gradients and momentum of the weights, the views of this step and the next, and the outputs of all layers of the
    backbone for all views: a method that needs the gradient of one alone takes less. Maps beside the backbone's, as
    of the pyramids of ReSim and SoCo-FPN, and large products of similarities are not counted: if they do not fit,
    the images leave the GPU (`runs_out_of_memory`).
    """
    weights = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    images = config.batch_size // distributed.count()
    size = 2 if precision in REDUCED else 4
    total = 2 * weights
    for view in config.view_set():
        pixels = torch.empty(images, 3, view.crop, view.crop, device="meta")
        total += 2 * pixels.numel() * pixels.element_size() + size * output_elements(backbone, pixels)
    return total


def output_elements(model: nn.Module, images: Tensor) -> int:
    """Number of values that all layers without sublayers return for `images`, which are on the device `meta`."""
    found = 0

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        nonlocal found
        found += output.numel() if isinstance(output, Tensor) else 0

    shapes = copy.deepcopy(model).to("meta")
    for layer in shapes.modules():
        if not list(layer.children()):
            layer.register_forward_hook(count)
    with torch.no_grad():
        shapes(images)
    return found


def runs_out_of_memory(work: Callable[[], None]) -> bool:
    """Do the work; whether a GPU's memory was not enough, and then what the work held is free again."""
    try:
        work()
    except torch.OutOfMemoryError:
        pass
    else:
        return False
    gc.collect()  # after the error and its frames are gone
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def free_on_gpu(device: torch.device) -> int | None:
    """Bytes of a GPU's memory that are free now; None without a GPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def explanation(config: Pretrain, device: torch.device) -> str:
    """One line for a training that does not fit even with the images in the page cache."""
    return (
        f"the memory of {device} is not enough to train {config.backbone} at {config.views.crop} px with "
        f"batch_size {config.batch_size}; lower batch_size, raise gpus_per_run, or end other processes on the GPU"
    )
