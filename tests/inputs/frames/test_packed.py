"""Frames of DICOM files that are packed as a whole, by gzip or by the deflated syntax: unpacked once, up to a limit."""

import gzip
import random
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless
from support.each import each
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.hostile import damaged

from brainray import storage
from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.decode import decode, luminance
from brainray.inputs.frames import packed
from brainray.inputs.frames.header import HEAD_BYTES, frames_in
from brainray.inputs.frames.listing import frames_of, with_frames
from brainray.inputs.frames.named import NamedFrames
from brainray.inputs.frames.packed import frames_of_head
from brainray.inputs.frames.reading import read_frames
from brainray.inputs.frames.sources import within
from brainray.inputs.listed_image import LISTED_SCHEMA, ListedImage
from brainray.inputs.ranges import RangeReader, plan_reads

PIXELS = np.stack([slice_pixels(32, seed) for seed in range(1, 7)])
PLAIN = dicom(PIXELS, SeriesDescription="t1")
DEFLATED = dicom(PIXELS, DeflatedExplicitVRLittleEndian, SeriesDescription="t1")
FILES = {
    "gzip": gzip.compress(PLAIN),
    "deflated": DEFLATED,
    "deflated in gzip": gzip.compress(DEFLATED),
    "gzip in two parts": gzip.compress(PLAIN[:3000]) + gzip.compress(PLAIN[3000:]),
    "implicit in gzip": gzip.compress(dicom(PIXELS, ImplicitVRLittleEndian)),
    "big endian in gzip": gzip.compress(dicom(PIXELS.byteswap(), ExplicitVRBigEndian)),
    "JPEG-LS in gzip": gzip.compress(dicom(PIXELS, JPEGLSLossless)),
    "without a first group, in gzip": gzip.compress(dicom(PIXELS, preamble=False)),
}


def all_frames(content: bytes, numbers=range(6)) -> tuple[bytes | ImageError, ...]:
    return read_frames(within(content), len(content), list(numbers))


@pytest.mark.parametrize("name", FILES)
def test_frames_of_a_packed_file_are_counted_and_read(name):
    content = FILES[name]
    assert frames_of_head(content[:HEAD_BYTES]) == 6
    found = all_frames(content)
    for frame, pixels in zip(found, PIXELS, strict=True):
        assert np.array_equal(luminance(frame), luminance(dicom(pixels)))
    assert isinstance(all_frames(content, [5, 6])[1], ImageError)


def test_a_frame_counts_as_large_as_it_is_in_memory():
    for name in ("gzip", "deflated"):
        assert frames_of_head(FILES[name]).each_bytes == 32 * 32 * 2
    assert frames_of_head(FILES["JPEG-LS in gzip"]).each_bytes is None
    frames = frames_of_head(FILES["gzip"])
    rows = list(frames_of(ListedImage("/in/a.dcm.gz", 5_000), frames))
    assert [row.uri for row in rows] == [f"/in/a.dcm.gz#{number}" for number in range(1, 7)]
    assert {row.size_bytes for row in rows} == {2048}
    same = list(frames_of(ListedImage("/in/IM1", 2048), frames_of_head(DEFLATED)))
    assert {row.size_bytes for row in same} == {2049}, "a frame is a part of its file, and not as large"


@each(
    ("size_bytes", "shape", "reason"),
    [(400, {"NumberOfFrames": 9_000}, "truncated"), (10**9, {"Rows": 60_000, "Columns": 60_000}, "too_large")],
)
def test_a_header_that_promises_too_much_makes_one_row(size_bytes, shape, reason):
    content = gzip.compress(dicom(PIXELS, **shape))
    (row,) = frames_of(ListedImage("/in/a.dcm.gz", size_bytes), frames_of_head(content))
    assert (row.uri, row.refused.partition(":")[0]) == ("/in/a.dcm.gz", reason)


def _bomb(syntax: str) -> bytes:
    rest = bytes(4_000_000)
    if syntax == "gzip":
        return gzip.compress(PLAIN + rest)
    at = packed.deflated_at(DEFLATED)
    unpacked = zlib.decompress(DEFLATED[at:], -15)
    packer = zlib.compressobj(wbits=-15)
    return DEFLATED[:at] + packer.compress(unpacked + rest) + packer.flush()


@each("syntax", ["gzip", "deflated"])
def test_no_more_is_unpacked_than_allowed(syntax, monkeypatch):
    monkeypatch.setattr(packed, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(packed, "_STEP", 100_000)
    content = _bomb(syntax)
    seen = []
    check = packed._check_size
    monkeypatch.setattr(packed, "_check_size", lambda size: seen.append(size) or check(size))
    found = all_frames(content)
    assert {error.reason for error in found} == {"too_large"}
    assert max(seen) <= 1_100_000
    assert len(frames_of_head(content[:HEAD_BYTES]).__repr__()) < 5


@each("name", ["gzip", "deflated", "deflated in gzip"])
def test_what_is_cut_or_damaged_says_so(name):
    content = FILES[name]
    for part in (content[: len(content) // 2], content[:-9]):
        assert {error.reason for error in all_frames(part)} == {"truncated"}
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    reasons = {found.reason if isinstance(found, ImageError) else None for found in all_frames(bytes(flipped))}
    assert reasons == {"truncated"} or name == "deflated", "gzip has a checksum"


def test_pydicom_unpacks_no_deflated_file_by_itself(monkeypatch):
    """It would unpack all of it, whatever that takes; here the first group is such that its end is not found."""
    at = packed.deflated_at(DEFLATED)
    for hidden in (DEFLATED[:at].replace(b"UI", b"ui", 1), DEFLATED[:at].replace(b"OB", b"??", 1)):
        monkeypatch.setattr(zlib, "decompress", lambda *_: pytest.fail("pydicom unpacks it"))
        found = all_frames(hidden + DEFLATED[at:])
        assert {error.reason for error in found} <= {"truncated"}


@given(st.sampled_from(["gzip", "deflated", "deflated in gzip"]), st.integers(0, 10**9))
def test_damage_of_any_kind_raises_nothing(name, seed):
    chance = random.Random(seed)
    content = FILES[name]
    inner = damaged(DEFLATED if "deflated" in name else PLAIN, chance)
    for hostile in (damaged(content, chance), gzip.compress(inner), inner):
        assert frames_of_head(hostile[:HEAD_BYTES]) >= 0
        for frame in all_frames(hostile, [0, 1]):
            if isinstance(frame, bytes):
                try:
                    decode(frame, ImageSpec(image_px=32))
                except ImageError as exc:
                    assert exc.detail.isprintable()


@pytest.mark.parametrize("name", ["a.dcm.gz", "IM0001"])
def test_a_file_is_unpacked_once_for_all_its_reads(tmp_path, monkeypatch, name):
    pixels = np.zeros((40, 512, 512), np.uint16)
    for number, frame in enumerate(pixels):
        frame[number * 10 :, 100:] = 1000
    path = tmp_path / name
    packs = name.endswith(".gz")
    path.write_bytes(gzip.compress(dicom(pixels), 1) if packs else dicom(pixels, DeflatedExplicitVRLittleEndian))
    (found,) = storage.list_files(str(path))
    frames = frames_of_head(path.read_bytes()[:HEAD_BYTES])
    rows = list(frames_of(ListedImage(found.uri, found.size_bytes, found.version), frames))
    reads = list(plan_reads(pa.Table.from_pylist([row._asdict() for row in rows], schema=LISTED_SCHEMA)))
    assert len(reads) >= 3, "no more frames at a time than fit into the memory of a read"
    unpacked, unpack = [], packed.unpack
    monkeypatch.setattr("brainray.inputs.frames.reading.unpack", lambda *args: unpacked.append(1) or unpack(*args))
    reader = RangeReader()
    images = [image for read in reads for image in reader(read)]
    assert (len(unpacked), len(images)) == (1, 40)
    assert np.array_equal(luminance(images[-1]), luminance(dicom(pixels[-1])))


def test_a_list_may_name_frames_of_packed_files(tmp_path):
    for name, content in (("a.dcm.gz", FILES["gzip"]), ("b.dcm", DEFLATED), ("IM0001", DEFLATED)):
        (tmp_path / name).write_bytes(content)
        found = NamedFrames().find(ListedImage(f"{tmp_path}/{name}#3"))
        assert (found.container, found.offset, found.size_bytes) == (str(tmp_path / name), 2, 2048)


def test_files_of_one_frame_stay_one_image(tmp_path):
    one = dicom(PIXELS[0])
    for name, content in (
        ("a.dcm.gz", gzip.compress(one)),
        ("b.dcm", dicom(PIXELS[0], DeflatedExplicitVRLittleEndian)),
        ("c.dcm.gz", gzip.compress(b"no DICOM")),
        ("d.dcm.gz", gzip.compress(gzip.compress(PLAIN))),
        ("e.dcm.gz", PLAIN[:100]),
    ):
        (tmp_path / name).write_bytes(content)
    files = [(found, None) for found in storage.list_files(str(tmp_path))]
    assert [frames <= 1 for _, _, frames in with_frames(files)] == [True] * 5
    assert frames_in(DEFLATED) == 1, "members of archives: an index of an earlier version says the same"
