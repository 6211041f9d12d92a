"""Headers that break the standard: what is listed of a volume is what there is to read, so that no slice is lost."""

import random
import struct

import numpy as np
import pytest
from support.each import each
from support.imaging.niftis import nifti, with_header

from brainray.inputs.frames.nifti import Place
from brainray.inputs.frames.nifti.file import NiftiFile
from brainray.inputs.frames.nifti.header import read_directions, read_header
from brainray.inputs.frames.nifti.listing import slices_in

SHAPE = (5, 7, 9)
PLAIN = nifti(np.arange(315, dtype=np.int16).reshape(SHAPE), packed=False)
NAN = float("nan")


def broken(seed: int) -> bytes:
    """A file whose sizes, quaternion and matrix are partly missing, too long or no numbers."""
    draw = random.Random(seed)
    values = (0.0, -1.0, NAN, 1.0, 0.5, 3.0, 1e-30, 1e30)
    pixdim = [draw.choice((1, -1, 0, NAN)), *draw.choices(values, k=3)]
    quaternion = [draw.uniform(-0.9, 0.9) for _ in range(3)]
    rows = [draw.gauss(0, 1) for _ in range(12)]
    column = draw.randrange(3)
    rows[column:12:4] = draw.choice(([0.0] * 3, [NAN] * 3, rows[(column + 1) % 3 : 12 : 4], rows[column:12:4]))
    content = with_header(PLAIN, 76, struct.pack("<4f", *pixdim))
    content = with_header(content, 256, struct.pack("<3f", *quaternion))
    content = with_header(content, 280, struct.pack("<12f", *rows))
    return with_header(content, 252, struct.pack("<2h", *draw.choice(((0, 0), (1, 0), (0, 1), (1, 1), (-2, 0)))))


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_each_slice_that_there_is_is_listed_and_no_other(first):
    for seed in range(first, first + 100):
        content = broken(seed)
        slices = slices_in("a.nii", content, len(content))
        file = NiftiFile(lambda start, length, c=content: c[start : start + length], len(content), {})
        axis = slices.header.sliced_along()
        found = [isinstance(file.slice_at(Place(axis, number)), bytes) for number in range(10)]
        assert sum(found) == slices, seed


@each("side", [1e-200, 1e200, -1e308])
def test_sizes_out_of_this_world_are_none(side):
    content = nifti(np.zeros(SHAPE, np.int16), packed=False, version=2)
    content = with_header(content, 112, struct.pack("<3d", side, side, side))
    for codes in ((0, 0), (1, 0), (0, 1)):
        assert read_header(with_header(content, 344, struct.pack("<2i", *codes))).spacing == (1, 1, 1)
    matrix = with_header(content, 400, struct.pack("<12d", *[side] * 12))
    assert not read_directions(with_header(matrix, 344, struct.pack("<2i", 0, 1))).known
