"""The perceptual hash: copies keep nearly all bits, neighbouring slices do not."""

import io

import numpy as np
import pytest
from PIL import Image
from support.each import each
from support.imaging.pictures import head, neighbour, resized

from brainray.config import ImageSpec
from brainray.duplicates.seen import MOST_BITS
from brainray.imaging.decode import decode
from brainray.imaging.picture_hash import HASH_BYTES, hash_pictures

SPEC = ImageSpec(image_px=160)
SAVED = {"JPEG 75": ("JPEG", 75), "JPEG 40": ("JPEG", 40), "WEBP 80": ("WEBP", 80), "PNG": ("PNG", None)}


def file(picture, kind="PNG", quality=None):
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, kind, **({"quality": quality} if quality else {}))
    return sink.getvalue()


def hashes(*files, spec=SPEC):
    return hash_pictures(np.stack([decode(each, spec).pixels for each in files]))


def differing(hash_NB):
    """Bits in which the others differ from the first."""
    return np.bitwise_count(hash_NB[1:] ^ hash_NB[0]).sum(axis=1)


@pytest.mark.parametrize("index", [0, 5, 11])
def test_copies_of_another_size_format_or_compression_are_near(index):
    picture = head(index)
    copies = [file(picture, *saved) for saved in SAVED.values()]
    copies += [file(resized(picture, factor), *SAVED["JPEG 75"]) for factor in (0.6, 1.5)]
    copies += [file(np.stack([picture] * 3, axis=-1))]
    assert (differing(hashes(file(picture), *copies)) <= MOST_BITS).all()


@pytest.mark.parametrize("index", [0, 5, 11])
def test_neighbouring_slices_are_far(index):
    slices = [file(neighbour(index, step=step)) for step in (0.7, 1.0)]
    assert (differing(hashes(file(head(index)), *slices)) > 2 * MOST_BITS).all()


def test_pictures_that_show_nothing_have_no_hash():
    images = np.stack([np.full((64, 64), value, np.uint8) for value in (0, 1, 255)])
    images[1, ::2] = 9
    assert not hash_pictures(images).any()


@each("shape", [(0, 64, 64), (2, 64, 64), (2, 64, 64, 3), (1, 20, 20)])
def test_images_of_any_number_size_and_colour_are_hashed(shape):
    images = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    assert hash_pictures(images).shape == (shape[0], HASH_BYTES)


def test_colours_of_a_grey_picture_change_nothing():
    grey = np.stack([head(2)])
    assert (hash_pictures(grey) == hash_pictures(np.repeat(grey[..., None], 3, axis=-1))).all()
