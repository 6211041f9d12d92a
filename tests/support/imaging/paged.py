"""Draws TIFF files of several pages and animated GIF files."""

import struct
from typing import Any

import numpy as np
from PIL import Image
from support.imaging.encoded import drawing, packed


def pages(count: int, height: int = 48, width: int = 64) -> list[Image.Image]:
    """Different pictures, the first of which is `drawing`."""
    whole = drawing(height, width)
    return [Image.fromarray(np.roll(whole, 7 * number, axis=number % 2)) for number in range(count)]


def tiff(pictures: list[Image.Image], **options: Any) -> bytes:
    return packed(pictures[0], "TIFF", save_all=True, append_images=pictures[1:], **options)


def gif(pictures: list[Image.Image], **options: Any) -> bytes:
    return packed(pictures[0], "GIF", save_all=True, append_images=pictures[1:], **options)


def moving(count: int) -> list[Image.Image]:
    """Pictures that differ in a part only, of which a GIF stores no more."""
    found = []
    for number in range(count):
        picture = np.full((48, 64), 30, np.uint8)
        picture[4 + number : 20 + number, 8:24] = 200 - 9 * number
        found.append(Image.fromarray(picture))
    return found


def with_kinds(content: bytes, kinds: dict[int, int]) -> bytes:
    """A little-endian TIFF in which the pages of these numbers, from 0, are of other kinds (NewSubfileType)."""
    data = bytearray(content)
    (at,) = struct.unpack_from("<I", data, 4)
    number = 0
    while at:
        (count,) = struct.unpack_from("<H", data, at)
        if number in kinds:
            tags = [data[at + 2 + 12 * k : at + 14 + 12 * k] for k in range(count)]
            new = struct.pack("<HHII", 254, 4, 1, kinds[number])
            behind = len(data)
            following = data[at + 2 + 12 * count : at + 6 + 12 * count]
            data += struct.pack("<H", count + 1) + new + b"".join(tags) + following
            _point_at(data, number, behind)
            at = behind
            count += 1
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * count)
        number += 1
    return bytes(data)


def _point_at(data: bytearray, number: int, place: int) -> None:
    """Let the page before point at this place."""
    pointer = 4
    for _ in range(number):
        (at,) = struct.unpack_from("<I", data, pointer)
        (count,) = struct.unpack_from("<H", data, at)
        pointer = at + 2 + 12 * count
    struct.pack_into("<I", data, pointer, place)
