"""Damaged and malicious images end as an error of that image: no crash, no foreign error, no file that they name."""

import os
import random
import signal
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.each import each
from support.imaging.dicoms import data_set, dicom, items, slice_pixels, written
from support.imaging.encoded import HEIC, drawing, packed, png_header
from support.imaging.hostile import damaged, sound_images, watched

from brainray.config import ImageSpec
from brainray.errors import IMAGE_REASONS, ImageError
from brainray.imaging import apart
from brainray.imaging.child_process import ChildProcess
from brainray.imaging.decode import decode, luminance, read_header
from brainray.inputs.frames.header import frames_in
from brainray.inputs.frames.reading import read_frames

SPEC = ImageSpec(image_px=32)
LARGEST = 4 << 20  # bytes that may be reserved by a header that promises gigabytes


def told(content: bytes) -> str | None:
    """Why a file is refused; None where it is read."""
    try:
        decode(content, SPEC)
        luminance(content)
    except ImageError as exc:
        read_header(content)
        return exc.reason
    return None


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    images = sound_images()
    assert [name for name, content in images.items() if told(content) not in (None, "unsupported")] == []
    return images  # what readers import when they meet their first file is imported


@given(seed=st.integers(0, 2**32))
def test_a_damaged_image_has_a_reason_and_opens_nothing(sound, seed):
    chance = random.Random(seed)
    name = chance.choice(sorted(sound))
    content = damaged(sound[name], chance)
    with watched() as opened:
        reason = told(content)
    assert reason is None or reason in IMAGE_REASONS
    assert opened == [], name


@given(seed=st.integers(0, 2**32), numbers=st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_frames_of_a_damaged_file_have_reasons(sound, seed, numbers):
    chance = random.Random(seed)
    content = damaged(sound[chance.choice([name for name in sorted(sound) if name.startswith("DICOM")])], chance)
    assert frames_in(content[:65536]) >= 0
    start = numbers[0]
    wanted = range(start, start + len(numbers))
    found = read_frames(lambda at, length: content[at : at + max(0, length)], len(content), wanted)
    assert len(found) == len(numbers)
    assert all(isinstance(each, bytes | ImageError) for each in found)


def promising(**attributes) -> bytes:
    """A DICOM file whose header promises 60,000 x 60,000 x 1,000 values, or what `attributes` say."""
    made = data_set(slice_pixels(), **{"Rows": 60_000, "Columns": 60_000, "NumberOfFrames": 1_000} | attributes)
    return written(made)


def huge_tiff() -> bytes:
    content = bytearray(packed(drawing(), "TIFF"))
    for tag in (0x100, 0x101):
        at = content.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in content else None
        at = content.index(struct.pack("<HH", tag, 3)) if at is None else at
        content[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 60_000)
    return bytes(content)


@each(
    "content",
    [
        promising(),
        promising(NumberOfFrames=1),
        promising(NumberOfFrames=1, Rows=1, Columns=60_000, SamplesPerPixel=60_000),
        promising(NumberOfFrames=1, Rows=9_000, Columns=9_000),
        promising(NumberOfFrames=1, Rows=9_000, Columns=9_000, BitsAllocated=60_000),
        huge_tiff(),
        png_header(60_000, 60_000),
        b"P5 60000 60000 255\n" + bytes(99),
        b"P5 9000 9000 65535\n" + bytes(99),
    ],
)
def test_a_header_that_promises_gigabytes_reserves_none(content):
    told(packed(drawing()))
    told(dicom())
    tracemalloc.start()
    try:
        reason = told(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reason in ("too_large", "truncated", "unsupported")
    assert peak < LARGEST


def test_a_promise_of_frames_makes_one_row():
    content = promising()
    assert frames_in(content[:65536]) == 1_000
    (frame,) = read_frames(lambda at, length: content[at : at + length], len(content), [0])
    assert isinstance(frame, ImageError) or told(frame) in ("too_large", "truncated")


def test_files_that_a_dicom_file_names_are_not_opened(tmp_path):
    target = tmp_path / "secret.dcm"
    target.write_bytes(dicom())
    named = ["..", "..", "secret.dcm"]
    content = dicom(
        ReferencedFileID=named,
        DirectoryRecordSequence=items({"ReferencedFileID": named}, {"ReferencedFileID": str(target)}),
        RetrieveURL=f"file://{target}",
        WindowCenter=900,
        WindowWidth=1800,
    )
    with watched() as opened:
        assert told(content) is None
    assert opened == []


def test_nested_sequences_and_chains_of_pages_come_to_an_end():
    inner = {"PatientName": "A"}
    for _ in range(60):
        inner = {"OtherPatientIDsSequence": items(inner)}
    assert told(dicom(WindowCenter=900, WindowWidth=1800, **inner)) in (None, "truncated")
    deep = b"\x10\0\x02\x10\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 20_000
    assert told(b"\x08\0\x05\0\x04\0\0\0abcd" + deep) is not None
    looped = bytearray(packed(Image.fromarray(drawing()), "TIFF"))
    (first,) = struct.unpack_from("<I", looped, 4)
    (entries,) = struct.unpack_from("<H", looped, first)
    struct.pack_into("<I", looped, first + 2 + 12 * entries, first)
    assert told(bytes(looped)) is None


def test_a_picture_that_takes_its_decoder_down_is_refused_and_the_next_one_read(sound):
    kills = HEIC[:178] + b"\xfe\xff" + HEIC[180:]  # libheif 1.23, by a name of its metadata that is not there
    assert told(kills) in (None, "truncated")
    assert told(sound["HEIF"]) is None
    with pytest.raises(ImageError, match="truncated: its pixels are damaged: they take the process of their decoder"):
        apart.decoded_apart(os.abort)
    assert told(sound["HEIF"]) is None


def test_a_healthy_picture_is_read_where_its_decoder_died_while_idle(sound):
    assert told(sound["HEIF"]) is None
    apart._child._process.kill()
    assert told(sound["HEIF"]) is None


def test_a_picture_that_takes_too_long_is_not_tried_again(monkeypatch):
    started = []
    monkeypatch.setattr(apart, "_child", None)
    monkeypatch.setattr(apart, "ChildProcess", lambda module: started.append(ChildProcess(module)) or started[-1])
    with pytest.raises(ImageError, match="they take longer than 30 s"):
        apart.decoded_apart(signal.raise_signal, signal.SIGALRM)
    assert len(started) == 1
