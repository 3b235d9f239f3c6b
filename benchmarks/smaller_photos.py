"""What views lose when photos are stored with a shorter side: `python -m benchmarks.smaller_photos OUT.json`.

On the two photos that scikit-learn has, 640 x 427.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from mlssl import files, results
from mlssl.data.augment.gpu import resized_crop
from mlssl.data.augment.operations import gaussian_blur
from mlssl.data.augment.parameters import draw
from mlssl.study.settings import Views

SHORT_SIDE, CROPS = 256, 150
SIGMA = 1.05
"""Mean standard deviation of the views' blur, in pixels."""
AREAS = ((0.15, 0.4), (0.4, 0.7), (0.7, 1.01), (0.15, 1.01))
"""Shares of the photo's area, by which crops are grouped."""


def shrunk(photo: Tensor, short_side: int) -> Tensor:
    """uint8 H x W x 3 as `data.store.load_resized` stores it."""
    height, width = photo.shape[:2]
    scale = short_side / min(height, width)
    size = (round(width * scale), round(height * scale))
    small = Image.fromarray(photo.numpy()).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    return torch.from_numpy(np.array(small))


def energy(x: Tensor) -> float:
    """Mean square of the differences of neighbouring pixels."""
    return float(x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean())


def losses(photo: Tensor, rng: torch.Generator) -> np.ndarray:
    """CROPS x 5: area; energy of crops from the smaller photo over that from the full one, and the same after blur;
    energy left by the blur; RMS difference of 255.
    """
    views, small, found = Views(), shrunk(photo, SHORT_SIDE), []
    sigma = torch.tensor([SIGMA])
    for _ in range(CROPS):
        box = draw(torch.tensor([photo.shape[:2]]), views, rng).box
        scaled = (box * small.shape[0] / photo.shape[0]).round().long()
        limits = torch.tensor(small.shape[1::-1])
        scaled[:, :2] = torch.minimum(scaled[:, :2], limits - scaled[:, 2:])
        full, less = (
            resized_crop(image.permute(2, 0, 1)[None], place, views.crop)
            for image, place in ((photo, box), (small, scaled))
        )
        soft, softer = gaussian_blur(full, sigma), gaussian_blur(less, sigma)
        area = float(box[0, 2:].prod()) / (photo.shape[0] * photo.shape[1])
        difference = 255 * float((less - full).square().mean().sqrt())
        ratios = energy(less) / energy(full), energy(softer) / energy(soft), energy(soft) / energy(full)
        found.append((area, *ratios, difference))
    return np.array(found)


def main() -> None:
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    found = np.concatenate([losses(torch.from_numpy(p.copy()), rng) for p in load_sample_images().images])
    names = ("area", "energy", "energy_after_blur", "energy_left_by_blur", "rms_difference")
    rows: list[dict[str, float]] = []
    for low, high in AREAS:
        chosen = found[(found[:, 0] >= low) & (found[:, 0] < high)]
        means = dict(zip(names, chosen.mean(axis=0).tolist(), strict=True))
        rows.append({"from": low, "to": high, "crops": len(chosen)} | means)
        print(rows[-1])
    header = {"command": "python -m benchmarks.smaller_photos", "commit": results.git_commit(), "device": "cpu"}
    files.write_json(Path(sys.argv[1]), {"header": header, "rows": rows})


if __name__ == "__main__":
    main()
