"""Published numbers of images: dataset -> split -> images. Imports nothing, so dry runs stay fast."""

SPLITS = {
    "coco2017": {"train2017": 118_287, "val2017": 5_000},
    "voc2007": {"trainval": 5_011, "test": 4_952},
    "voc2012": {"trainval": 11_540},
    "voc0712": {"trainval": 16_551, "test": 4_952},
    "voc2012aug": {"train": 10_582, "val": 1_449},
    "cityscapes": {"train": 2_975, "val": 500},
    "camvid": {"train": 367, "val": 101, "test": 233},
    "cub200": {"train": 5_994, "test": 5_794},
    "flowers102": {"trainval": 2_040, "test": 6_149},
    "stanford_cars": {"train": 8_144, "test": 8_041},
    "fgvc_aircraft": {"trainval": 6_667, "test": 3_333},
    "indoor67": {"train": 5_360, "test": 1_340},
    "oxford_pets": {"trainval": 3_680, "test": 3_669},
    "dtd": {"trainval": 3_760, "test": 1_880},
}

BY_HAND = ("cityscapes", "camvid", "stanford_cars")
"""Data sets with an archive that cannot be downloaded: it needs a login, or is no longer where it was."""
SINGLE_LABEL = ("cub200", "flowers102", "stanford_cars", "fgvc_aircraft", "indoor67", "oxford_pets", "dtd")
"""Data sets whose images have exactly one category each."""
