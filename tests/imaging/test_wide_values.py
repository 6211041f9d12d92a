"""16-bit colours, of which scanners and viewers use 12 bits: they are scaled as 16-bit grey is."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from support.each import each

from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.decode import decode, luminance

GRAY, RGB = ImageSpec(image_px=50), ImageSpec(image_px=50, channels=3)
GREY_HW = (np.add.outer(np.arange(50), np.arange(50)) * 41).astype(np.uint16)  # 0 to 4018 of 65535
OPAQUE_HW = np.full_like(GREY_HW, 65535)


def packed(values, suffix=".png"):
    return cv2.imencode(suffix, values)[1].tobytes()


def grey_with_alpha(values_HW, alpha_HW):
    """A PNG of colour type 4, which OpenCV does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values_HW.shape
    lines = np.dstack([values_HW, alpha_HW]).astype(">u2")
    body = b"".join(b"\0" + line.tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


@each(
    "data",
    [
        packed(np.dstack([GREY_HW] * 3)),
        packed(np.dstack([GREY_HW] * 3), ".tif"),
        packed(np.dstack([*[GREY_HW] * 3, OPAQUE_HW])),
        grey_with_alpha(GREY_HW, OPAQUE_HW),
    ],
    ids=["PNG", "TIFF", "PNG with alpha", "grey PNG with alpha"],
)
def test_colours_of_12_bits_in_16_are_as_bright_as_grey(data):
    """Their high byte alone is nearly black, which a model would call healthy."""
    expected = decode(packed(GREY_HW), GRAY).pixels.astype(int)
    assert expected.max() == 255
    assert np.abs(decode(data, GRAY).pixels.astype(int) - expected).max() <= 2
    assert np.abs(luminance(data).astype(int) - luminance(packed(GREY_HW)).astype(int)).max() <= 2


def test_colours_keep_their_order_and_one_scale():
    blue_green_red = np.dstack([GREY_HW // 4, GREY_HW // 2, GREY_HW])
    pixels = decode(packed(blue_green_red), RGB).pixels.astype(int)
    assert [pixels[..., k].max() for k in range(3)] == pytest.approx([255, 127, 63], abs=5)


def test_what_is_transparent_is_black():
    half = OPAQUE_HW.copy()
    half[:, :25] = 0
    pixels = decode(packed(np.dstack([*[GREY_HW] * 3, half])), GRAY).pixels
    assert not pixels[:, :24].any() and pixels[:, 26:].any()


def test_one_colour_is_no_image():
    with pytest.raises(ImageError, match="PNG pixels: all have the value 7"):
        decode(packed(np.full((20, 20, 3), 7, np.uint16)), GRAY)


def test_a_file_that_is_cut_off_is_truncated():
    data = packed(np.dstack([GREY_HW] * 3))
    with pytest.raises(ImageError, match="truncated") as error:
        decode(data[: len(data) // 2], GRAY)
    assert error.value.reason == "truncated"
