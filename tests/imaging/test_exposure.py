"""Brightness and contrast of an image, against numpy."""

import numpy as np
import pytest
from support.each import each

from brainray.imaging.exposure import exposure
from brainray.models.reference import exposure as exposures


@each("shape", [(64, 64), (64, 64, 3)])
def test_it_is_mean_and_standard_deviation_of_all_values(shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
    for image, brightness, contrast in zip(images, *exposures(images), strict=True):
        assert exposure(image) == pytest.approx((image.mean() / 255, image.std() / 255), abs=1e-12)
        assert (brightness, contrast) == pytest.approx(exposure(image), abs=1e-6)


def test_black_and_white_are_the_ends_of_the_scale():
    assert exposure(np.zeros((8, 8), np.uint8)) == (0.0, 0.0)
    assert exposure(np.full((8, 8), 255, np.uint8)) == (1.0, 0.0)
    assert exposure(np.array([[0, 255]], np.uint8)) == (0.5, 0.5)


def test_no_image_has_none():
    assert [len(each) for each in exposures(np.empty((0, 8, 8), np.uint8))] == [0, 0]
