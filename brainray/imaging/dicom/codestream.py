"""Reads width, height and depth from a compressed picture, before a decoder reserves memory for them.

Markers are those of ITU-T T.81 (JPEG), T.87 (JPEG-LS) and T.800 (JPEG 2000).
"""

import re
from typing import NamedTuple

_FRAME = re.compile(rb"\xff([\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7])..(.)(..)(..)", re.DOTALL)
_SIZE = re.compile(rb"\xff\x4f\xff\x51..(?:..)(.{4})(.{4})(.{4})(.{4})", re.DOTALL)
# One component, and one tile from the origin on; then the style of coding, with the number of levels.
_GREY = re.compile(rb"\xff\x4f\xff\x51.{4}(?P<size>.{8})\0{8}(?P<tile>.{8})\0{8}\0\x01(?P<depth>.)\x01\x01", re.DOTALL)
_STYLE = re.compile(rb"\xff\x52.{7}(?P<levels>[\0-\x20])", re.DOTALL)
_BEGIN = b"\xff\xd8"
_SEARCHED = 1 << 20  # bytes; the size stands in the first few hundred, but for large comments


def size_of(coded: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG, JPEG-LS or JPEG 2000 picture; None where they cannot be found."""
    if found := _SIZE.search(coded[:_SEARCHED]):
        right, bottom, left, top = (int.from_bytes(field) for field in found.groups())
        return right - left, bottom - top
    if not coded.startswith(_BEGIN):
        return None
    at = 2
    while at + 9 <= min(len(coded), _SEARCHED):
        if found := _FRAME.match(coded, at):
            return int.from_bytes(found[4]), int.from_bytes(found[3])
        if coded[at] != 0xFF:
            return None
        at += 1 if coded[at + 1] == 0xFF else 2 + int.from_bytes(coded[at + 2 : at + 4])
    return None


class GreyJpeg2000(NamedTuple):
    """What the codestream of a JPEG 2000 picture with one component says of its values."""

    bits: int
    is_signed: bool
    levels: int  # how often its size can be halved by leaving out details


def grey_jpeg2000(coded: bytes) -> GreyJpeg2000 | None:
    """The values of a JPEG 2000 picture of one component and one tile; None for any other."""
    found = _GREY.match(coded)
    style = _STYLE.search(coded, found.end(), _SEARCHED) if found else None
    if found is None or style is None or not _fits(found["size"], found["tile"]):
        return None
    depth = found["depth"][0]
    return GreyJpeg2000(bits=(depth & 0x7F) + 1, is_signed=depth >= 0x80, levels=style["levels"][0])


def _fits(size: bytes, tile: bytes) -> bool:
    """Whether a picture has one tile: width and height, of four bytes each."""
    return size[:4] <= tile[:4] and size[4:] <= tile[4:]
