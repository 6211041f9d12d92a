"""Reads the structure of a JPEG where Pillow gives up: its coding process, and whether only the end marker is missing.

Never raises for damaged bytes. The markers are those of ITU-T T.81, table B.1, and of T.87 for JPEG-LS.
"""

import io
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from PIL.JpegImagePlugin import JpegImageFile

_END = b"\xff\xd9"
_FRAMES = {  # frame markers (SOF) of the processes that are not Huffman-coded DCT
    0xC3: "a lossless JPEG",
    0xC5: "a hierarchical JPEG",
    0xC6: "a hierarchical JPEG",
    0xC7: "a hierarchical JPEG",
    0xC9: "an arithmetic-coded JPEG",
    0xCA: "an arithmetic-coded JPEG",
    0xCB: "an arithmetic-coded lossless JPEG",
    0xCD: "a hierarchical JPEG",
    0xCE: "a hierarchical JPEG",
    0xCF: "a hierarchical JPEG",
    0xF7: "a JPEG-LS image",
}
_USUAL_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_SCAN = 0xDA
_COEFFICIENTS = 64
_FEW_ZEROS = 4  # an interrupted copy has more at its end; the last few bits of an image may show in no pixel
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # RST0 to RST7 and stuffed zeros belong to the coded data
# Bytes in the place of missing coded data, unlike what the decoder itself fills in. No 0xff, which begins a marker.
_OTHER_DATA = bytes(random.Random(0).choices(range(1, 255), k=4096))


@dataclass(frozen=True, slots=True)
class _Segment:
    """A marker with the content of its segment, which is empty for a marker that has none."""

    marker: int
    content: bytes


def unread_process(data: bytes) -> str | None:
    """What a JPEG is that uses a coding process or a precision that is not read; None for a usual one."""
    for segment in _segments(data):
        if segment.marker in _FRAMES or segment.marker in _USUAL_FRAMES:
            bits = segment.content[0] if segment.content else 8
            process = _FRAMES.get(segment.marker)
            if process is None:
                return f"a {bits}-bit JPEG" if bits != 8 else None
            return process if bits == 8 else f"{process} of {bits} bits"
    return None


def is_12_bit_grey(data: bytes) -> bool:
    """Whether it is a JPEG of 12 bits and one component in a usual process."""
    for segment in _segments(data):
        if segment.marker in _FRAMES or segment.marker in _USUAL_FRAMES:
            return segment.marker in _USUAL_FRAMES and segment.content[:1] == b"\x0c" and segment.content[5:6] == b"\1"
    return False


def has_end(data: bytes) -> bool:
    """Whether there is an end marker, other bytes after it or not. That of an embedded thumbnail does not count."""
    return data.endswith(_END) or any(segment.marker == _END[1] for segment in _segments(data))


def ended(data: bytes) -> bytes | None:
    """The JPEG with an end marker (EOI), where that is all it lacks; None where its pixels are incomplete.

    An interrupted copy may have zeros at its end, which decode to something, too: they count as coded data only where
    the image needs all but a few of them.
    """
    body = _without_zeros(data)
    if not _has_all_scans(body):
        return None
    if _is_complete(body):
        return body + _END
    exact = data.endswith(b"\0") and _is_complete(data) and not _is_complete(data[:-_FEW_ZEROS])
    return data + _END if exact else None


def _without_zeros(data: bytes) -> bytes:
    """The data without zeros or half an end marker at its end. A zero after 0xff belongs to the coded data."""
    body = data.rstrip(b"\0")
    if len(body) == len(data):
        return data.removesuffix(b"\xff")
    return body + b"\0" if body.endswith(b"\xff") else body


def _is_complete(body: bytes) -> bool:
    """Whether the coded data suffices for all pixels, which the decoder does not say.

    It is decoded with two different ends: they change the pixels only where data is missing.
    """
    try:
        return _pixels(body + _END) == _pixels(body + _OTHER_DATA + _END)
    except Exception:  # noqa: BLE001  damaged in another way, which the caller has the error of
        return False


def _pixels(data: bytes) -> bytes:
    with JpegImageFile(io.BytesIO(data)) as image:
        return image.tobytes()


def _has_all_scans(data: bytes) -> bool:
    """Whether the last scan is the end of the data, and the scans hold every coefficient in full precision."""
    missing: dict[int, set[int]] = {}
    last = 0
    for segment in _segments(data):
        last, content = segment.marker, segment.content
        if last in _USUAL_FRAMES:
            missing = {number: set(range(_COEFFICIENTS)) for number in content[6::3]}
        elif last == _SCAN and content:
            count = content[0]
            first, final, bits_left = (*content[1 + 2 * count :], 0, 0, 0)[:3]
            if bits_left & 0x0F == 0:
                for number in content[1 : 1 + 2 * count : 2]:
                    missing.get(number, set()).difference_update(range(first, final + 1))
    return last == _SCAN and bool(missing) and not any(missing.values())


def _segments(data: bytes) -> Iterator[_Segment]:
    """The segments in order. Coded data, which follows a scan's header, is passed over."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        start = found.end()
        length = max(2, int.from_bytes(data[start : start + 2])) if found[1] != b"\xd9" else 0
        yield _Segment(found[1][0], data[start + 2 : start + length])
        at = start + length
