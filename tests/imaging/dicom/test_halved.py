"""JPEG 2000 pictures that are much larger than the model's are unpacked in a reduced size."""

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless
from support.imaging.dicoms import dicom, slice_pixels

from brainray.config import ImageSpec
from brainray.imaging.decode import decode, decode_with_luminance, luminance
from brainray.imaging.dicom import halved

SPEC = ImageSpec(image_px=32, crop="head")
WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000}


@pytest.fixture
def unpacked(monkeypatch):
    """How often the size of each picture was halved."""
    seen = []
    real = halved.unpack_halved

    def unpack(coded, halvings, **said):
        found = real(coded, halvings, **said)
        seen.append(halvings if found is not None else 0)
        return found

    monkeypatch.setattr(halved, "unpack_halved", unpack)
    return seen


@pytest.mark.parametrize("lowest", [0, -1000])
def test_a_halved_picture_is_that_of_the_whole_one(unpacked, lowest):
    pixels = slice_pixels(128).astype(np.int16 if lowest else np.uint16) + lowest
    attributes = WINDOW | {"WindowCenter": 1000 + lowest}
    whole, small = (
        decode(dicom(pixels, **attributes), SPEC),
        decode(dicom(pixels, JPEG2000Lossless, **attributes), SPEC),
    )
    assert unpacked == [1]
    assert (small.width, small.height, small.note) == (whole.width, whole.height, None)
    assert np.abs(np.subtract(small.square, whole.square)).max() < 3
    assert np.abs(small.pixels.astype(int) - whole.pixels).mean() < 4, "without the shift by a quarter it is 9"


def test_training_sees_the_pixels_that_are_scored(unpacked):
    content = dicom(slice_pixels(128), JPEG2000Lossless, **WINDOW)
    decoded, grey = decode_with_luminance(content, SPEC)
    assert np.array_equal(decoded.pixels, decode(content, SPEC).pixels)
    assert np.array_equal(grey, luminance(dicom(slice_pixels(128), **WINDOW)))
    assert unpacked == [1, 1]


def test_marks_of_padding_are_not_mixed_with_their_neighbours(unpacked):
    padded = WINDOW | {"PixelPaddingValue": 0}
    whole = decode(dicom(slice_pixels(128), **padded), SPEC)
    assert np.array_equal(decode(dicom(slice_pixels(128), JPEG2000Lossless, **padded), SPEC).pixels, whole.pixels)
    assert unpacked == []


def test_a_picture_that_is_not_as_its_header_says_is_unpacked_whole(unpacked):
    bits_stored = b"\x28\0\x01\x01US\x02\0"
    content = dicom(slice_pixels(128), JPEG2000Lossless, **WINDOW)
    wrong = content.replace(bits_stored + b"\x0c\0", bits_stored + b"\x0d\0")
    assert decode(wrong, SPEC).width == 128
    assert unpacked == [0]


def test_a_size_that_is_no_multiple_is_halved_less():
    assert halved.halvings_for((1024, 1024), (200, 200)) == 2
    assert halved.halvings_for((1022, 1022), (200, 200)) == 1
    assert halved.halvings_for((511, 512), (100, 100)) == 0
    assert halved.halvings_for((256, 256), (200, 200)) == 0
