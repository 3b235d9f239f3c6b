"""Read Pascal VOC's XML annotations (devkit documentation, section 3). Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize
from xml.etree import ElementTree

from mlssl.data.formats.foreign import XML
from mlssl.data.formats.text import integer, number
from mlssl.errors import DataError


@dataclass(frozen=True)
class VocObject:
    """One `object` element."""

    name: str
    box: tuple[float, float, float, float]
    """x, y, width, height in pixels, counted from 0."""
    difficult: bool


@dataclass(frozen=True)
class VocImage:
    """One annotation file."""

    file_name: str | None
    """Its `filename`, if it has one."""
    size: tuple[int, int] | None
    """Width and height in pixels, if it has a `size`."""
    objects: list[VocObject]


def read_voc(path: Path) -> VocImage:
    """Read an annotation file.

    Rules:
    - Valid XML without a document type, so that no entity can expand or open a file.
    - VOC counts pixels from 1 and includes the last: xmin 1, xmax 10 is x 0, width 10. An edge below 1 is moved to
      the image's edge; 1 <= xmin is not required, as many tools count from 0. xmin <= xmax and ymin <= ymax.
    - `size` is positive integers, also written as 64.0; missing, empty or 0 x 0 means unknown.
    - Objects have a name, in Unicode's NFC; one is difficult if `difficult` is 1, true or yes. Parts of objects are
      not read.

    Raises DataError, with file, object, value and remedy, for anything else; OSError if it cannot be opened.
    """
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_NoDocumentType())).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{path}: not valid XML ({error}); fetch or write it again") from None
    if root.tag.lower() != "annotation":
        kind = XML.get(root.tag.lower(), f"XML with the root <{root.tag}>")
        raise DataError(f"{path}: this is {kind}; export VOC, YOLO or COCO")
    texts = [root.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    sides = [integer(text) for text in texts]
    known = texts != ["", ""] and sides != [0, 0]
    if known and not all(sides):
        raise DataError(f"{path}: size is '{texts[0]}' x '{texts[1]}'; give width and height in pixels")
    objects = []
    for i, element in enumerate(root.findall("object"), start=1):
        name = normalize("NFC", element.findtext("name", "").strip())
        if not name:
            raise DataError(f"{path}: object {i} has no name; give it one")
        where = f"{path}: object {i} ('{name}')"
        x1, y1, x2, y2 = edges = [
            number(element.findtext(f"bndbox/{edge}"), f"{where}, {edge}")
            for edge in ("xmin", "ymin", "xmax", "ymax")
        ]
        if not (x1 <= x2 and y1 <= y2 and x2 >= 0 and y2 >= 0):
            raise DataError(f"{where} has bndbox {edges}; give 1 <= xmin <= xmax and 1 <= ymin <= ymax")
        x, y = max(x1 - 1, 0.0), max(y1 - 1, 0.0)
        mark = element.findtext("difficult", "").strip().lower()
        difficult = integer(mark) == 1 or mark in ("true", "yes")
        objects.append(VocObject(name, (x, y, x2 - x, y2 - y), difficult))
    file_name = root.findtext("filename", "").strip()
    size = (sides[0], sides[1]) if known and sides[0] and sides[1] else None
    return VocImage(file_name or None, size, objects)


class _NoDocumentType(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE."""

    def doctype(self, *_: Any) -> None:
        raise ValueError("it has a DOCTYPE, which may define entities; remove it")
