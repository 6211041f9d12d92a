"""A picture whose histogram was equalised is seen as the picture it was."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from brainray.config import ImageSpec
from brainray.imaging.decode import decode
from brainray.imaging.normalise import usual_tone
from brainray.imaging.phantom import draw


def seen(image, tone="usual"):
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return decode(sink.getvalue(), ImageSpec(image_px=96, crop="head", tone=tone)).pixels.astype(int)


@pytest.mark.parametrize("index", range(8))
def test_an_equalised_slice_has_the_tones_that_it_had_before(index):
    slice_ = Image.fromarray(draw(index, seed=3)[0]).convert("L")
    before, flat = seen(slice_), ImageOps.equalize(slice_)
    assert abs(seen(flat) - before).mean() < 0.5 * abs(seen(flat, "as_is") - before).mean()


@pytest.mark.parametrize("index", range(8))
def test_any_other_slice_is_left_alone(index):
    slice_ = Image.fromarray(draw(index, seed=3)[0]).convert("L")
    assert (seen(slice_) == seen(slice_, "as_is")).all()


@given(pixels=arrays(np.uint8, st.sampled_from([(9, 9), (5, 5, 3)])))
def test_no_order_of_tones_is_turned_round(pixels):
    usual = usual_tone(pixels)
    assert usual.shape == pixels.shape
    order = np.argsort(pixels, axis=None, kind="stable")
    assert (np.diff(usual.ravel()[order].astype(int)) >= 0).all()
