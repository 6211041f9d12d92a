"""Whatever the bytes, an image has a row with a reason, and nothing of the header is in it."""

import logging
import sys
import warnings
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from support.imaging.dicoms import data_set, dicom, items, slice_pixels, written

from brainray.config import ImageSpec
from brainray.errors import EXCLUSION_REASONS, ImageError
from brainray.imaging.decode import Excluded, decode, luminance, read_header
from brainray.inputs.frames import library

SPEC = ImageSpec(image_px=32, max_pixels=1_000_000)
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
)


@cache
def whole(syntax: UID) -> bytes:
    """A sound file of a small slice, with a name in it."""
    return dicom(
        slice_pixels(64)[::2, ::2] if not syntax.is_encapsulated else slice_pixels(64),
        syntax,
        WindowCenter=1000,
        WindowWidth=2000,
        PatientName="CANARY^JANE",
        ReferencedImageSequence=items({"ReferencedSOPInstanceUID": "1.2.3"}),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    syntax=st.sampled_from(SYNTAXES),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    inserted=st.tuples(st.floats(0, 1), st.binary(max_size=12)),
)
def test_damaged_bytes_give_a_picture_or_a_reason(syntax, flips, cut, inserted):
    content = bytearray(whole(syntax))
    for place, value in flips:
        content[int(place * len(content))] = value
    at = int(inserted[0] * len(content))
    content[at:at] = inserted[1]
    damaged = bytes(content[: None if cut is None else int(cut * len(content))])
    try:
        decoded = decode(damaged, SPEC, excluding=EXCLUSION_REASONS)
    except (ImageError, Excluded) as exc:
        assert exc.reason
        assert "CANARY" not in exc.detail
        read_header(damaged)
    else:
        assert decoded.pixels.shape == (32, 32)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_a_mark_before_random_bytes_gives_a_reason(tail):
    for content in (bytes(128) + b"DICM" + tail, b"\x08\0\5\0CS\x0a\0ISO_IR 100" + tail):
        with pytest.raises((ImageError, Excluded)):
            decode(content, SPEC, excluding=EXCLUSION_REASONS)


def test_nothing_that_pydicom_says_reaches_warnings_log_or_reasons(caplog):
    made = data_set(slice_pixels(16))
    made.add_new("PatientName", "PN", "CANARY^JANE")
    content = written(made).replace(b"UI\x1a\x00", b"UI\x1b\x00", 1)
    text = dicom(slice_pixels(16), WindowCenter=1, WindowWidth=2).replace(b"DS\x02\x001 ", b"DS\x02\x00?C")
    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        for each in (content, text, content[:300]):
            try:
                decode(each, SPEC)
            except ImageError as exc:
                assert "CANARY" not in exc.detail
    assert [str(one.message) for one in said] == []
    assert "CANARY" not in caplog.text


def test_the_header_of_a_picture_that_is_refused_is_told():
    content = dicom(slice_pixels(16))[:-10]
    found = read_header(content)
    assert (found.width, found.height, found.format) == (16, 16, "DICOM")
    assert found.facts.modality == "MR"


def test_deep_sequences_do_not_overflow():
    depth = 3000
    nested = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * depth
    content = dicom(slice_pixels(16))[:132] + nested
    with pytest.raises((ImageError, Excluded)):
        decode(content, SPEC)


def test_a_jpeg_is_one_whatever_its_name():
    jpeg = b"\xff\xd8\xff\xe0" + bytes(30)
    with pytest.raises(ImageError) as found:
        decode(jpeg, SPEC)
    assert found.value.reason == "truncated"
    assert found.value.detail.startswith("JPEG")


def test_without_the_extra_the_row_says_how_to_install_it(monkeypatch):
    library._imported.cache_clear()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    try:
        with pytest.raises(ImageError) as found:
            decode(whole(ExplicitVRLittleEndian), SPEC)
    finally:
        library._imported.cache_clear()
    assert found.value.reason == "unsupported"
    assert "pip install 'brainray[dicom]'" in found.value.detail


def test_training_and_scoring_see_the_same_picture():
    content = whole(ExplicitVRLittleEndian)
    assert luminance(content).shape == (32, 32)
    assert np.array_equal(decode(content, SPEC).pixels, decode(content, SPEC, excluding=EXCLUSION_REASONS).pixels)


def test_a_size_of_no_known_type_is_a_size_that_is_missing():
    """pydicom converts a value without bytes as soon as it is asked for; found by a fuzzer."""
    content = dicom(preamble=False, Columns=None)
    rows = content.index(b"\x28\0\x10\0US")
    content = content[:rows] + b"\x28\0\x11\0U \0\0" + content[rows:]
    with pytest.raises(ImageError, match="truncated"):
        decode(content, ImageSpec())
    assert read_header(content).width is None
