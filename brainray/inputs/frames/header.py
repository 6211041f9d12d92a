"""Reads the number of frames from the first bytes of a DICOM file, without pydicom: listing asks every file.

Walks over the attributes (PS3.5, 7.1), which ascend by tag, up to `NumberOfFrames`, (0028,0008). Attributes of
sequences are passed over. Never raises for damaged bytes.
"""

import re
from typing import NamedTuple

HEAD_BYTES = 64 << 10  # the attributes before (0028,0008) take 2 to 20 kB; private ones may take more
_MARK, _PREAMBLE = b"DICM", 128
_LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR", b"SV", b"UV")
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 50  # sequences within sequences
_META, _SYNTAX, _FRAMES = 0x0002, 0x00020010, 0x00280008  # a group, and tags
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_IMPLICIT, _BIG, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_BARE = re.compile(rb"(?P<big>\0[\x02\x08]\0[\0-\x1f])|[\x02\x08]\0[\0-\x1f]\0", re.DOTALL)
_TYPE = re.compile(rb"[A-Z]{2}")


class _Encoding(NamedTuple):
    explicit: bool = True
    order: str = "little"


class _Element(NamedTuple):
    tag: int
    start: int  # of the value
    length: int


class _Cut(Exception):
    """The bytes end, or are no attributes."""


def frames_in(head: bytes) -> int:
    """The number of frames by the first bytes of a file: 0 for one that is no DICOM, 1 where it does not say."""
    start = _PREAMBLE + len(_MARK) if head[_PREAMBLE : _PREAMBLE + len(_MARK)] == _MARK else 0
    bare = _BARE.match(head, start)
    if bare is None:
        return 0
    order = "big" if bare["big"] else "little"
    try:
        return _walk(head, start, _Encoding(_TYPE.match(head, start + 4) is not None, order))
    except _Cut:
        return 1


def _walk(head: bytes, at: int, encoding: _Encoding) -> int:
    syntax = ""
    while True:
        if syntax and int.from_bytes(head[at : at + 2], "little") != _META:  # the data set begins
            encoding, syntax = _Encoding(syntax != _IMPLICIT, "big" if syntax == _BIG else "little"), ""
        element = _element(head, at, encoding)
        if element.tag >= _FRAMES:
            return _number(head, element) if element.tag == _FRAMES else 1
        if element.tag == _SYNTAX:
            syntax = head[element.start : element.start + element.length].rstrip(b"\0 ").decode("ascii", "replace")
            if syntax == _DEFLATED:
                return 1
        at = _end(head, element, encoding, _DEEPEST)


def _number(head: bytes, element: _Element) -> int:
    digits = head[element.start : element.start + element.length].strip(b"\0 ")
    return max(1, int(digits)) if digits.isdigit() and len(digits) <= 12 else 1


def _element(head: bytes, at: int, encoding: _Encoding) -> _Element:
    if at + 12 > len(head):
        raise _Cut
    order = encoding.order

    def number(start: int, length: int) -> int:
        return int.from_bytes(head[start : start + length], order)  # type: ignore[arg-type]

    tag = number(at, 2) << 16 | number(at + 2, 2)
    kind = head[at + 4 : at + 6]
    if not encoding.explicit or tag >> 16 == 0xFFFE:
        return _Element(tag, at + 8, number(at + 4, 4))
    if kind in _LONG:
        return _Element(tag, at + 12, number(at + 8, 4))
    if _TYPE.fullmatch(kind) is None:
        raise _Cut
    return _Element(tag, at + 8, number(at + 6, 2))


def _end(head: bytes, element: _Element, encoding: _Encoding, depth: int) -> int:
    """Where the next attribute begins. A sequence without a length ends with a mark, and so does such an item."""
    if element.length != _UNDEFINED:
        return element.start + element.length
    if depth == 0:
        raise _Cut
    at, last = element.start, _ITEM_END if element.tag == _ITEM else _SEQUENCE_END
    while True:
        inner = _element(head, at, encoding)
        if inner.tag in (last, _SEQUENCE_END):
            return inner.start
        at = _end(head, inner, encoding, depth - 1)
