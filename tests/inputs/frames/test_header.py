from pathlib import Path

import numpy as np
import pydicom
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from support.each import each
from support.imaging.dicoms import dicom, items

from brainray.inputs.frames.header import HEAD_BYTES, frames_in

PIXELS = np.zeros((5, 8, 8), np.uint16)


@each("preamble", [True, False])
@each("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_the_number_of_frames_is_read_in_every_encoding(syntax, preamble):
    if syntax.is_encapsulated and not preamble:
        return
    assert frames_in(dicom(PIXELS, syntax, preamble=preamble)) == 5
    assert frames_in(dicom(PIXELS[0], syntax, preamble=preamble)) == 1


def test_frames_of_a_sequence_are_not_those_of_the_file():
    nested = items({"ReferencedSOPInstanceUID": "1.2", "NumberOfFrames": 9})
    content = dicom(PIXELS, ReferencedImageSequence=nested)
    assert frames_in(content) == 5


@each("name", ["examples_ybr_color.dcm", "rtdose.dcm", "SC_rgb_rle_2frame.dcm", "MR_small.dcm", "UN_sequence.dcm"])
def test_it_agrees_with_pydicom(name):
    path = Path(str(get_testdata_file(name, download=False)))
    assert frames_in(path.read_bytes()[:HEAD_BYTES]) == int(pydicom.dcmread(path).get("NumberOfFrames") or 1)


@each("content", [b"", b"\xff\xd8\xff\xe0" + bytes(300), b"P5 1 1 255 0", bytes(200)])
def test_other_files_have_no_frames(content):
    assert frames_in(content) == 0


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damaged_headers_count_as_one_image(tail, cut):
    content = dicom(PIXELS)
    for damaged in (content[:cut], content[: 132 + cut] + tail, bytes(128) + b"DICM" + tail):
        assert frames_in(damaged) >= 0
