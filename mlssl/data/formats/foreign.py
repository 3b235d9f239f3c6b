"""Recognise annotation files of other tools, to say what they are instead of misreading them. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mlssl.data.formats.text import encoding

HEAD = 65_536
"""Bytes at each end of a file that decide what it is."""

BINARY = (
    (b"PK\x03\x04", "a ZIP archive or Excel workbook"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"PAR1", "a Parquet table"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"SQLite format 3", "an SQLite database"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"MATLAB", "a MATLAB file"),
    (b"\x89HDF", "an HDF5 file"),
)
"""First bytes and what they are."""

JSON = (
    ((r'"segments_info"\s*:',), "COCO's panoptic JSON"),
    ((r'"shapes"\s*:', r'"(imagePath|imageData|imageHeight)"\s*:'), "labelme's JSON"),
    ((r'"(from_name|to_name|completions|annotation_id|lead_time)"\s*:',), "Label Studio's JSON"),
    ((r'"shape_attributes"\s*:',), "VIA's JSON"),
    ((r'"classTitle"\s*:',), "Supervisely's JSON"),
    ((r'"coordinates"\s*:', r'"label"\s*:'), "Create ML's JSON"),
    ((r'"box2d"\s*:|"poly2d"\s*:',), "BDD100K's JSON"),
    ((r'"data_row"\s*:',), "Labelbox's JSON"),
    ((r'"(dm_format_version|label_id|media_type)"\s*:', r'"items"\s*:'), "Datumaro's JSON"),
    ((r'"FeatureCollection"',), "GeoJSON"),
    ((r'"bounding_box"\s*:', r'"(item|dataset|image)"\s*:'), "V7 Darwin's JSON"),
    ((r'"imgHeight"\s*:', r'"objects"\s*:'), "Cityscapes' JSON"),
    ((r'"score"\s*:', r'"image_id"\s*:', r"\A\s*\[\s*\{"), "COCO's JSON of detection results"),
    ((r'\A\s*\{\s*"classes"\s*:', r'"labels"\s*:'), "FiftyOne's JSON of image labels"),
    ((r"\A\s*\{[^\n]*\}\s*\n\s*\{",), "JSON lines"),
    ((r'"caption"\s*:', r'"image_id"\s*:'), "COCO's JSON of captions"),
)
"""Patterns that all occur in such a file, and what it is; the first that fits."""

XML = {
    "annotations": "CVAT's XML",
    "dataset": "dlib's XML",
    "alto": "ALTO's XML",
    "pcgts": "PAGE XML",
    "kml": "KML",
    "html": "a web page",
    "svg": "an SVG drawing",
}
"""Root elements, in lower case, and what such a file is."""

TABLES = (
    (("filename", "width", "height", "class", "xmin"), "a table of boxes of TensorFlow's Object Detection API"),
    (("imageid", "source", "labelname"), "Open Images' table"),
    (("filename", "file_size", "file_attributes"), "VIA's CSV"),
    (("image", "label", "annotation_id"), "Label Studio's CSV"),
    (("xmin", "ymin"), "a table of boxes"),
    (("xmin", "xmax"), "a table of boxes"),
    (("imageid", "predictionstring"), "a table of boxes of Kaggle"),
    (("encodedpixels",), "a table of masks of Kaggle"),
    (("bbox",), "a table of boxes"),
)
"""Columns that such a table has, in lower case, and what it is; the first that fits."""


def foreign(path: Path) -> str | None:
    """What an annotation file of another tool is, such as "CVAT's XML"; None for what may be readable.

    Raises OSError if it cannot be opened.
    """
    with open(path, "rb") as handle:
        head = handle.read(HEAD)
        handle.seek(0, 2)
        size = handle.tell()
        handle.seek(max(len(head), size - HEAD))
        tail = handle.read()
    for mark, name in BINARY:
        if head.startswith(mark):
            return name
    text = (head + tail).decode(encoding(head), errors="ignore").lstrip("\ufeff")
    start = text.lstrip()[:1]
    if start == "<":
        return foreign_xml(text)
    if start in ("{", "["):
        return foreign_json(text)
    return foreign_table(text.partition("\n")[0])


def foreign_xml(text: str) -> str | None:
    """What XML is, by its root element; None for VOC's `annotation`, and for text without an element."""
    root = re.search(r"<([A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)", re.sub(r"(?s)<!--.*?-->|<[?!][^>]*>", "", text))
    if root is None:
        return None
    tag = root[2]
    if tag.lower() != "annotation":
        return XML.get(tag.lower(), f"XML with the root <{tag}>")
    if re.search(r"<robndbox\b", text) and "<bndbox" not in text:
        return "roLabelImg's XML of rotated boxes"
    if re.search(r"<polygon\b", text) and re.search(r"<pt\b", text) and "<bndbox" not in text:
        return "LabelMe's XML"
    return None


def foreign_json(text: str) -> str | None:
    """What JSON of another tool is, by its keys; None for COCO's instances and unknown JSON."""
    if re.search(r'"bbox"\s*:', text) and re.search(r'"images"\s*:\s*\[', text):
        return None
    return next((name for keys, name in JSON if all(re.search(key, text) for key in keys)), None)


def foreign_table(line: str) -> str | None:
    """What a table of another tool is, by its first line."""
    cells = {re.sub(r"[^a-z_]", "", cell) for cell in re.split(r"[,;\t]", line.lower())}
    return next((name for columns, name in TABLES if cells.issuperset(columns)), None)


def foreign_row(words: Sequence[str]) -> str | None:
    """What a line of a txt file is in another tool's format; None if it may be YOLO's."""
    if words[0].lower().startswith(("imagesource:", "gsd:")):
        return "DOTA's txt"
    if _numbers(words[:1]):
        return "DOTA's txt" if len(words) == 10 and not _numbers(words[8:9]) else None
    if len(words) in (15, 16) and _numbers(words[1:]):
        return "KITTI's txt"
    return None


def _numbers(words: Sequence[str]) -> bool:
    return all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", word) for word in words)
