"""Frames of an animated GIF: how many there are, and each as a GIF of its own.

Layout: https://www.w3.org/Graphics/GIF/spec-gif89a.txt. A frame that covers the whole picture needs no other. Of any
other the file holds all frames since such a one, and has a mark: its last frame is the picture.
"""

from collections.abc import Sequence
from typing import NamedTuple

from brainray.errors import ImageError
from brainray.inputs.frames.sources import Image

from .tiff import MOST_PAGES

MOST_BYTES = 64 << 20  # a larger file is read as one image
_MARK = b"\x21\xff\x0bBRAINRAY1.0\0"  # an application extension of our own, without data
_HEADER = 13  # bytes, and the table of colours that may follow
_EXTENSION, _PICTURE, _END = 0x21, 0x2C, 0x3B
_CONTROL = 0xF9
_TABLE, _TRANSPARENT = 0x80, 1


class _Frame(NamedTuple):
    start: int  # of its control extension, where it has one
    end: int
    alone: bool  # whether it hides all frames before


def is_gif(head: bytes) -> bool:
    """Whether a file is GIF by its first bytes."""
    return head[:6] in (b"GIF87a", b"GIF89a")


def frames_in(data: bytes) -> int:
    """The number of frames of a whole file, at least 1, and no more than one above `MOST_PAGES`."""
    return max(1, len(_frames(data)))


def shows_last(data: bytes) -> bool:
    """Whether its last frame is the picture: it is a frame of another file, with those that it lies on."""
    return is_gif(data) and data.startswith(_MARK, _after_header(data))


def read_frames(data: bytes, numbers: Sequence[int]) -> tuple[Image, ...]:
    """The frames at these places, from 0, each as a file of its own."""
    frames = _frames(data)
    header = data[: _after_header(data)]
    found: list[Image] = []
    for number in numbers:
        if number >= len(frames):
            found.append(ImageError("truncated", "the file has no such frame"))
            continue
        first = max(place for place in range(number + 1) if place == 0 or frames[place].alone)
        blocks = data[frames[first].start : frames[number].end]
        found.append(b"".join((header, _MARK if first < number else b"", blocks, bytes([_END]))))
    return tuple(found)


def _after_header(data: bytes) -> int:
    flags = data[10] if len(data) > 10 else 0
    return _HEADER + _table_bytes(flags)


def _table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & _TABLE else 0


def _frames(data: bytes) -> list[_Frame]:
    """All frames; the last one may be cut."""
    frames: list[_Frame] = []
    at, control, transparent = _after_header(data), -1, False
    while at < len(data) and len(frames) <= MOST_PAGES:
        kind = data[at]
        if kind == _EXTENSION:
            if data[at + 1 : at + 2] == bytes([_CONTROL]) and len(data) > at + 3:
                control, transparent = at, bool(data[at + 3] & _TRANSPARENT)
            at = _after_blocks(data, at + 2)
        elif kind == _PICTURE and at + 10 <= len(data):
            start = at if control < 0 else control
            alone = data[at + 1 : at + 9] == bytes(4) + data[6:10] and not transparent
            at = _after_blocks(data, at + 11 + _table_bytes(data[at + 9]))
            frames.append(_Frame(start, at, alone))
            control, transparent = -1, False
        else:  # the end, or damage
            break
    return frames


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return min(at + 1, len(data))
