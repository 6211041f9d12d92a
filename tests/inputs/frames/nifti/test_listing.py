"""Which rows a NIfTI file gets, by its first bytes."""

import gzip
import struct
from collections import Counter

import numpy as np
from support.each import each
from support.imaging.niftis import SHAPE, head, nifti, with_header

from brainray import storage
from brainray.inputs.frames.listing import FrameRows, frames_of, is_frame, with_frames
from brainray.inputs.frames.nifti import Place, place_of, split
from brainray.inputs.frames.nifti.listing import slices_in
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unnamed_files import FileFormats

FOUR = np.stack([head(), head() // 2, head() // 3], axis=3)
PLAIN = nifti(packed=False)


def rows_of(content: bytes, volumes: str = "first", name: str = "/in/vol.nii.gz") -> list[ListedImage]:
    slices = slices_in(name, content[: 16 << 10], len(content), volumes)
    return list(frames_of(ListedImage(name, len(content), "v"), 0 if slices is None else slices))


def test_each_slice_is_a_row_that_says_how_much_memory_it_takes():
    rows = rows_of(nifti())
    assert [row.uri for row in rows] == [f"/in/vol.nii.gz#z={number}" for number in range(SHAPE[2])]
    assert {(row.container, row.version, row.size_bytes) for row in rows} == {
        ("/in/vol.nii.gz", "v", SHAPE[0] * SHAPE[1] * 2)
    }
    assert all(is_frame(row.container, row.uri[15:], row.offset, row.size_bytes, row.stored_bytes) for row in rows)


@each(
    ("volumes", "first", "last", "rows"),
    [("first", "t=0,z=0", "t=0,z=19", 20), ("all", "t=0,z=0", "t=2,z=19", 60), ("1", "t=1,z=0", "t=1,z=19", 20)],
)
def test_of_several_volumes_those_are_listed_that_are_wanted(volumes, first, last, rows):
    listed = rows_of(nifti(FOUR), volumes)
    assert [row.uri.partition("#")[2] for row in (listed[0], listed[-1])] == [first, last]
    assert len({row.offset for row in listed}) == len(listed) == rows


@each(
    ("content", "reason"),
    [
        (with_header(PLAIN, 42, struct.pack("<3h", 30_000, 30_000, 1_000)), "too_large: its 30,000 x 30,000 x 1,000"),
        (gzip.compress(with_header(PLAIN, 42, struct.pack("<3h", 30_000, 30_000, 1_000))), "too_large"),
        (gzip.compress(with_header(PLAIN, 42, struct.pack("<3h", 600, 600, 600))), "truncated: "),
        (PLAIN[:-2000], "truncated: "),
        (gzip.compress(PLAIN)[:60], "truncated: it ends before its NIfTI header"),
        (with_header(PLAIN, 344, b"????"), "unsupported: its header has no NIfTI magic"),
        (with_header(PLAIN, 40, struct.pack("<2h", 3, 0)), "truncated: "),
    ],
)
def test_what_cannot_be_read_is_one_row_with_its_reason_and_stays_unread(content, reason):
    (row,) = rows_of(content)
    assert row.uri == "/in/vol.nii.gz"
    assert row.refused.startswith(reason)


def test_a_volume_that_a_file_has_not_is_one_row():
    (row,) = rows_of(nifti(FOUR), "3")
    assert row.refused == "unsupported: it has 3 volumes, and --volumes 3 is none of them"


def test_a_jpeg_that_is_named_so_is_one_image():
    assert slices_in("/in/a.nii", b"\xff\xd8\xff" + bytes(600), 603) is None


def test_volumes_that_are_not_listed_are_counted(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(nifti(FOUR))
    skipped: Counter[str] = Counter()
    frames = FrameRows(skipped, "first", FileFormats(tars=False))
    for found, _, count in with_frames((file, None) for file in storage.list_files(str(tmp_path))):
        assert len(list(frames.rows(ListedImage(found.uri, found.size_bytes), count))) == 20
    assert skipped == {"volume of a 4-D file": 2}


@each(
    ("name", "place"),
    [("z=57", Place(2, 57)), ("t=2,z=57", Place(2, 57, 2)), ("x=0", Place(0, 0)), ("z=07", None), ("z=-1", None)],
)
def test_a_slice_has_one_name(name, place):
    assert place_of(name) == place
    assert split(f"s3://b/a.NII.GZ#{name}") == (place and ("s3://b/a.NII.GZ", place))
    assert split(f"s3://b/a.tar#{name}") is None


def test_a_member_of_a_tar_is_no_slice_although_its_name_is_that_of_one():
    assert not is_frame("/in/a.tar", "z=512", 512, 100, 100)
    assert not is_frame("/in/export", "z=512", 512, 100, 100)
