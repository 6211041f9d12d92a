"""Frames of damaged or oddly written compressed files: each is its own picture or has a reason, and costs its bytes."""

import io
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, RLELossless
from support.imaging.dicoms import data_set, dicom, slice_pixels, written

from brainray.errors import ImageError
from brainray.imaging.decode import luminance
from brainray.inputs.frames.reading import read_frames
from brainray.inputs.ranges import Member, RangeRead, RangeReader

FRAMES = np.stack([np.roll(slice_pixels(32), 5 * k, axis=0) for k in range(4)])
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


def frames_of(content: bytes, numbers=range(4)) -> list[bytes | ImageError]:
    return list(read_frames(lambda start, length: content[start : start + length], len(content), list(numbers)))


def compressed(syntax=RLELossless, *, fragments: int = 1, offsets: bytes | None = None) -> bytes:
    """A compressed file of four frames; `offsets` replace its table."""
    made = pydicom.dcmread(io.BytesIO(dicom(FRAMES, syntax, **WINDOW)))
    coded = list(generate_frames(made.PixelData, number_of_frames=4))
    pixels = encapsulate(coded, fragments_per_frame=fragments, has_bot=offsets is not None)
    made.PixelData = pixels if offsets is None else pixels[:8] + offsets + pixels[24:]
    sink = io.BytesIO()
    made.save_as(sink)
    return sink.getvalue()


def shown(frames: list[bytes | ImageError]) -> list[int | str]:
    """The number of the frame that each shows; the reason of one that is none."""
    known = [luminance(dicom(frame, **WINDOW)).tobytes() for frame in FRAMES]
    found: list[int | str] = []
    for frame in frames:
        try:
            if isinstance(frame, ImageError):
                raise frame
            found.append(known.index(luminance(frame).tobytes()))
        except ImageError as exc:
            found.append(exc.reason)
    return found


@pytest.mark.parametrize("offsets", [None, "right"])
def test_a_cut_file_keeps_the_frames_before_the_cut(offsets):
    content = dicom(FRAMES, RLELossless, **WINDOW) if offsets else compressed()
    assert shown(frames_of(content)) == [0, 1, 2, 3]
    cut = frames_of(content[:-700])
    assert shown(cut) == [0, 1, 2, "truncated"]
    assert str(cut[3]).startswith(("truncated: the file ends before", "truncated: its compressed pixels are cut"))


@pytest.mark.parametrize("content", [dicom(FRAMES, **WINDOW), compressed()], ids=["native", "compressed"])
def test_a_frame_that_there_is_not_does_not_end_the_run(content):
    assert shown(frames_of(content, [4])) == ["truncated"]
    *there, missing = frames_of(content, [2, 3, 4])
    assert shown(there) == [2, 3]
    assert str(missing) == "truncated: the file has no such frame"


@pytest.mark.parametrize(
    "table", [(0, 0, 0, 0), (0, 900, 300, 1200), (8, 900, 1200, 1500)], ids=["zeros", "descending", "not from 0"]
)
def test_a_wrong_table_of_offsets_shows_no_other_frame(table):
    offsets = b"".join(offset.to_bytes(4, "little") for offset in table)
    assert shown(frames_of(compressed(offsets=offsets))) == [0, 1, 2, 3]


def test_a_table_that_points_within_frames_gives_reasons():
    offsets = b"".join(offset.to_bytes(4, "little") for offset in (0, 30, 60, 90))
    assert shown(frames_of(compressed(offsets=offsets))) == ["truncated"] * 4


@pytest.mark.parametrize("fragments", [1, 3])
def test_frames_of_several_fragments_are_told_apart(fragments):
    content = compressed(JPEG2000Lossless, fragments=fragments)
    assert shown(frames_of(content)) == [0, 1, 2, 3]
    assert shown(frames_of(content, [2])) == [2]


def test_frames_without_a_table_are_searched_once(tmp_path, monkeypatch):
    """Else each range of a file of some GB in a bucket would take the whole file."""
    made = data_set(np.zeros((64, 8, 8), np.uint16))
    made.file_meta = pydicom.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = RLELossless
    made.PixelData = encapsulate([os.urandom(100_000) for _ in range(64)], has_bot=False)
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    path = Path(tmp_path, "long.dcm")
    made.save_as(path, enforce_file_format=False)
    size, read = path.stat().st_size, []

    def read_range(uri: str, start: int, length: int, **_: object) -> bytes:
        read.append(length)
        return path.read_bytes()[start : start + length]

    monkeypatch.setattr("brainray.storage.read_range", read_range)
    reader = RangeReader()
    for first in range(0, 64, 8):
        members = tuple(Member(str(n + 1), n, size, 100_000) for n in range(first, first + 8))
        assert all(isinstance(frame, bytes) for frame in reader(RangeRead(str(path), size, "v", members)))
    headers = 8 * (256 << 10)
    assert sum(read) - headers < 2.5 * size
    assert max(read) <= 1 << 20


def test_big_endian_frames_of_8_bits_in_words_keep_the_order_of_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 5, 7), dtype=np.uint8)
    made = data_set(pixels, WindowCenter=128, WindowWidth=256)
    made.PixelData = np.frombuffer(pixels.tobytes() + b"\0", "<u2").byteswap().tobytes()
    made["PixelData"].VR = "OW"
    content = written(made, ExplicitVRBigEndian)
    for number in range(3):
        (frame,) = frames_of(content, [number])
        assert abs(luminance(frame).astype(int) - pixels[number]).max() <= 1
    assert abs(luminance(frames_of(content, [0, 1])[1]).astype(int) - pixels[1]).max() <= 1
