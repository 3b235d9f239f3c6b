"""The procedural scenes: determinism, COCO layout, and agreement of masks, boxes and semantic images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from mlssl.errors import ConfigError
from mlssl.scenes import write_scenes
from mlssl.scenes.categories import CATEGORIES, CATEGORY_IDS
from mlssl.scenes.render import MIN_IMAGE_SHARE, draw_object, render_scene
from mlssl.scenes.themes import THEME_NAMES, THEMES, sample_light

SIZE = (96, 72)
SPLITS = ("train2017", "val2017")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "coco"
    write_scenes(out, images=24, val_images=6, size=SIZE, seed=3, workers=1)
    return out


def index(folder: Path, split: str) -> dict:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def masks_by_image(folder: Path, split: str) -> dict[int, list[tuple[dict, np.ndarray]]]:
    content = index(folder, split)
    found = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        mask = mask_utils.decode(annotation["segmentation"]).astype(bool)
        found[annotation["image_id"]].append((annotation, mask))
    return found


def test_same_seed_gives_the_same_bytes_for_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "two", images=24, val_images=6, size=SIZE, seed=3, workers=2)
    assert files(tmp_path / "two") == files(folder)


def test_other_seed_gives_other_images(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "other", images=6, val_images=2, size=SIZE, seed=4, workers=1)
    ours, theirs = files(folder), files(tmp_path / "other")
    assert all(ours[name] != content for name, content in theirs.items())


def test_fewer_images_are_a_prefix(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "few", images=6, val_images=3, size=SIZE, seed=3, workers=1)
    many, few = files(folder), files(tmp_path / "few")
    pictures = [name for name in few if not name.endswith(".json")]
    assert len(pictures) == 2 * (6 + 3)
    assert all(many[name] == few[name] for name in pictures)
    for split in SPLITS:
        a, b = index(folder, split), index(tmp_path / "few", split)
        assert a["images"][: len(b["images"])] == b["images"]


def test_split_changes_the_images(folder: Path) -> None:
    first = [Image.open(sorted((folder / split).iterdir())[0]) for split in SPLITS]
    assert not np.array_equal(np.asarray(first[0]), np.asarray(first[1]))


def test_layout_loads_as_coco(folder: Path) -> None:
    image_ids, annotation_ids = [], []
    for split, count in zip(SPLITS, (24, 6), strict=True):
        coco = COCO(folder / "annotations" / f"instances_{split}.json")
        assert set(coco.dataset) == {"info", "licenses", "images", "annotations", "categories"}
        assert len(coco.getImgIds()) == count
        assert {c["name"]: c["id"] for c in coco.loadCats(coco.getCatIds())} == CATEGORY_IDS
        for image in coco.loadImgs(coco.getImgIds()):
            picture = Image.open(folder / split / image["file_name"])
            assert picture.size == (image["width"], image["height"]) == SIZE
            assert picture.mode == "RGB"
            assert image["theme"] in THEME_NAMES
        for annotation in coco.loadAnns(coco.getAnnIds()):
            assert annotation["iscrowd"] == 0
            assert coco.annToMask(annotation).shape == SIZE[::-1]
        image_ids += coco.getImgIds()
        annotation_ids += coco.getAnnIds()
    assert len(set(image_ids)) == 30
    assert sorted(annotation_ids) == list(range(1, len(annotation_ids) + 1))
    assert (folder / "train2017" / "000000000001.jpg").exists()


@pytest.mark.parametrize("split", SPLITS)
def test_masks_boxes_areas_and_semantics_agree(folder: Path, split: str) -> None:
    for image_id, objects in masks_by_image(folder, split).items():
        assert 2 <= len(objects) <= 8
        semantic = np.asarray(Image.open(folder / "semantic" / split / f"{image_id:012d}.png"))
        assert semantic.dtype == np.uint8
        painted, covered = np.zeros_like(semantic), np.zeros(semantic.shape, dtype=int)
        for annotation, mask in objects:
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum() >= MIN_IMAGE_SHARE * mask.size
            painted[mask] = annotation["category_id"]
            covered += mask
        assert covered.max() == 1
        np.testing.assert_array_equal(semantic, painted)


def test_some_objects_are_cut_by_the_border_and_some_touch_each_other(folder: Path) -> None:
    cut = touching = 0
    for objects in masks_by_image(folder, "train2017").values():
        for _, mask in objects:
            cut += bool(mask[:, 0].any() or mask[:, -1].any())
        for i, (_, a) in enumerate(objects):
            # Masks are disjoint, so a long common edge is one object in front of another.
            near = np.zeros_like(a)
            near[:, 1:] |= a[:, :-1]
            near[:, :-1] |= a[:, 1:]
            touching += any((near & b).sum() > 5 for _, b in objects[i + 1 :])
    assert cut >= 5
    assert touching >= 5


def test_there_are_enough_categories_and_themes_and_all_are_used() -> None:
    used = [name for theme in THEMES.values() for zone in theme.objects.values() for name in zone]
    assert set(used) == set(CATEGORIES)
    assert len(CATEGORIES) >= 24
    assert len(THEME_NAMES) >= 6
    shared = {
        name for name in CATEGORIES if sum(any(name in z for z in t.objects.values()) for t in THEMES.values()) > 1
    }
    assert len(shared) >= 8


def test_all_themes_and_most_categories_appear_in_120_scenes() -> None:
    scenes = [render_scene((48, 48), np.random.default_rng([0, 0, i])) for i in range(120)]
    assert {scene.theme for scene in scenes} == set(THEME_NAMES)
    assert len({name for scene in scenes for name in scene.names}) >= 0.9 * len(CATEGORIES)
    for scene in scenes:
        assert np.array_equal(np.unique(scene.owner), np.arange(len(scene.names) + 1))


@pytest.mark.parametrize("name", CATEGORIES)
def test_every_category_draws_and_varies(name: str) -> None:
    drawn = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        light = sample_light(rng, indoor=False)
        rgb, alpha = draw_object(name, 60.0, light, rng)
        share = (alpha > 0.5).mean()
        assert 0.08 < share <= 1
        assert alpha.max() <= 1
        assert rgb.min() >= 0
        assert rgb.max() <= 255.5
        drawn.append(rgb.mean(axis=(0, 1)))
    assert np.std(drawn, axis=0).max() > 1


def test_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "coco"
    out.mkdir()
    (out / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        write_scenes(out, images=2, val_images=1, size=SIZE, seed=0, workers=1)
    assert files(tmp_path) == {"coco/note.txt": b"mine"}


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size: 16 x 16 pixels are too few for scenes; give at least 32 x 32"):
        write_scenes(tmp_path / "coco", images=2, val_images=1, size=(16, 16), seed=0, workers=1)
    for name, value in (("images", 0), ("val_images", -2), ("seed", -1), ("workers", 0)):
        good = {"images": 2, "val_images": 1, "size": SIZE, "seed": 0, "workers": 1}
        with pytest.raises(ConfigError, match=rf"{name}: {value} is less than \d; give \d or more"):
            write_scenes(tmp_path / "coco", **good | {name: value})
    assert list(tmp_path.iterdir()) == []
