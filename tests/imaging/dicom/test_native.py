"""The pixels of usual files are those that pydicom gives, bit by bit."""

from itertools import chain
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from support.each import each
from support.imaging.dicoms import dicom, slice_pixels

from brainray.errors import ImageError
from brainray.imaging.dicom import pixels as pixels_module
from brainray.imaging.dicom.header import count_of, read_header
from brainray.imaging.dicom.native import usual_pixels
from brainray.imaging.dicom.pixels import picture

DATA = Path(pydicom.__file__).parent / "data"
NAMES = sorted(chain((DATA / "test_files").glob("*.dcm"), (DATA / "charset_files").glob("*.dcm")))


def usual(content: bytes):
    header = read_header(content, most_inflated=1 << 26)
    return usual_pixels(header, (count_of(header, "Columns"), count_of(header, "Rows")))


def whole(content: bytes, monkeypatch) -> tuple[bytes, str | None]:
    """The picture as it is without the short cuts."""
    with monkeypatch.context() as patch:
        patch.setattr(pixels_module, "usual_pixels", lambda *_: None)
        patch.setattr(pixels_module, "_has_wide_tables", lambda: False)
        patch.setattr(pixels_module, "_EXACT_FLOATS", 0)
        return shown(content)


def shown(content: bytes) -> tuple[bytes, str | None]:
    found = picture(read_header(content, most_inflated=1 << 26), 100_000_000)
    return found.image.tobytes(), found.note


def test_files_of_pydicom_have_the_pixels_that_it_gives_them():
    read = 0
    for path in NAMES:
        content = path.read_bytes()
        try:
            found = usual(content)
        except ImageError:
            continue
        if found is not None:
            read += 1
            expected = pydicom.dcmread(path, force=True).pixel_array
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected), path.name
    assert read > 5


@each("attributes", [{}, {"WindowCenter": 900, "WindowWidth": 700}, {"PixelPaddingValue": 0}])
@each("name", ["MR_small.dcm", "CT_small.dcm"])
def test_pictures_are_the_same_without_short_cuts(name, attributes, monkeypatch):
    path = DATA / "test_files" / name
    header = pydicom.dcmread(path)
    content = dicom(header.pixel_array, **attributes) if attributes else path.read_bytes()
    assert shown(content) == whole(content, monkeypatch)


@given(
    st.sampled_from([np.uint8, np.int8, np.uint16, np.int16]),
    st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]),
    st.integers(1, 16),
    st.integers(0, 16),
    st.sampled_from([20, 2**16]),
    st.integers(0, 2**32 - 1),
)
def test_values_of_any_bits_are_those_of_pydicom(kind, syntax, bits_stored, above, most, seed):
    allocated = 8 * np.dtype(kind).itemsize
    bits_stored = min(bits_stored, allocated)
    high = min(bits_stored - 1 + above, allocated - 1)
    random = np.random.default_rng(seed)
    span = np.iinfo(kind)
    low, high_value = sorted(random.integers(span.min, span.max, 2, endpoint=True).tolist())
    values = random.integers(low, min(high_value, low + most), (5, 7), endpoint=True).astype(kind)
    content = dicom(values, syntax, BitsStored=bits_stored, HighBit=high)
    found = usual(content)
    assert found is not None
    patch = pytest.MonkeyPatch()
    assert shown(content) == whole(content, patch)


@each(
    "attributes",
    [
        {"HighBit": None},
        {"SamplesPerPixel": None},
        {"PixelRepresentation": 2},
        {"BitsStored": 0},
        {"HighBit": 3},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PixelData": bytes(40)},
        {"PixelData": bytes(64 * 64 * 2 + 2)},
    ],
)
def test_what_is_not_as_usual_is_left_to_pydicom(attributes):
    assert usual(dicom(**attributes)) is None
    assert usual(dicom(slice_pixels(32), RLELossless)) is None
