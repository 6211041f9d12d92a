"""Reads width and height from a compressed picture, before a decoder reserves memory for them.

Markers are those of ITU-T T.81 (JPEG), T.87 (JPEG-LS) and T.800 (JPEG 2000).
"""

import re

_FRAME = re.compile(rb"\xff([\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7])..(.)(..)(..)", re.DOTALL)
_SIZE = re.compile(rb"\xff\x4f\xff\x51..(?:..)(.{4})(.{4})(.{4})(.{4})", re.DOTALL)
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
