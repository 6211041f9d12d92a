"""What is refused in tar files."""

import tarfile
import zipfile

from support.each import each
from support.inputs.archive_rows import contents, entry, refusals, rows_of
from support.inputs.archives import tar_of, zip_of

from brainray.inputs.archives import (
    MOST_MEMBER_BYTES,
)


class TestRefusedInTar:
    @each(
        ("kind", "reason"),
        [
            (tarfile.SYMTYPE, "is a link"),
            (tarfile.LNKTYPE, "is a link"),
            (tarfile.FIFOTYPE, "is a device or pipe"),
            (tarfile.CHRTYPE, "is a device or pipe"),
            (tarfile.BLKTYPE, "is a device or pipe"),
            (tarfile.GNUTYPE_SPARSE, "is a sparse file"),
            (b"M", "is an entry of the unknown type b'M'"),
        ],
    )
    def test_what_is_no_file_gets_a_row_and_the_next_is_listed(self, kind, reason):
        data = tar_of([(entry("l.jpg", kind, linkname="b.jpg"), b""), ("b.jpg", b"y")], "gnu")
        assert refusals("tar", data)["l.jpg"].startswith(f"unsupported: {reason}")
        assert contents("tar", data)["b.jpg"] == b"y"

    def test_sparse_files_of_either_format(self):
        header = bytearray(entry("s.jpg", tarfile.GNUTYPE_SPARSE, size=512).tobuf(tarfile.GNU_FORMAT))
        header[482] = 1  # a block of the map follows
        header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
        data = bytes(header) + bytes(512) + b"d" * 512 + tar_of({"b.jpg": b"y"})
        assert {rows_of("tar", data)[k]["name"] for k in (0, 1)} == {"s.jpg", "b.jpg"}
        pax = entry("GNUSparseFile.1/s.jpg", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "s.jpg"})
        assert set(refusals("tar", tar_of([(pax, b"d")]))) == set(refusals("tar", data)) == {"s.jpg"}

    def test_a_size_in_the_pax_header_counts(self):
        data = tar_of([(entry("a.jpg", pax_headers={"size": "5"}), b"12345"), ("b.jpg", b"y")])
        assert contents("tar", data) == {"a.jpg": b"12345", "b.jpg": b"y"}

    def test_a_giant_is_refused_and_so_is_a_tar_that_ends_within_a_member(self):
        header = entry("a.jpg", size=MOST_MEMBER_BYTES + 1).tobuf(tarfile.GNU_FORMAT)
        assert refusals("tar", header + bytes(1024))["a.jpg"].startswith("too_large: 1,073,741,825 bytes")
        header = entry("a.jpg", size=1 << 62).tobuf(tarfile.GNU_FORMAT)
        assert set(refusals("tar", header + bytes(1024))) == {"a.jpg", ""}

    @each(
        ("data", "refused"),
        [
            (b"", "empty: the file has no bytes"),
            (b"\x1f\x8b\x08" + bytes(600), "unsupported: is compressed with gzip; name it .tar.gz,"),
            (tar_of({"a.jpg": b"x"}, mode="w:xz"), "unsupported: is compressed with xz"),
            (b"<html>" * 200, "not_an_image: is named .tar but is none"),
            (bytes(20_480), "truncated: only zeros from byte 0 on, as an interrupted copy leaves them"),
            (zip_of({"a.jpg": b"x" * 600}, zipfile.ZIP_STORED), "not_an_image: is named .tar but is none"),
        ],
        ids=["empty", "gzip", "xz", "html", "zeros", "zip"],
    )
    def test_what_is_no_plain_tar_says_so(self, data, refused):
        ((name, told),) = refusals("tar", data).items()
        assert name == ""
        assert told.startswith(refused)

    @each(
        ("tail", "refused"),
        [
            (b"", "truncated: ends at byte 1,024 without the end mark"),
            (b"x" * 100, "truncated: ends within a header"),
            (b"x" * 512, "truncated: damaged at byte 1,024"),
            (bytes(1 << 21), "truncated: only zeros from byte 1,024 on"),
            (entry("x", size=-1).tobuf(tarfile.GNU_FORMAT), "truncated: damaged at byte 1,024 (negative size)"),
            (entry("x", b"L", size=1 << 30).tobuf(tarfile.GNU_FORMAT), "unsupported: header of 1,073,741,824 bytes"),
            (entry("x", b"L", size=99).tobuf(tarfile.GNU_FORMAT), "truncated: ends within a header"),
            (tar_of([(entry("x", b"L"), b"y.jpg")])[:1024] + bytes(1024), "truncated: ends after the header of a long"),
            (tar_of([(entry("x", b"x"), b"0 path=y.jpg\n")]), "truncated: damaged at byte 1,536 (bad pax header)"),
            (tar_of([(entry("x", b"x"), b"99999 path=y\n")]), "truncated: damaged at byte 1,536 (bad pax header)"),
            (tar_of([(entry("x", b"x"), b"12 size=-12\n"), ("y", b"")]), "truncated: damaged at byte 2,560 (bad size)"),
        ],
        ids=[
            "no end mark",
            "part of a header",
            "no header",
            "zeros",
            "negative size",
            "giant header",
            "cut long name",
            "long name of nothing",
            "pax line too short",
            "pax line too long",
            "pax size negative",
        ],
    )
    def test_what_comes_before_the_damage_is_listed(self, tail, refused):
        data = tar_of({"a.jpg": b"x"})[:1024] + tail
        assert contents("tar", data)["a.jpg"] == b"x"
        assert refusals("tar", data)[""].startswith(refused)

    def test_absurdly_many_members_end_the_listing(self):
        data = tar_of({f"{k}.jpg": b"x" for k in range(5)})
        rows = rows_of("tar", data, most=3)
        assert [row["name"] for row in rows] == ["0.jpg", "1.jpg", "2.jpg", ""]
        assert rows[-1]["refused"] == "too_large: more than 3 members; write several smaller files"
        assert len(rows_of("tar", data, most=5)) == 5
