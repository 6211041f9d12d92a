"""The head is found whatever the margins and what is around it; tones are as before a histogram was equalised."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from support.each import each

from brainray.config import ImageSpec
from brainray.imaging.decode import decode
from brainray.imaging.normalise import head_box, usual_tone
from brainray.imaging.phantom import draw

SPEC = ImageSpec(image_px=96, crop="head")


def head(width=200, height=240):
    """A bright ellipse with structure inside, up to its frame."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    draw.ellipse((0, 0, width - 1, height - 1), fill=180)
    draw.ellipse((12, 12, width - 13, height - 13), fill=90)
    draw.rectangle((width * 0.6, height * 0.3, width * 0.75, height * 0.45), fill=230)
    return image


def framed(picture, *, left=0, top=0, right=0, bottom=0, shade=0):
    width, height = picture.size
    image = Image.new("L", (width + left + right, height + top + bottom), shade)
    image.paste(picture, (left, top), picture.point(lambda value: 255 * (value > 0)))
    return image


def packed(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def alike(first, second):
    """Correlation of two arrays as the model takes them."""
    return float(np.corrcoef(first.pixels.ravel(), second.pixels.ravel())[0, 1])


@each("shade", [0, 20], ids=["black", "grey"])
@each("margins", [{"left": 300}, {"top": 120, "bottom": 40}, {"left": 90, "right": 90, "top": 70}])
@each("format", ["PNG", "JPEG"])
def test_margins_of_any_width_are_cut_off(margins, shade, format):
    image = framed(head(), **margins, shade=shade)
    left, top = margins.get("left", 0), margins.get("top", 0)
    found = head_box(Image.open(io.BytesIO(packed(image, format))), (0, 0, *image.size))
    assert found == pytest.approx((left, top, left + 200, top + 240), abs=0.02 * 240)
    bare = decode(packed(framed(head(), shade=shade)), SPEC)
    assert alike(bare, decode(packed(image, format), SPEC)) > 0.92


def test_letters_beside_the_head_do_not_count():
    image = framed(head(), left=200, right=200, top=40)
    ImageDraw.Draw(image).text((4, 4), "PATIENT 1  SE 3/12  L", fill=255)
    assert alike(decode(packed(head()), SPEC), decode(packed(image), SPEC)) > 0.92


def test_width_and_height_told_are_those_of_the_whole_picture():
    decoded = decode(packed(framed(head(), left=300)), SPEC)
    assert (decoded.width, decoded.height) == (500, 240)


@each("shade", [0, 128, 255])
def test_where_nothing_stands_out_the_whole_picture_is_taken(shade):
    image = Image.new("L", (300, 200), shade)
    assert head_box(image, (0, 0, 300, 200)) == (0, 0, 300, 200)


def test_a_turned_picture_is_cropped_like_an_upright_one():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    image = framed(head(), left=150)
    buffer = io.BytesIO()
    image.rotate(90, expand=True).save(buffer, "JPEG", exif=exif)
    assert alike(decode(packed(head()), SPEC), decode(buffer.getvalue(), SPEC)) > 0.92


ROUNDED_OUT = np.zeros((7, 9), np.uint8)
ROUNDED_OUT[[4, 5, 6], [0, 1, 0]] = 14, 29, 14  # the lower end of its box was 1e-15 below the picture


@settings(max_examples=60)
@given(arrays(np.uint8, st.tuples(st.integers(1, 80), st.integers(1, 80))))
@example(ROUNDED_OUT)
def test_the_box_lies_in_the_picture_and_is_not_empty(values):
    height, width = values.shape
    left, top, right, bottom = head_box(Image.fromarray(values), (0, 0, width, height))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_the_head_is_found_after_equalisation_of_the_whole_histogram():
    """Which lifts what little light there is in the air around it to a middle grey."""
    rng = np.random.default_rng(0)
    image = framed(head(), left=150, right=60, top=40, bottom=90)
    tissue = np.asarray(image) * rng.uniform(0.4, 1, image.size[::-1])
    glow = rng.poisson(np.asarray(image.filter(ImageFilter.GaussianBlur(80))) / 12)
    flat = ImageOps.equalize(Image.fromarray(np.maximum(tissue, glow).astype(np.uint8)))
    assert np.asarray(flat)[100:250, :140].mean() > 50, "the air is lifted"
    assert head_box(flat, (0, 0, *flat.size)) == pytest.approx((150, 40, 350, 280), abs=0.03 * 240)


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
