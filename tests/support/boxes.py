"""Proposals and pairs of boxes made by hand, for methods that train on boxes."""

import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np

from mlssl.data import pairs, proposals
from mlssl.data.proposals import ProposalFile
from mlssl.data.store import ImageStore
from mlssl.study.identity import pairs_file, proposals_file

NETWORK = "network"
"""Identity of the network that is said to have paired boxes."""
ORL_VIEWS = [{}, {}, *({"region": region} for region in ("box", "moved_box", "pair", "pair_of_neighbour"))]


def write_proposals(store, config, boxes):
    """The file of proposals with these boxes (x, y, width, height) of each image."""
    rows = np.array([box for image in boxes for box in image], dtype=np.uint16)
    count = np.array([len(image) for image in boxes], dtype=np.int32)
    about = {
        "version": proposals.VERSION,
        "settings": proposals.described(config),
        "images": len(store),
        "store_crc32": store.crc32,
        "boxes": len(rows),
        "kept_by": {},
        "crc32": zlib.crc32(rows.tobytes(), zlib.crc32(count.tobytes())),
        "seconds": 1.0,
        "core_seconds": 1.0,
        "workers": 1,
        "bytes": rows.nbytes + count.nbytes,
        "opencv": "by hand",
    }
    out = proposals_file(config, store.path)
    with open(out, "wb") as file:
        np.savez(file, boxes=rows, count=count, about=np.array(json.dumps(about)))
    return ProposalFile(out, store, config)


def random_boxes(store, seed=0):
    """One to four boxes of each image, of at least 8 pixels."""
    rng, found = np.random.default_rng(seed), []
    for i in range(len(store)):
        height, width = store.image(i).shape[:2]
        sides = rng.integers(8, min(height, width) // 2, (rng.integers(1, 5), 2))
        corners = rng.integers(0, [width, height] - sides + 1)
        found.append(np.concatenate([corners, sides], axis=1).tolist())
    return found


def with_pairs_in(config, folder):
    """The settings of a run whose file of pairs is in this folder."""
    return dataclasses.replace(config, pairs_id=NETWORK, pairs_file=str(pairs_file(config, folder)))


def with_random_pairs(config, path, folder, seed=0):
    """The settings of a run that trains on pairs, its proposals and pairs, which are random ones."""
    store, rng = ImageStore(path), np.random.default_rng(seed)
    boxes, config = write_proposals(store, config.proposals, random_boxes(store)), with_pairs_in(config, folder)
    n, k = len(store), config.pairs.neighbours
    neighbours = np.stack([(i + 1 + rng.permutation(n - 1)[:k]) % n for i in range(n)])
    numbers = boxes.count(np.arange(n)).numpy()
    count = rng.integers(1, 3, (n, k))
    rows = [
        (rng.integers(numbers[i]), rng.integers(numbers[other]))
        for i, (others, many) in enumerate(zip(neighbours, count, strict=True))
        for other, number in zip(others, many, strict=True)
        for _ in range(number)
    ]
    about = {
        **pairs.described(config, boxes),
        "run": "by hand",
        "images": n,
        "run_seconds": 2.0,
        "seconds": 1.0,
        "device": "cpu",
    }
    pairs.write_pairs(Path(config.pairs_file), neighbours, count, np.array(rows), about)
    return config, boxes, pairs.PairFile(config.pairs_file, config, boxes)
