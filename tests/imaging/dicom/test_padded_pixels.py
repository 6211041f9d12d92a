"""Pixels outside the picture, and values that do not stand in the lowest bits."""

from functools import partial

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless
from support.each import each
from support.imaging.dicoms import dicom

from brainray.config import ImageSpec
from brainray.errors import EXCLUSION_REASONS, ImageError
from brainray.imaging.decode import Excluded, decode, luminance

RAMP = np.tile(np.linspace(0, 4000, 64).astype(np.uint16), (64, 1))
WHOLE = luminance(dicom(RAMP))
BITS = {"BitsStored": 16, "HighBit": 15}


@each("side", [64, 400], ids=["pixels", "table"])
@each(
    ("kind", "value", "attributes"),
    [
        (np.uint16, 65535, {"PixelPaddingValue": 65535}),
        (np.int16, -32768, {"PixelPaddingValue": -32768}),
        (np.int16, -2000, {"PixelPaddingValue": -3000, "PixelPaddingRangeLimit": -1000}),
        (np.uint16, 60000, {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 59000}),
        (np.uint16, 65535, {"PixelPaddingValue": 65535, "PhotometricInterpretation": "MONOCHROME1"}),
    ],
    ids=["highest", "lowest", "range", "range from above", "inverted"],
)
def test_padding_is_black_and_does_not_wash_out_the_picture(kind, value, attributes, side):
    pixels = np.tile(np.linspace(0, 4000, side).astype(kind), (side, 1))
    known = {"PhotometricInterpretation": attributes.get("PhotometricInterpretation", "MONOCHROME2")}
    whole = luminance(dicom(pixels, **BITS, **known))
    pixels[: side // 4] = value
    shown = luminance(dicom(pixels, **BITS, **attributes))
    assert (shown[: side // 4] == 0).all()
    assert abs(shown[side // 4 :].astype(int) - whole[side // 4 :]).max() <= 1


def test_a_window_shows_padding_as_it_says():
    pixels = RAMP.copy()
    pixels[:8] = 4000
    window = {"WindowCenter": 2000, "WindowWidth": 4000}
    shown = luminance(dicom(pixels, PixelPaddingValue=4000, **window))
    assert (shown == luminance(dicom(pixels, **window))).all()


@each(
    ("value", "attributes"),
    [
        (7, {}),
        (7, {"PixelPaddingValue": 7}),
        (700, {"WindowCenter": 500, "WindowWidth": 1000}),
        (None, {"WindowCenter": -5000, "WindowWidth": 10}),  # a ramp that its window shows as white alone
    ],
)
def test_a_picture_that_shows_nothing_is_left_out_and_gets_no_prediction(value, attributes):
    content = dicom(RAMP if value is None else np.full((8, 8), value, np.uint16), **attributes)
    for read in (partial(decode, content, ImageSpec(image_px=32)), partial(luminance, content)):
        with pytest.raises(Excluded) as found:
            read(excluding=EXCLUSION_REASONS)
        assert found.value.reason == "blank"
        assert found.value.header.format == "DICOM"
        with pytest.raises(ImageError, match=r"^not_an_image: its pixels show nothing"):
            read()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless], ids=lambda s: s.name)
def test_values_in_the_highest_bits_are_shown_as_those_in_the_lowest(syntax):
    window = {"WindowCenter": 2000, "WindowWidth": 4000}
    pixels = RAMP << 4
    if syntax == ExplicitVRBigEndian:
        pixels = pixels.byteswap()
    shown = luminance(dicom(pixels, syntax, HighBit=15, **window))
    assert (shown == luminance(dicom(RAMP, **window))).all()
