"""Packed files take the memory of what they unpack to once, and no more than they may."""

import gzip
import io
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian
from support.imaging.dicoms import dicom, items, slice_pixels
from support.inputs.archives import zip_of

from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.decode import decode, luminance
from brainray.imaging.dicom.header import read_header
from brainray.imaging.gzipped import unzipped
from brainray.inputs.archives import list_members, unpack
from brainray.inputs.frames import packed
from brainray.inputs.frames.header import HEAD_BYTES, deflated_at, plain_meta
from brainray.inputs.frames.inflated import InflatedFile
from brainray.inputs.frames.sources import within

MIB = 1 << 20
LARGE = 24 * MIB  # unpacked: well above the pieces in which it is unpacked
NESTED = {"OtherPatientIDsSequence": items({"PatientID": "1"}), "WindowCenter": 900, "WindowWidth": 1800}


def peak_of(call: Callable[[], object]) -> float:
    """The memory that a call takes at its most, beside what was there, in bytes that Python allocates."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def large() -> bytes:
    side = 2048
    return dicom(np.zeros((3, side, side), np.uint16), DeflatedExplicitVRLittleEndian)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    for name in ("packed._STEP", "inflated._STEP"):
        monkeypatch.setattr(f"brainray.inputs.frames.{name}", MIB)
    monkeypatch.setattr("brainray.imaging.gzipped._STEP", MIB)
    monkeypatch.setattr("brainray.inputs.archives.zip_file._PIECE_BYTES", MIB)


def test_a_gzip_file_is_unpacked_once():
    content = gzip.compress(bytes(LARGE))
    assert peak_of(lambda: unzipped(content, 100 * MIB)) < 1.3 * LARGE


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["deflated", "deflated in gzip"])
def test_frames_of_a_packed_file_take_it_once(wrap, large):
    content = wrap(large)
    assert peak_of(lambda: packed.unpack(within(content), len(content))) < 1.3 * LARGE + 4 * MIB


def test_a_deflated_file_is_read_without_a_copy_of_it(large):
    at = deflated_at(large[:HEAD_BYTES])

    def read():
        file = InflatedFile(plain_meta(large[:HEAD_BYTES], at), memoryview(large)[at:], 100 * MIB)
        assert len(dcmread(file).PixelData) == LARGE

    assert peak_of(read) < 1.3 * LARGE + 4 * MIB


def test_a_member_of_a_zip_is_unpacked_once():
    data = zip_of({"a.dcm": bytes(LARGE)})
    (row,) = [row for table in list_members("zip", io.BytesIO(data)) for row in table.to_pylist()]
    stored = data[row["offset"] :][: row["stored_bytes"]]
    assert peak_of(lambda: unpack("zip", "a.dcm", row["size_bytes"], stored)) < 1.3 * LARGE + 3 * MIB


@pytest.mark.parametrize("hostile", ["gzip", "deflated", "deflated in gzip"])
def test_a_bomb_takes_no_more_than_an_image_of_that_size_may(hostile):
    """The header promises a small picture, and zeros without end follow it."""
    small = dicom(slice_pixels(32), DeflatedExplicitVRLittleEndian)
    at = deflated_at(small)
    packer = zlib.compressobj(wbits=-15)
    endless = zlib.decompress(small[at:], -15) + b"\xfe\x7f\x10\x00OB\0\0\xf0\xff\xff\xff" + bytes(40 * MIB)
    bomb = small[:at] + packer.compress(endless) + packer.flush()
    content = {"gzip": gzip.compress(bytes(40 * MIB)), "deflated": bomb, "deflated in gzip": gzip.compress(bomb)}[
        hostile
    ]
    spec = ImageSpec(max_pixels=2 * MIB)

    def refused():
        with pytest.raises(ImageError, match="too_large"):
            decode(content, spec)

    refused()
    assert peak_of(refused) < 1.3 * 4 * spec.max_pixels + 5 * MIB


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=3000),
    reads=st.lists(st.tuples(st.integers(0, 900), st.integers(-80, 80)), max_size=30),
    small=st.sampled_from([1, 50, 300]),
)
def test_what_is_read_of_a_deflated_file_is_what_is_in_it(content, reads, small):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_SMALL", small), ("_BACK", 100), ("_STEP", 200), ("_PIECE", 64)):
            patch.setattr(f"brainray.inputs.frames.inflated.{name}", value)
        packer = zlib.compressobj(wbits=-15)
        file = InflatedFile(b"begin", memoryview(packer.compress(content) + packer.flush()), 10_000)
        plain = io.BytesIO(b"begin" + content)
        for size, step in reads:
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()
            if plain.tell() + step >= 0 and abs(step) < 80:
                assert file.seek(step, 1) == plain.seek(step, 1)


def test_deflated_slices_are_the_pictures_that_they_are_plain():
    for attributes in ({}, NESTED, {"WindowCenter": 100, "WindowWidth": 50}):
        deflated = dicom(slice_pixels(200), DeflatedExplicitVRLittleEndian, **attributes)
        assert np.array_equal(luminance(deflated), luminance(dicom(slice_pixels(200), **attributes)))


def test_a_value_that_does_not_tell_its_length_is_passed_over_however_long():
    """pydicom looks for its end, and goes back to its begin."""
    deflated = dicom(slice_pixels(64), DeflatedExplicitVRLittleEndian)
    at = deflated_at(deflated)
    plain = zlib.decompress(deflated[at:], -zlib.MAX_WBITS)
    pixels = plain.find(b"\xe0\x7f\x10\x00")
    value = b"\x29\x00\x10\x10OB\0\0\xff\xff\xff\xff" + bytes(2_000_000) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    longer = deflated[:at] + packer.compress(plain[:pixels] + value + plain[pixels:]) + packer.flush()
    found = read_header(longer, most_inflated=1 << 30)
    assert found.PixelData == read_header(deflated, most_inflated=1 << 30).PixelData
