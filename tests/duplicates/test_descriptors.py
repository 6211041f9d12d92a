import hashlib
from dataclasses import fields

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each
from support.imaging.pictures import cropped, head, toned

from brainray.duplicates.descriptors import POINTS, THUMBNAIL_PX, Descriptors, describe_picture, nothing


def test_a_signature_has_fixed_shapes_and_types_whatever_the_picture():
    examples = [head(0), np.zeros((3, 700), np.uint8), np.full((1, 1), 9, np.uint8)]
    for picture in examples:
        descriptor = describe_picture(picture)
        assert descriptor.thumbnail.shape == (THUMBNAIL_PX, THUMBNAIL_PX)
        assert descriptor.points.shape == (POINTS, 4)
        assert descriptor.features.shape == (POINTS, 128)
        assert (descriptor.height, descriptor.width) == picture.shape
        types = {"thumbnail": np.uint8, "points": np.float32, "features": np.uint8, "box": np.float32}
        assert {name: getattr(descriptor, name).dtype for name in types} == types


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_any_picture_has_a_signature_and_the_same_one_twice(height, width, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    first, second = (
        Descriptors.stack([describe_picture(picture)]),
        Descriptors.stack([describe_picture(picture.copy())]),
    )
    assert all((getattr(first, f.name) == getattr(second, f.name)).all() for f in fields(Descriptors))


def test_the_digest_is_of_the_pixels_and_their_shape():
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert describe_picture(picture).digest == hashlib.sha256(b"(3, 4)" + picture.tobytes()).hexdigest()
    assert describe_picture(picture).digest != describe_picture(picture.reshape(4, 3)).digest


def test_black_borders_and_brightness_leave_the_thumbnail_as_it_is():
    picture = head(1)
    bordered = np.pad(picture, 60)
    assert np.abs(describe_picture(bordered).thumbnail.astype(int) - describe_picture(picture).thumbnail).mean() < 12
    assert np.abs(describe_picture(toned(picture, lambda x: 0.6 * x)).box - describe_picture(picture).box).max() < 0.03


@each("value", [0, 128, 255])
def test_featureless_pictures_show_nothing(value):
    flat = np.full((200, 180), value, np.uint8)
    noisy = np.clip(flat + np.random.default_rng(0).normal(0, 2, flat.shape), 0, 255).astype(np.uint8)
    descriptors = Descriptors.stack(
        [describe_picture(flat), describe_picture(noisy), describe_picture(head(2)), nothing()]
    )
    assert descriptors.shows_something.tolist() == [False, False, True, False]


def test_signatures_survive_as_columns_and_in_files(tmp_path):
    rng = np.random.default_rng(0)
    descriptors = Descriptors.stack([describe_picture(cropped(head(3), 0.1, rng)) for _ in range(3)])
    back = Descriptors.from_columns(descriptors.columns() | {"other": np.zeros(3)})
    held = Descriptors.empty(5, str(tmp_path))
    assert (held.digest == b"").all()
    held.put(np.array([4, 0, 2]), descriptors)
    for field in fields(Descriptors):
        expected = getattr(descriptors, field.name)
        assert (getattr(back, field.name) == expected).all()
        assert getattr(back, field.name).dtype == expected.dtype == getattr(held, field.name).dtype
        assert (getattr(held, field.name)[[4, 0, 2]] == expected).all()
        assert (getattr(Descriptors.concatenate([back, held]), field.name)[:3] == expected).all()


def test_there_may_be_none(tmp_path):
    assert len(Descriptors.stack([])) == len(Descriptors.empty(0, str(tmp_path))) == 0
