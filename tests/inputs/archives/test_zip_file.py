"""What is refused in zip files."""

import struct
import zipfile
import zlib

import numpy as np
import pytest
from support.each import each
from support.imaging.dicoms import dicom, slice_pixels
from support.inputs.archive_rows import END, ENTRY, LOCAL, PICTURES, Counting, contents, refusals, rows_of
from support.inputs.archives import zip_of

from brainray.errors import ImageError
from brainray.inputs.archives import (
    MOST_MEMBER_BYTES,
    unpack,
)


def patched(data, magic, field, number, *, nth=0):
    """With another number in a field of the nth record that begins with `magic`."""
    at = -1
    for _ in range(nth + 1):
        at = data.index(magic, at + 1)
    packed = number if isinstance(number, bytes) else struct.pack("<H" if number < 1 << 16 else "<L", number)
    return data[: at + field] + packed + data[at + field + len(packed) :]


class TestRefusedInZip:
    def test_encrypted_members_are_refused(self):
        data = patched(zip_of({"a.jpg": b"x", "b.jpg": b"y"}), ENTRY, 8, 1)
        assert refusals("zip", data) == {"a.jpg": "unsupported: is encrypted"}
        with pytest.raises(ImageError, match="unsupported: is encrypted"):
            unpack("zip", "a.jpg", 1, patched(data, LOCAL, 6, 1))

    def test_other_compressions_are_refused(self):
        data = zip_of({"a.jpg": b"x" * 99}, zipfile.ZIP_LZMA)
        assert refusals("zip", data) == {"a.jpg": "unsupported: is compressed by method 14; write the zip with deflate"}

    def test_links_are_refused(self):
        link, pipe = zipfile.ZipInfo("l.jpg"), zipfile.ZipInfo("p.jpg")
        link.external_attr, pipe.external_attr = 0o120777 << 16, 0o010644 << 16
        link.create_system = pipe.create_system = 3
        assert refusals("zip", zip_of([(link, b"a.jpg"), (pipe, b"")])) == {
            "l.jpg": "unsupported: is a link, which is not followed",
            "p.jpg": "unsupported: is no file",
        }

    def test_a_giant_is_refused(self):
        data = patched(zip_of({"a.jpg": b"x"}), ENTRY, 24, MOST_MEMBER_BYTES + 1)
        assert refusals("zip", data)["a.jpg"].startswith("too_large: 1,073,741,825 bytes")

    def test_a_bomb_that_declares_little_is_not_unpacked(self):
        data = patched(zip_of({"a.jpg": bytes(1 << 20)}), ENTRY, 24, struct.pack("<L", 1000))
        error = contents("zip", data)["a.jpg"]
        assert str(error) == "unsupported: unpacks to more than it declares"

    def test_overlapping_members_unpack_at_most_once(self):
        """A small zip could unpack to petabytes."""
        same = patched(zip_of({"a.jpg": b"x" * 99, "b.jpg": b"y"}), ENTRY, 42, struct.pack("<L", 0), nth=1)
        assert refusals("zip", same) == {"a.jpg": "truncated: overlaps another member or the directory"}
        inside = patched(zip_of({"a.jpg": b"x" * 99, "b.jpg": b"y"}), ENTRY, 42, struct.pack("<L", 9), nth=1)
        assert refusals("zip", inside) == {"a.jpg": "truncated: overlaps another member or the directory"}
        assert str(contents("zip", inside)["b.jpg"]) == "truncated: no member begins at its place in the zip"
        far = patched(zip_of({"a.jpg": b"x"}), ENTRY, 42, 1 << 30)
        assert refusals("zip", far) == {"a.jpg": "truncated: overlaps another member or the directory"}

    def test_a_gap_between_members_is_not_read(self):
        """Where a tool has deleted a member of 100 GB, all of it would be fetched with the one before."""
        data = zip_of({"a.jpg": b"x", "gone.bin": bytes(1 << 20)}, zipfile.ZIP_STORED)
        start, end = data.index(ENTRY), data.index(END)
        middle = data.index(ENTRY, start + 1)
        data = data[:middle] + END + struct.pack("<HHHHLLH", 0, 0, 1, 1, middle - start, start, 0)
        assert end > middle
        assert rows_of("zip", data)[0]["stored_bytes"] < 200_000
        assert contents("zip", data) == {"a.jpg": b"x"}

    @each("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @each("streamed", [False, True])
    def test_a_changed_byte_is_found_by_the_checksum(self, method, streamed):
        data = bytearray(zip_of({"a.jpg": PICTURES["glioma/1.jpg"]}, method, streamed=streamed))
        data[700] ^= 1
        assert contents("zip", bytes(data))["a.jpg"].reason == "truncated"

    def test_a_piece_of_another_member_is_refused(self):
        data = zip_of({"a.jpg": b"x"})
        with pytest.raises(ImageError, match=r"truncated: another member, 'a\.jpg', is at its place"):
            unpack("zip", "b.jpg", 1, data)
        assert unpack("zip", "a.jpg#2", 1, data) == b"x"

    @each(
        ("data", "refused"),
        [
            (b"", "empty: the file has no bytes"),
            (b"<html>" * 20, "not_an_image: is named .zip but is none"),
            (b"<htm" + END + bytes(9), "not_an_image: is named .zip but is none"),
            (zip_of(PICTURES)[:-30], "truncated: its directory is missing"),
            (END + struct.pack("<HHHHLLH", 0, 0, 9, 9, 300 << 20, 0, 0), "too_large: directory of 314,572,800 bytes"),
            (END + struct.pack("<HHHHLLH", 0, 0, 9, 9, 90, 0, 0), "truncated: its directory is not where it should be"),
            (END + struct.pack("<HHHHLLH", 3, 3, 0, 0, 0, 0, 0), "unsupported: is one part of a zip of several files"),
            (zip_of({"a.jpg": b"1"}) + zip_of({"b.jpg": b"2"}), "truncated: its directory is not where it should be"),
            (b"PK\6\7" + bytes(16) + END + bytes(18), "truncated: the zip64 record of its directory is missing"),
            (b"PK\6\7" + struct.pack("<LQL", 1, 0, 2) + END + bytes(18), "unsupported: is one part of a zip"),
        ],
        ids=[
            "empty",
            "html",
            "shorter than its end",
            "cut",
            "giant directory",
            "misplaced directory",
            "part of several",
            "two in one",
            "zip64 record missing",
            "part of several zip64",
        ],
    )
    def test_what_is_no_whole_zip_says_so(self, data, refused):
        ((name, told),) = refusals("zip", data).items()
        assert name == ""
        assert told.startswith(refused)

    def test_an_absurd_directory_is_refused_before_it_is_read(self):
        file = Counting(zip_of({f"{k}.jpg": b"x" for k in range(3000)}))
        assert refusals("zip", file, most=2999) == {
            "": "too_large: more than 2,999 members; write several smaller files"
        }
        assert file.given < 70_000
        lying = patched(file.getvalue(), END, 8, struct.pack("<HH", 7, 7))
        assert set(refusals("zip", lying, most=2999)) == {""}

    def test_members_before_damage_in_the_directory_are_listed(self):
        data = zip_of({"a.jpg": b"1", "b.jpg": b"2"})
        cut = patched(data, ENTRY, 0, b"XXXX", nth=1)
        assert contents("zip", cut)["a.jpg"] == b"1"
        assert refusals("zip", cut)[""].startswith("truncated: its directory is damaged at byte")
        fewer = patched(data, END, 10, 3)
        assert refusals("zip", fewer) == {"": "truncated: its directory has 2 of 3 members"}


HIDDEN = zip_of({"inner.jpg": b"x" * 99}, zipfile.ZIP_STORED, streamed=True)  # a member with a descriptor inside


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("force_zip64", [False, True])
class TestUnlistedSizes:
    """Frames of a file in a zip have no size of that file in their rows."""

    def test_a_member_is_read_without_its_listed_size(self, method, streamed, force_zip64):
        files = {"a.dcm": PICTURES["glioma/1.jpg"], "b.dcm": HIDDEN * 3, "c.dcm": b"", "d.dcm": b"PK\7\x08" * 40}
        data = zip_of(files, method, streamed=streamed, force_zip64=force_zip64)
        found = {
            row["name"]: unpack("zip", row["name"], None, data[row["offset"] :][: row["stored_bytes"]])
            for row in rows_of("zip", data)
        }
        assert found == files

    def test_a_changed_byte_of_one_is_found(self, method, streamed, force_zip64):
        data = bytearray(zip_of(PICTURES, method, streamed=streamed, force_zip64=force_zip64))
        row = rows_of("zip", bytes(data))[0]
        data[700] ^= 1
        with pytest.raises(ImageError, match="truncated"):
            unpack("zip", row["name"], None, bytes(data[: row["stored_bytes"]]))


@pytest.mark.parametrize("width", [4, 8])
def test_a_stored_member_is_read_by_a_descriptor_without_signature(width):
    data = zip_of({"a.dcm": b"x" * 99}, zipfile.ZIP_STORED, streamed=True)
    head = data[: data.index(b"x" * 99) + 99]
    sizes = (99).to_bytes(width, "little") * 2
    assert unpack("zip", "a.dcm", None, head + struct.pack("<L", zlib.crc32(b"x" * 99)) + sizes) == b"x" * 99
    with pytest.raises(ImageError, match="checksum"):
        unpack("zip", "a.dcm", None, head + bytes(4) + sizes)
    with pytest.raises(ImageError, match="its size is not beside it"):
        unpack("zip", "a.dcm", None, head)


def test_small_dicom_files_of_a_zip_are_asked_each_or_as_a_sample():
    """In a bucket each would be a request; on a disk files of one size may differ, as in a folder."""
    one, several = dicom(slice_pixels(64)), dicom(np.stack([slice_pixels(64)[:32]] * 2))
    data = zip_of({"a/1.dcm": one, "a/2.dcm": several, "b/1.dcm": several})
    for ask_each, told in ((True, [None, 2, 2]), (False, [None, None, 2])):
        assert [row["frames"] for row in rows_of("zip", data, ask_each=ask_each)] == told
    long = dicom(np.stack([slice_pixels(32)] * 3), ImageComments="x" * 9_999, StudyComments="x" * 9_999)
    assert [row["frames"] for row in rows_of("zip", zip_of({"long.dcm": long}))] == [3]
