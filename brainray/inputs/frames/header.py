"""Reads the number of frames from the first bytes of a DICOM file, without pydicom: listing asks every file.

Walks over the attributes (PS3.5, 7.1), which ascend by tag, up to `NumberOfFrames`, (0028,0008). Attributes of
sequences are passed over. Never raises for damaged bytes. `packed` has files that are packed as a whole.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

HEAD_BYTES = 64 << 10  # the attributes before (0028,0008) take 2 to 20 kB; private ones may take more
_MARK, _PREAMBLE = b"DICM", 128
_LONG = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR", b"SV", b"UV"))
# By the order of bytes: group, number, type and length of an attribute, and a length of four bytes.
_SHORT = {"little": struct.Struct("<HH2sH"), "big": struct.Struct(">HH2sH")}
_LENGTH_OF = {"little": struct.Struct("<I"), "big": struct.Struct(">I")}
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 50  # sequences within sequences
_META, _LENGTH, _SYNTAX, _FRAMES = 0x0002, 0x00020000, 0x00020010, 0x00280008  # a group, and tags
_SAMPLES, _ROWS, _COLUMNS, _BITS = 0x00280002, 0x00280010, 0x00280011, 0x00280100
_DELIMITERS, _ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_IMPLICIT, _EXPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
_BARE = re.compile(rb"(?P<big>\0[\x02\x08]\0[\0-\x1f])|[\x02\x08]\0[\0-\x1f]\0", re.DOTALL)
_TYPE = re.compile(rb"[A-Z]{2}")


class _Encoding(NamedTuple):
    explicit: bool = True
    order: str = "little"


class _Element(NamedTuple):
    tag: int
    start: int  # of the value
    length: int
    order: str  # of the bytes of a number


class _Cut(Exception):
    """The bytes end, or are no attributes."""


def frames_in(head: bytes) -> int:
    """The number of frames by the first bytes of a file: 0 for one that is no DICOM, 1 where it does not say."""
    found = frames_told(head)
    return 1 if found is None else found


def frames_told(head: bytes) -> int | None:
    """As `frames_in`; None where the bytes end before they tell, or are damaged."""
    begin = _begin(head)
    if begin is None:
        return 0
    try:
        for element in _attributes(head, *begin):
            if element.tag >= _FRAMES:
                return _number(head, element) if element.tag == _FRAMES else 1
    except _Cut:
        return None
    return 1


def frame_bytes_in(head: bytes) -> int | None:
    """The bytes of a frame by the first bytes of a file; None where these do not tell, or its frames are compressed."""
    begin = _begin(head)
    values = dict.fromkeys((_SAMPLES, _ROWS, _COLUMNS, _BITS), 0)
    try:
        for element in _attributes(head, *begin) if begin else ():
            if element.tag == _SYNTAX and _text(head, element) not in ("", _IMPLICIT, _EXPLICIT, _BIG):
                return None
            if element.tag in values:
                order = element.order
                values[element.tag] = int.from_bytes(head[element.start : element.start + 2], order)  # type: ignore[arg-type]
            if element.tag >= _BITS:
                break
    except _Cut:
        pass
    bits = (values[_SAMPLES] or 1) * values[_ROWS] * values[_COLUMNS] * values[_BITS]
    return -(-bits // 8) or None


def deflated_at(head: bytes) -> int | None:
    """Where a data set begins that is deflated (PS3.5, A.5), by the first bytes of a file; None for any other.

    None also where its first group is damaged, although it seems to say so: see `may_be_deflated`.
    """
    at, syntax = _after_meta(head)
    return at if syntax == DEFLATED else None


def may_be_deflated(head: bytes) -> bool:
    """Whether pydicom might unpack a file, without a limit, of which `deflated_at` cannot tell where that begins."""
    return not _after_meta(head)[1] and DEFLATED.encode() in head


def plain_meta(head: bytes, end: int) -> bytes:
    """The beginning of a file whose deflated data set begins at `end`, for that data set when it is unpacked."""
    kept = [bytes(_PREAMBLE), _MARK]
    at, _ = _begin(head) or (end, None)
    while at < end:
        element = _element(head, at, _Encoding())
        following = _end(head, element, _Encoding(), _DEEPEST)
        if element.tag == _SYNTAX:
            kept.append(b"\2\0\x10\0UI" + len(_EXPLICIT + "\0").to_bytes(2, "little") + _EXPLICIT.encode() + b"\0")
        elif element.tag != _LENGTH:
            kept.append(head[at:following])
        at = following
    return b"".join(kept)


def _after_meta(head: bytes) -> tuple[int, str]:
    """Where the data set begins, and the transfer syntax; no syntax where the first group is damaged, or not there."""
    at, encoding = _begin(head) or (len(head), _Encoding())
    syntax = ""
    if encoding != _Encoding():
        return at, syntax
    try:
        while int.from_bytes(head[at : at + 2], "little") == _META:
            element = _element(head, at, encoding)
            syntax = _text(head, element) if element.tag == _SYNTAX else syntax
            at = _end(head, element, encoding, _DEEPEST)
    except _Cut:
        return at, ""
    return at, syntax


def _begin(head: bytes) -> tuple[int, _Encoding] | None:
    """Where the first attribute begins, and how it is encoded; None for a file that is no DICOM."""
    start = _PREAMBLE + len(_MARK) if head[_PREAMBLE : _PREAMBLE + len(_MARK)] == _MARK else 0
    bare = _BARE.match(head, start)
    if bare is None:
        return None
    return start, _Encoding(_TYPE.match(head, start + 4) is not None, "big" if bare["big"] else "little")


def _attributes(head: bytes, at: int, encoding: _Encoding) -> Iterator[_Element]:
    """The attributes in order, but those of a deflated data set. Raises `_Cut` at the end of the bytes."""
    syntax = ""
    while True:
        if syntax and int.from_bytes(head[at : at + 2], "little") != _META:  # the data set begins
            encoding, syntax = _Encoding(syntax != _IMPLICIT, "big" if syntax == _BIG else "little"), ""
        element = _element(head, at, encoding)
        yield element
        if element.tag == _SYNTAX:
            syntax = _text(head, element)
            if syntax == DEFLATED:
                return
        at = _end(head, element, encoding, _DEEPEST)


def _text(head: bytes, element: _Element) -> str:
    return head[element.start : element.start + element.length].rstrip(b"\0 ").decode("ascii", "replace")


def _number(head: bytes, element: _Element) -> int:
    digits = head[element.start : element.start + element.length].strip(b"\0 ")
    return max(1, int(digits)) if digits.isdigit() and len(digits) <= 12 else 1


def _element(head: bytes, at: int, encoding: _Encoding) -> _Element:
    if at + 12 > len(head):
        raise _Cut
    order = encoding.order
    group, number, kind, length = _SHORT[order].unpack_from(head, at)
    tag = group << 16 | number
    if not encoding.explicit or group == _DELIMITERS:
        return _Element(tag, at + 8, _LENGTH_OF[order].unpack_from(head, at + 4)[0], order)
    if kind in _LONG:
        return _Element(tag, at + 12, _LENGTH_OF[order].unpack_from(head, at + 8)[0], order)
    if not (kind.isalpha() and kind.isupper()):
        raise _Cut
    return _Element(tag, at + 8, length, order)


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
