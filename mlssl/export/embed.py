"""Features of any folder of images by a backbone, as a file for people's own use."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mlssl.data.images import find_images, read_image
from mlssl.errors import ConfigError, DataError
from mlssl.export.map import check, write_map
from mlssl.files import atomic
from mlssl.parts.backbone import image_features
from mlssl.transfer.load import autocast, bar, batches, load_backbone, normalise, resize


def embed(
    path: Path,
    images: Path,
    out: Path,
    *,
    size: int,
    batch_size: int,
    device: torch.device,
    progress: bool = True,
    map_: Path | None = None,
    map_by: Literal["pca", "umap"] = "pca",
    seed: int = 0,
) -> int:
    """Write one feature per image below the folder `images` to `out` (.npz or .parquet); returns their number.

    Names are paths from that folder, sorted; images are resized to size x size pixels, as the linear probe does.
    Unreadable images are skipped, and named on stderr. `map_` (.png) is a picture of them all, or of some that
    `seed` draws, arranged by `map_by` (see `map`).
    """
    if out.suffix not in (".npz", ".parquet"):
        raise ConfigError(f"embed: {out}: give a file that ends in .npz or .parquet")
    if out.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            why = f"embed: {out}: parquet needs pyarrow; pip install 'mlssl[parquet]', or give .npz"
            raise ConfigError(why) from None
    if out.exists():
        raise FileExistsError(f"{out}: exists already; give another file")
    if map_ is not None:
        check(map_, map_by)
    backbone, meta = load_backbone(path)
    backbone.eval().to(device)
    files = find_images(images)
    if not files:
        raise DataError(f"{images}: has no images; give a folder with some")

    read = partial(example, files, size)
    kept: list[int] = []
    found = []
    for index, pixels in bar(batches(read, range(len(files)), batch_size, device), "features", progress):
        with torch.no_grad(), autocast(device):
            features = image_features(backbone, normalise(pixels.to(device))).float().cpu()
        found.append(features[index >= 0])
        kept += index[index >= 0].tolist()
    if not kept:
        raise DataError(f"{images}: none of its {len(files)} images can be read")
    names = [files[i].relative_to(images).as_posix() for i in kept]
    vectors = torch.cat(found).numpy()
    write(out, names, vectors, {"size": size, "run": meta.get("run"), "backbone": meta["backbone"]})
    if map_ is not None:
        write_map([files[i] for i in kept], vectors, map_, by=map_by, seed=seed)
    return len(names)


def example(files: list[Path], size: int, i: int) -> tuple[int, torch.Tensor]:
    """The i-th file's number and its pixels, uint8 3 x size x size; -1 and black for one that cannot be read."""
    try:
        pixels = torch.from_numpy(read_image(files[i]).copy()).permute(2, 0, 1)
    except (DataError, OSError) as error:
        print(f"embed: left out: {error}", file=sys.stderr)
        return -1, torch.zeros(3, size, size, dtype=torch.uint8)
    return i, resize(pixels, size)


def write(out: Path, names: list[str], features: np.ndarray, about: dict[str, Any]) -> None:
    """`name` (text, N) and `features` (float32 N x D), and what made them as JSON (`about`, or file metadata)."""
    with atomic(out) as part:
        if out.suffix == ".npz":
            with open(part, "wb") as file:
                np.savez(file, name=np.array(names), features=features, about=np.array(json.dumps(about)))
            return
        import pyarrow as pa
        from pyarrow import parquet

        columns = {
            "name": names,
            "features": pa.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1]),
        }
        table = pa.table(columns).replace_schema_metadata({"mlssl": json.dumps(about)})
        parquet.write_table(table, part)
