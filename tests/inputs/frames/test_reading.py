"""A frame is read as a file of its own, by ranges, and shows what the frame of the whole file shows."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless
from support.each import each
from support.imaging.dicoms import dicom, items, slice_pixels

from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.decode import decode, luminance
from brainray.inputs.frames.reading import read_frames

FRAMES = np.stack([np.roll(slice_pixels(32), 5 * k, axis=0) for k in range(6)])
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


class Ranges:
    """A file that counts what is read of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.read = 0

    def __call__(self, start: int, length: int) -> bytes:
        assert start >= 0
        assert start + length <= len(self.content)
        self.read += length
        return self.content[start : start + length]


def frames_of(content: bytes, numbers=range(6)) -> list[bytes | ImageError]:
    return list(read_frames(Ranges(content), len(content), list(numbers)))


def luminance_error(frame: bytes) -> ImageError:
    with pytest.raises(ImageError) as found:
        luminance(frame)
    return found.value


def expected(number: int) -> np.ndarray:
    return luminance(dicom(FRAMES[number], **WINDOW))


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, JPEGLSLossless], ids=lambda s: s.name
)
def test_each_frame_is_the_picture_at_its_place(syntax):
    content = dicom(FRAMES, syntax, **WINDOW)
    for number, frame in enumerate(frames_of(content)):
        assert (luminance(frame) == expected(number)).all()
    assert (luminance(frames_of(content, [3, 4])[1]) == expected(4)).all()


def test_frames_without_a_table_of_offsets_are_found():
    whole = pydicom.dcmread(io.BytesIO(dicom(FRAMES, RLELossless, **WINDOW)))
    whole.PixelData = encapsulate(
        list(pydicom.encaps.generate_frames(whole.PixelData, number_of_frames=6)), has_bot=False
    )
    sink = io.BytesIO()
    whole.save_as(sink)
    assert (luminance(frames_of(sink.getvalue(), [5])[0]) == expected(5)).all()


def test_a_frame_of_a_large_file_takes_a_part_of_it():
    big = np.zeros((40, 128, 128), np.uint16)
    big[17] = slice_pixels(128)
    file = Ranges(dicom(big, **WINDOW))
    (frame,) = read_frames(file, len(file.content), [17])
    assert luminance(frame).std() > 20
    assert file.read < len(file.content) // 3


def test_enhanced_frames_have_their_own_attributes():
    windows = [{"FrameVOILUTSequence": items({"WindowCenter": 500 * (k + 1), "WindowWidth": 1000})} for k in range(6)]
    content = dicom(FRAMES, PerFrameFunctionalGroupsSequence=items(*windows))
    got = [luminance(frame).mean() for frame in frames_of(content)]
    assert got == sorted(got, reverse=True)
    assert got[0] > got[-1] + 10


def test_frames_that_the_file_does_not_hold_are_truncated():
    content = dicom(FRAMES)[: -32 * 32 * 2]
    *_, there, missing = frames_of(content)
    assert decode(there, ImageSpec(image_px=32)).width == 32
    assert str(missing) == "truncated: the file ends before this frame"


@each("cut", [100, 200, 300, 400, 700, 1000])
def test_a_damaged_file_gives_reasons(cut):
    for frame in frames_of(dicom(FRAMES)[:cut]):
        error = frame if isinstance(frame, ImageError) else luminance_error(frame)
        assert error.reason == "truncated"


@pytest.mark.parametrize(
    ("name", "frames"), [("examples_ybr_color.dcm", 30), ("SC_rgb_rle_2frame.dcm", 2), ("rtdose.dcm", 15)]
)
def test_frames_of_pydicoms_files_are_read(name, frames):
    content = Path(str(get_testdata_file(name, download=False))).read_bytes()
    got = frames_of(content, range(frames))
    assert len({luminance(frame).tobytes() for frame in got}) > 1


def test_frames_that_are_promised_and_not_there_say_so():
    content = dicom(FRAMES, NumberOfFrames=8, **WINDOW)
    found = frames_of(content, range(8))
    assert (luminance(found[5]) == expected(5)).all()
    assert [str(frame) for frame in found[6:]] == ["truncated: the file ends before this frame"] * 2
    cut = frames_of(content[:-600], range(8))
    assert luminance_error(cut[5]).reason == "truncated"
    assert str(cut[7]) == "truncated: the file ends before this frame"


def test_frames_of_a_private_syntax_have_the_reason_that_a_single_picture_has():
    private = (b"1.2.840.10008.1.2.1\0", b"1.3.46.670589.33.1\0\0")
    single = luminance_error(dicom(FRAMES[0], **WINDOW).replace(*private))
    assert (single.reason, "private transfer syntax" in str(single)) == ("unsupported", True)
    for frame in frames_of(dicom(FRAMES, **WINDOW).replace(*private)):
        assert str(luminance_error(frame)) == str(single)
