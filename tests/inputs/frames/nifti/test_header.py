"""The header without nibabel: it finds the axes that nibabel finds, and refuses what cannot be read, before it is."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each
from support.imaging.niftis import nifti, with_header

from brainray.errors import ImageError
from brainray.inputs.frames.nifti.header import read_directions, read_header, unpacked_head

PLAIN = nifti(packed=False)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=9, max_size=9),
    st.tuples(*[st.floats(0.2, 6)] * 3),
    st.booleans(),
    st.sampled_from([1, 2]),
)
def test_slices_run_along_the_axes_that_nibabel_finds(values, spacing, by_quaternion, version):
    turn, _ = np.linalg.qr(np.array(values).reshape(3, 3) + 4 * np.eye(3))
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    content = nifti(np.zeros((3, 4, 5), np.int16), affine, packed=False, version=version)
    if by_quaternion:
        content = with_header(content, *((348, bytes(4)) if version == 2 else (254, bytes(2))))
    image = (nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image).from_bytes(content)
    orientation = nibabel.io_orientation(image.affine)
    strongest = np.sort(np.abs(turn), axis=0)[-2:]
    if (strongest[1] - strongest[0]).min() > 1e-3:  # else rounding decides
        assert [read_header(content).axes.index(stored) for stored in range(3)] == orientation[:, 0].tolist()
        directions = read_directions(content)
        assert (directions.orientation == orientation).all()
        assert np.allclose(directions.affine, image.affine[:3, :3], atol=1e-4)


@each("order", ["<", ">"])
def test_both_orders_of_bytes_are_read(order):
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_shape((7, 8, 9, 3))
    header.set_data_dtype(np.int16)
    found = read_header(header.binaryblock + bytes(4))
    assert (found.shape, found.volumes, found.item_bytes) == ((7, 8, 9), 3, 2)


@each(
    ("content", "reason", "words"),
    [
        (with_header(PLAIN, 40, struct.pack("<4h", 3, 0, 8, 8)), "truncated", "no size"),
        (with_header(PLAIN, 40, struct.pack("<4h", 9, 8, 8, 8)), "truncated", "no size"),
        (with_header(PLAIN, 40, struct.pack("<4h", 3, 8, -8, 8)), "truncated", "no size"),
        (with_header(PLAIN, 40, struct.pack("<6h", 5, 8, 8, 8, 1, 3)), "unsupported", "four dimensions"),
        (with_header(PLAIN, 70, struct.pack("<h", 128)), "unsupported", "colours"),
        (with_header(PLAIN, 70, struct.pack("<h", 32)), "unsupported", "complex"),
        (with_header(PLAIN, 70, struct.pack("<h", 77)), "unsupported", "type 77"),
        (with_header(PLAIN, 108, struct.pack("<f", float("nan"))), "truncated", "where the voxels begin"),
        (with_header(PLAIN, 108, struct.pack("<f", 1e30)), "truncated", "where the voxels begin"),
        (with_header(PLAIN, 344, b"ni1\0"), "unsupported", "pair"),
        (with_header(PLAIN, 344, b"what"), "unsupported", "magic"),
        (with_header(PLAIN, 0, b"\0\0\0\0"), "truncated", "length"),
        (PLAIN[:200], "truncated", "ends before"),
        (b"", "truncated", "length"),
    ],
)
def test_a_header_that_cannot_be_read_says_why(content, reason, words):
    with pytest.raises(ImageError, match=words) as caught:
        read_header(content)
    assert caught.value.reason == reason


def test_a_header_is_found_in_a_damaged_gzip_stream_or_told_to_be_damaged():
    packed = nifti()
    assert read_header(unpacked_head(packed[:3000])) == read_header(PLAIN)
    with pytest.raises(ImageError, match="damaged"):
        unpacked_head(packed[:12] + b"\xff" * 40)
    assert unpacked_head(gzip.compress(b"short")) == b"short"


def test_volumes_of_thick_sagittal_slices_are_cut_as_they_were_acquired():
    thick = np.array([[0, 0, 5.0, 0], [0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1]])
    assert read_header(nifti(np.zeros((30, 31, 6), np.int16), thick, packed=False)).sliced_along() == 0
    assert read_header(PLAIN).sliced_along() == 2
