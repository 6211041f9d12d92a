"""Tar, zip and Parquet files made by the tools that people make them with, whole and broken."""

import io
import json
import random
import struct
import tarfile
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import TAR_FORMATS, tar_of, zip_of

from brainray.errors import IMAGE_REASONS, ImageError
from brainray.inputs import archives
from brainray.inputs.archives import (
    INDEX_SCHEMA,
    MOST_MEMBER_BYTES,
    NotAnArchive,
    kind_of,
    list_members,
    member_uri,
    parquet_file,
    parquet_rows,
    split_refusal,
    stem,
    tar_file,
    unpack,
)

PICTURES = {
    "glioma/1.jpg": random.Random(1).randbytes(1500),
    "glioma/2.jpg": b"pixels " * 200,
    "notumor/1.jpg": b"",
    "notumor/ünï.png": b"x" * 512,
}


def rows_of(kind, data, **options):
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    tables = list(list_members(kind, file, **options))
    assert all(table.schema.equals(INDEX_SCHEMA) and 0 < len(table) <= 65_536 for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    offsets = [row["offset"] for row in rows if row["offset"] is not None]
    assert offsets == sorted(offsets)
    assert len({row["name"] for row in rows}) == len(rows)
    assert all(row["refused"] is None or row["refused"].partition(": ")[0] in IMAGE_REASONS for row in rows)
    return rows


def contents(kind, data):
    """What a run would get of each name: bytes, or the reason of its error row."""
    try:
        rows = rows_of(kind, data)
    except NotAnArchive:
        return {}
    found = {row["name"]: split_refusal(row["refused"]) for row in rows if row["refused"]}
    groups = {}
    for row in rows:
        if row["refused"]:
            continue
        if kind == "parquet":
            groups.setdefault(row["offset"], []).append(row["name"])
            continue
        piece = data[row["offset"] : row["offset"] + row["stored_bytes"]]
        try:
            found[row["name"]] = unpack(kind, row["name"], row["size_bytes"], piece)
        except ImageError as exc:
            found[row["name"]] = exc
    names = [name for group in groups.values() for name in group]
    if names:
        found.update(zip(names, parquet_rows(io.BytesIO(data), sorted(groups), names), strict=True))
    return found


def refusals(kind, data, **options):
    return {row["name"]: row["refused"] for row in rows_of(kind, data, **options) if row["refused"]}


def entry(name, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def patched(data, magic, field, number, *, nth=0):
    """With another number in a field of the nth record that begins with `magic`."""
    at = -1
    for _ in range(nth + 1):
        at = data.index(magic, at + 1)
    packed = number if isinstance(number, bytes) else struct.pack("<H" if number < 1 << 16 else "<L", number)
    return data[: at + field] + packed + data[at + field + len(packed) :]


LOCAL, ENTRY, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def parquet_of(columns, *, huggingface=None, **options):
    table = pa.table(columns)
    if huggingface:
        table = table.replace_schema_metadata({"huggingface": json.dumps(huggingface)})
    made = io.BytesIO()
    pq.write_table(table, made, **options)
    return made.getvalue()


def huggingface_images(pictures):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": data, "path": None} for data in pictures], kind)


class Counting(io.BytesIO):
    """Counts what is read of it, and fails at one of the reads if told to."""

    def __init__(self, data, failing=None):
        super().__init__(data)
        self.lengths = []
        self.failing = failing

    def read(self, size=-1):
        if self.reads == self.failing:
            raise OSError("the mount is gone")
        data = super().read(size)
        self.lengths.append(len(data))
        return data

    @property
    def reads(self):
        return len(self.lengths)

    @property
    def given(self):
        return sum(self.lengths)


class TestNamesOfContainers:
    def test_the_suffix_tells_the_kind_in_any_case(self):
        kinds = {"a.tar": "tar", "B.ZIP": "zip", "c.Parquet": "parquet", "d.pq": "parquet"}
        assert {name: kind_of(name) for name in kinds} == kinds
        assert [kind_of(name) for name in ("a.tar.gz", "tar", "x.jpg", "zip.png")] == [None] * 4

    def test_a_container_counts_as_a_folder_named_without_the_suffix(self):
        assert [stem(name) for name in ("in/train.000.tar", "b.PQ", "x.jpg")] == ["in/train.000", "b", "x.jpg"]

    def test_a_member_has_a_uri_and_the_container_keeps_its_own(self):
        assert member_uri("s3://b/a.tar", "x/1.jpg") == "s3://b/a.tar#x/1.jpg"
        assert member_uri("s3://b/a.tar", "") == "s3://b/a.tar"

    def test_a_refusal_becomes_the_error_it_was(self):
        error = split_refusal("unsupported: is encrypted: yes")
        assert (error.reason, error.detail) == ("unsupported", "is encrypted: yes")


class TestRoundTrip:
    @pytest.mark.parametrize("form", TAR_FORMATS)
    def test_tar(self, form):
        assert contents("tar", tar_of(PICTURES, form)) == PICTURES

    def test_a_tar_written_to_a_pipe(self):
        assert contents("tar", tar_of(PICTURES, mode="w|")) == PICTURES

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize("force_zip64", [False, True])
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_zip(self, method, force_zip64, streamed):
        assert contents("zip", zip_of(PICTURES, method, streamed=streamed, force_zip64=force_zip64)) == PICTURES

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_zip64_with_all_its_numbers_in_the_directory(self, monkeypatch, streamed):
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        data = zip_of(PICTURES, streamed=streamed, force_zip64=True)
        assert b"PK\6\6" in data
        assert contents("zip", data) == PICTURES

    @pytest.mark.parametrize("around", [(b"#!/bin/sh\n" * 99, b""), (b"", b"\r\n")], ids=["program", "stray bytes"])
    def test_a_zip_after_a_program_or_before_stray_bytes(self, around):
        assert contents("zip", around[0] + zip_of(PICTURES) + around[1]) == PICTURES

    def test_a_zip_with_a_comment_that_looks_like_its_end(self):
        made = io.BytesIO(zip_of(PICTURES))
        with zipfile.ZipFile(made, "a") as file:
            file.comment = b"see " + END + b"\0" * 40
        assert contents("zip", made.getvalue()) == PICTURES

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
    @pytest.mark.parametrize("compression", ["none", "zstd"])
    def test_parquet(self, kind, compression):
        pictures = [b"a", b"bb" * 900, b"", *(b"%d" % k for k in range(70))]
        images = pa.array(pictures, kind)
        data = parquet_of({"x": images}, row_group_size=30, compression=compression)
        assert contents("parquet", data) == {str(k): picture for k, picture in enumerate(pictures)}
        assert [row["offset"] for row in rows_of("parquet", data)] == [0] * 30 + [1] * 30 + [2] * 13

    def test_arrow_files_serve_as_well_as_pythons(self, tmp_path):
        data = {"tar": tar_of(PICTURES), "zip": zip_of(PICTURES), "parquet": parquet_of({"png": [b"1", b"2"]})}
        for kind, content in data.items():
            (tmp_path / kind).write_bytes(content)
            with pa.OSFile(str(tmp_path / kind)) as file, open(tmp_path / kind, "rb", buffering=0) as raw:
                assert rows_of(kind, file) == rows_of(kind, raw) == rows_of(kind, content)
        with pa.OSFile(str(tmp_path / "parquet")) as file:
            assert parquet_rows(file, [0], ["1"]) == [b"2"]


class TestListing:
    def test_webdataset_shards_list_all_their_files(self):
        shard = {f"{k:06}.{suffix}": b"%d" % k for k in range(3) for suffix in ("jpg", "cls", "json")}
        assert contents("tar", tar_of(shard, "ustar")) == shard

    def test_tar_says_where_the_data_lie_and_zip_where_the_header_begins(self):
        data = tar_of(PICTURES)
        for row in rows_of("tar", data):
            assert data[row["offset"] :][: row["stored_bytes"]] == PICTURES[row["name"]]
        data = zip_of(PICTURES)
        rows = rows_of("zip", data)
        assert all(data[row["offset"] :].startswith(LOCAL) for row in rows)
        assert [row["size_bytes"] for row in rows] == [len(picture) for picture in PICTURES.values()]

    def test_folders_are_no_members(self):
        folders = [(entry("a", tarfile.DIRTYPE), b""), (entry("Backup 7", b"V"), b""), ("a/1.jpg", b"x")]
        assert contents("tar", tar_of(folders, "gnu")) == {"a/1.jpg": b"x"}
        assert contents("zip", zip_of([("a/", b""), ("a/1.jpg", b"x")])) == {"a/1.jpg": b"x"}

    def test_an_empty_container_has_no_members(self):
        assert rows_of("tar", tar_of({})) == rows_of("zip", zip_of({})) == []
        assert rows_of("parquet", parquet_of({"image": pa.array([], pa.binary())})) == []

    def test_repeated_names_stay_apart(self):
        """Of three images one would be scored, and the accounts would not add up."""
        files = [("x.jpg", b"1"), ("x.jpg#2", b"2"), ("x.jpg", b"3"), ("./x.jpg", b"4"), ("x.jpg#2", b"5")]
        expected = {"x.jpg": b"1", "x.jpg#2": b"2", "x.jpg#3": b"3", "x.jpg#4": b"4", "x.jpg#2#2": b"5"}
        assert contents("tar", tar_of(files)) == expected
        with pytest.warns(UserWarning, match="Duplicate name"):
            assert contents("zip", zip_of(files)) == expected

    def test_a_name_repeated_very_often_takes_no_quadratic_time(self):
        block = tar_of([("x.jpg", b"")])[:512]
        names = [row["name"] for row in rows_of("tar", block * 20_000 + bytes(1024))]
        assert (names[0], names[-1]) == ("x.jpg", "x.jpg#20000")

    def test_joined_tars_list_the_members_of_both(self):
        """Others stop at the first end mark, and nobody would miss the rest."""
        joined = tar_of({"a.jpg": b"a"}) + tar_of({"b.jpg": b"b"})
        assert contents("tar", joined) == {"a.jpg": b"a", "b.jpg": b"b"}

    def test_a_zip_is_listed_in_the_order_of_the_file(self):
        data = zip_of({"b.jpg": b"1", "a.jpg": b"2"}, zipfile.ZIP_STORED)
        start = data.index(ENTRY)
        middle = data.index(ENTRY, start + 1)
        end = data.index(END)
        turned = data[:start] + data[middle:end] + data[start:middle] + data[end:]
        assert [row["name"] for row in rows_of("zip", turned)] == ["b.jpg", "a.jpg"]
        assert contents("zip", turned) == {"b.jpg": b"1", "a.jpg": b"2"}

    def test_large_members_of_a_tar_are_skipped(self):
        """A listing over a network would read the whole archive."""
        file = Counting(tar_of({f"{k}.jpg": bytes(20 << 20) for k in range(3)}))
        assert len(rows_of("tar", file)) == 3
        assert file.given < 1 << 20

    def test_headers_of_small_members_come_with_few_reads(self):
        file = Counting(tar_of({f"{k}.jpg": bytes(5000) for k in range(1000)}))
        rows_of("tar", file)
        assert file.reads < 20

    def test_memory_does_not_grow_with_the_members(self, monkeypatch):
        """`tarfile` and `zipfile` keep every member; the driver lists archives of millions."""

        def peak_bytes(kind, data):
            tracemalloc.start()
            for table in list_members(kind, io.BytesIO(data)):
                assert len(table)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return peak

        monkeypatch.setattr(archives, "_TABLE_ROWS", 1000)
        monkeypatch.setattr(tar_file, "_MOST_READ", tar_file._LEAST_READ)
        blocks = [tarfile.TarInfo(f"{k:06}.jpg").tobuf(tarfile.USTAR_FORMAT) for k in range(22_000)]
        small, large = (peak_bytes("tar", b"".join(blocks[:count]) + bytes(1024)) for count in (2_000, 22_000))
        assert large - small < 20_000 * 200  # `tarfile` takes 440 bytes a member of the shortest name


class TestNames:
    HOSTILE = (
        ("/etc/x.jpg", "leads outside the container"),
        ("\\\\host\\x.jpg", "leads outside the container"),
        ("C:\\x.jpg", "leads outside the container"),
        ("a/../../x.jpg", "leads outside the container"),
        ("a\\..\\x.jpg", "leads outside the container"),
        ("..", "leads outside the container"),
        ("a\nb.jpg", "has control characters"),
        ("a\x7fb.jpg", "has control characters"),
        (".", "is empty"),
    )

    @pytest.mark.parametrize(("name", "reason"), HOSTILE)
    def test_hostile_names_are_refused_and_printable(self, name, reason):
        for kind, data in (("tar", tar_of([(name, b"x"), ("good.jpg", b"y")])), ("zip", zip_of([(name, b"x")]))):
            (shown, refused), *_ = refusals(kind, data).items()
            assert refused == f"unsupported: member name {reason}"
            assert shown.isprintable()
            assert len(rows_of(kind, data)) == (2 if kind == "tar" else 1)

    def test_a_name_with_a_zero_byte_or_none_is_refused(self):
        data = zip_of({"aXb.jpg": b"1", "yy": b"2"}).replace(b"aXb.jpg", b"a\0b.jpg")
        assert refusals("zip", data) == {"a\\x00b.jpg": "unsupported: member name has control characters"}
        assert refusals("tar", tar_of([("", b"")])) == {"(unnamed)": "unsupported: member name is empty"}

    def test_a_name_of_endless_length_is_refused(self):
        """Tables of such names would fill the memory."""
        ((name, refused),) = refusals("tar", tar_of({"a" * 10_000: b"x"})).items()
        assert (len(name), refused) == (4096, "unsupported: member name is longer than 4,096 characters")

    @pytest.mark.parametrize(
        "name", ["a.tar", "a.ZIP", "b.parquet", "b.pq", "c.tar.gz", "c.tgz", "d.7z", "e.rar", "f.xz"]
    )
    def test_archives_in_archives_are_refused(self, name):
        expected = {f"in/{name}": "unsupported: an archive inside an archive is not opened"}
        assert (
            refusals("tar", tar_of({f"in/{name}": b"x"})) == refusals("zip", zip_of({f"in/{name}": b"x"})) == expected
        )

    def test_a_packed_volume_is_left_to_the_decoder_which_says_what_to_do(self):
        assert contents("tar", tar_of({"v.nii.gz": b"x"})) == {"v.nii.gz": b"x"}

    @pytest.mark.parametrize("form", ["pax", "gnu"])
    @pytest.mark.parametrize(
        "name",
        ["é" * 60 + ".jpg", "folder/" * 40 + "1.jpg", "\udce9t\udce9.jpg", "MRT Schädel #1?.jpg"],
        ids=["accents", "long", "not UTF-8", "signs"],
    )
    def test_long_and_foreign_names_in_a_tar(self, form, name):
        shown = name.encode("utf-8", "surrogateescape").decode(errors="backslashreplace")
        assert contents("tar", tar_of([(name, b"x"), ("b.jpg", b"y")], form)) == {shown: b"x", "b.jpg": b"y"}

    @pytest.mark.parametrize(
        ("stored", "shown"),
        [(b"\x81\x81.jpg", "üü.jpg"), ("ü.jpg".encode(), "ü.jpg"), (b"ab.jpg", "ab.jpg")],
        ids=["cp437", "UTF-8", "ASCII"],
    )
    def test_names_in_a_zip_that_do_not_say_their_encoding(self, stored, shown):
        name = b"a" * (len(stored) - 4) + b".jpg"
        data = zip_of({name.decode(): b"x"}).replace(name, stored)
        assert contents("zip", data) == {shown: b"x"}

    def test_one_name_that_is_no_utf8_does_not_hide_the_others(self):
        """`zipfile` opens no such zip at all."""
        data = zip_of({"ü.jpg": b"1", "b.jpg": b"2"}).replace("ü".encode(), b"\xff\xfe")
        assert contents("zip", data) == {"\\xff\\xfe.jpg": b"1", "b.jpg": b"2"}

    def test_dots_and_doubled_slashes_are_not_taken_for_hidden_folders(self):
        files = {"./glioma/./1.jpg": b"1", "glioma//2.jpg": b"2"}
        expected = {"glioma/1.jpg": b"1", "glioma/2.jpg": b"2"}
        assert contents("tar", tar_of(files)) == contents("zip", zip_of(files)) == expected


class TestRefusedInTar:
    @pytest.mark.parametrize(
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

    @pytest.mark.parametrize(
        ("data", "refused"),
        [
            (b"", "empty: the file has no bytes"),
            (b"\x1f\x8b\x08" + bytes(600), "unsupported: is compressed with gzip; unpack it to a plain tar"),
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

    @pytest.mark.parametrize(
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

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_changed_byte_is_found_by_the_checksum(self, method, streamed):
        data = bytearray(zip_of({"a.jpg": PICTURES["glioma/1.jpg"]}, method, streamed=streamed))
        data[700] ^= 1
        assert contents("zip", bytes(data))["a.jpg"].reason == "truncated"

    def test_a_piece_of_another_member_is_refused(self):
        data = zip_of({"a.jpg": b"x"})
        with pytest.raises(ImageError, match=r"truncated: another member, a\.jpg, is at its place"):
            unpack("zip", "b.jpg", 1, data)
        assert unpack("zip", "a.jpg#2", 1, data) == b"x"

    @pytest.mark.parametrize(
        ("data", "refused"),
        [
            (b"", "empty: the file has no bytes"),
            (b"<html>" * 20, "not_an_image: is named .zip but is none"),
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


CLASS_LABEL = {"info": {"features": {"label": {"names": ["glioma", "notumor"], "_type": "ClassLabel"}}}}


class TestParquet:
    def labels(self, columns, **options):
        return [row["label"] for row in rows_of("parquet", parquet_of(columns, **options))]

    def test_images_and_labels_as_hugging_face_writes_them(self):
        columns = {"image": huggingface_images([b"1", b"2", None, b"4"]), "label": [1, 0, -1, 7]}
        data = parquet_of(columns, huggingface=CLASS_LABEL, row_group_size=3)
        rows = rows_of("parquet", data)
        assert [row["label"] for row in rows] == ["notumor", "glioma", None, None]
        assert [(row["offset"], row["size_bytes"]) for row in rows] == [(0, None), (0, None), (0, None), (1, None)]
        found = contents("parquet", data)
        assert str(found.pop("2")) == "empty: row 2 has no image"
        assert found == {"0": b"1", "1": b"2", "3": b"4"}

    def test_labels_are_strings_as_they_are_and_numbers_only_with_names(self):
        images = {"image": [b"1", b"2"]}
        assert self.labels(images | {"Diagnosis": ["a", None]}) == ["a", None]
        assert self.labels(images | {"target": pa.array(["a", "b"]).dictionary_encode()}) == ["a", "b"]
        assert self.labels(images | {"label": [0, 1], "class": ["x", "y"]}) == ["x", "y"]
        assert self.labels(images | {"label": [0, 1]}) == self.labels(images) == [None, None]
        assert self.labels(images | {"label": ["x" * 2000, "y"]}) == [None, "y"]
        for damaged in ({"info": {"features": {"label": {"names": 7}}}}, {"info": []}, ["x"]):
            assert self.labels(images | {"label": [0, 1]}, huggingface=damaged) == [None, None]

    def test_the_image_column_is_known_by_its_name_or_by_being_the_only_one(self):
        data = parquet_of({"mask": [b"m"], "Image": [b"i"], "thumb": huggingface_images([b"t"])})
        assert contents("parquet", data) == {"0": b"i"}
        ((name, refused),) = refusals("parquet", parquet_of({"a": [b"1"], "b": [b"2"], "c": [3]})).items()
        assert (name, refused) == ("", "unsupported: has several binary columns (a, b); name one of them image")

    def test_a_table_of_labels_is_no_container(self):
        with pytest.raises(NotAnArchive, match="Parquet without images"):
            rows_of("parquet", parquet_of({"file": ["a.jpg"], "label": ["glioma"]}))

    def test_rows_come_in_the_order_asked_for_and_foreign_ones_are_not_found(self):
        data = parquet_of({"image": [b"%d" % k for k in range(100)]}, row_group_size=50)
        found = parquet_rows(io.BytesIO(data), [1], ["99", "50", "99", "0", "x"])
        assert found[:3] == [b"99", b"50", b"99"]
        assert [error.reason for error in found[3:]] == ["not_found", "not_found"]
        assert [error.reason for error in parquet_rows(io.BytesIO(data), [9], ["0"])] == ["truncated"]

    def test_the_listing_reads_no_image(self):
        pictures = [random.Random(k).randbytes(50_000) for k in range(40)]
        file = Counting(parquet_of({"image": pictures, "label": ["a"] * 40}, row_group_size=10))
        assert len(rows_of("parquet", file)) == 40
        assert file.given < 100_000

    def test_giant_row_groups_are_refused(self, monkeypatch):
        monkeypatch.setattr(parquet_file, "_MOST_GROUP_BYTES", 5000)
        data = parquet_of({"image": [b"1", b"2" * 9000]}, row_group_size=1)
        assert refusals("parquet", data) == {"1": "too_large: row group of 0.0 GiB; write smaller row groups"}

    def test_absurdly_many_rows_are_refused(self):
        data = parquet_of({"image": [b"1", b"2"]})
        assert refusals("parquet", data, most=1) == {"": "too_large: more than 1 members; write several smaller files"}

    @pytest.mark.parametrize(
        ("data", "refused"),
        [
            (b"", "empty: the file has no bytes"),
            (b"<html>" * 20, "not_an_image: is named .parquet but is none"),
            (b"PAR1" + bytes(90), "truncated: its footer is missing"),
            (b"PAR1" + bytes(90) + b"PARE", "unsupported: is encrypted"),
            (b"PAR1" + b"\xff" * 90 + struct.pack("<L", 80) + b"PAR1", "truncated: "),
            (b"PAR1" + bytes(90) + struct.pack("<L", 1 << 30) + b"PAR1", "truncated: footer of 1,073,741,824 bytes"),
        ],
        ids=["empty", "html", "no footer", "encrypted", "damaged footer", "giant footer"],
    )
    def test_what_is_no_whole_parquet_says_so(self, data, refused):
        ((name, told),) = refusals("parquet", data).items()
        assert name == ""
        assert told.startswith(refused)

    def damaged(self, column):
        """Of three row groups, the data of one column of the second are lost."""
        pictures = [random.Random(k).randbytes(900) for k in range(9)]
        columns = {"image": pictures, "label": [f"class {k}" for k in range(9)]}
        data = parquet_of(columns, row_group_size=3, compression="gzip", use_dictionary=False)
        place = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(column)
        at, length = place.data_page_offset, place.total_compressed_size
        return data[:at] + b"\xff" * length + data[at + length :], dict(zip("012345678", pictures, strict=True))

    def test_damaged_images_get_error_rows_and_the_others_are_read(self):
        data, pictures = self.damaged(0)
        found = contents("parquet", data)
        assert {name for name in found if isinstance(found[name], ImageError)} == {"3", "4", "5"}
        assert {found[name].reason for name in "345"} == {"truncated"}
        assert all(found[name] == pictures[name] for name in "012678")

    def test_several_row_groups_are_read_at_once_and_a_damaged_one_spoils_no_other(self):
        data, pictures = self.damaged(0)
        file = Counting(data)
        found = dict(zip(pictures, parquet_rows(file, [0, 1, 2], list(pictures)), strict=True))
        assert {name for name in found if isinstance(found[name], ImageError)} == {"3", "4", "5"}
        assert all(found[name] == pictures[name] for name in "012678")
        assert [length > 8100 for length in file.lengths].count(True) == 1, "of 2,700 bytes of pictures each"

    def test_row_groups_that_lie_far_apart_are_read_one_by_one(self, monkeypatch):
        monkeypatch.setattr(parquet_file, "_MOST_STRETCH_BYTES", 1000)
        pictures = [random.Random(k).randbytes(900) for k in range(4)]
        data = parquet_of({"image": pictures}, row_group_size=2)
        assert parquet_rows(io.BytesIO(data), [0, 1], list("0123")) == pictures

    def test_a_changed_byte_is_found_where_the_file_has_checksums(self):
        data = bytearray(parquet_of({"image": [b"pixels " * 99]}, compression="none", write_page_checksum=True))
        data[data.index(b"pixels") + 200] ^= 1
        assert contents("parquet", bytes(data))["0"].reason == "truncated"

    def test_damaged_labels_leave_the_images_and_are_told(self):
        data, pictures = self.damaged(1)
        found = contents("parquet", data)
        assert found.pop("").detail.startswith("labels are missing")
        assert found == pictures
        labels = [row["label"] for row in rows_of("parquet", data)]
        assert labels == [
            *(f"class {k}" for k in range(3)),
            None,
            None,
            None,
            *(f"class {k}" for k in range(6, 9)),
            None,
        ]


class TestFailingReads:
    """What the storage raises is tried again by the caller; were it an error row, images would be given up."""

    @pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
    def test_the_error_of_the_file_is_raised(self, kind):
        data = {"tar": tar_of(PICTURES), "zip": zip_of(PICTURES), "parquet": parquet_of({"image": [b"1"]})}[kind]
        file = Counting(data)
        rows_of(kind, file)
        for failing in range(file.reads):
            with pytest.raises(OSError, match="the mount is gone"):
                rows_of(kind, Counting(data, failing))

    def test_the_error_of_the_file_is_raised_in_place_of_rows(self):
        data = parquet_of({"image": [b"1" * 500]})
        file = Counting(data)
        assert parquet_rows(file, [0], ["0"]) == [b"1" * 500]
        for failing in range(file.reads):
            with pytest.raises(OSError, match="the mount is gone"):
                parquet_rows(Counting(data, failing), [0], ["0"])


class TestDamage:
    def test_a_tar_cut_anywhere_gives_what_came_before_and_says_so(self):
        data = tar_of(PICTURES | {"é" * 90: b"long"})
        ends = {row["name"]: row["offset"] + row["stored_bytes"] for row in rows_of("tar", data)}
        marked = (max(ends.values()) // 512 + 1) * 512 + 512
        for cut in {*range(0, len(data), 61), *(512 * k + d for k in range(len(data) // 512) for d in (-1, 0, 1))} - {
            -1
        }:
            found = contents("tar", data[:cut])
            whole = {name for name, end in ends.items() if end <= cut and PICTURES.get(name, b"long")}
            assert all(found[name] == PICTURES.get(name, b"long") for name in whole), cut
            assert ("" in found) == (cut < marked), cut

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_zip_cut_anywhere_says_so(self, streamed):
        data = zip_of({"a.jpg": b"some pixels", "b.jpg": b"others"}, streamed=streamed)
        for cut in range(len(data)):
            assert [*contents("zip", data[:cut])] == [""], cut

    def test_a_parquet_cut_anywhere_says_so(self):
        data = parquet_of({"image": [b"1" * 50]})
        for cut in range(len(data)):
            assert [*contents("parquet", data[:cut])] == [""], cut

    @settings(max_examples=150, deadline=5000)
    @given(
        kind=st.sampled_from(["tar", "zip", "parquet"]),
        head=st.sampled_from([b"", LOCAL, b"PAR1", tar_of({"a": b"b"})[:1024]]),
        tail=st.sampled_from(
            [b"", END + bytes(18), b"\x10\0\0\0PAR1", END + struct.pack("<HHHHLLH", 0, 0, 1, 1, 60, 0, 0)]
        ),
        body=st.binary(max_size=1500),
    )
    def test_no_bytes_whatever_end_the_run(self, kind, head, tail, body):
        contents(kind, head + body + tail)

    # The same examples each time: where Arrow aborts the process, all tests end.
    @settings(max_examples=200, deadline=5000, derandomize=True)
    @given(data=st.data(), kind=st.sampled_from(["tar", "zip", "streamed zip", "parquet"]))
    def test_damage_gives_the_same_members_or_errors(self, data, kind):
        changed = bytearray(INTACT[kind])
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(changed)) | st.integers(max(0, len(changed) - 300), len(changed)))
            removed = data.draw(st.sampled_from([0, 1, 1, 2, 4, 600]))
            changed[at : at + removed] = data.draw(
                st.binary(max_size=8) | st.sampled_from([b"\0", b"\xff", b"\xff" * 4])
            )
        found = contents(kind.split()[-1], bytes(changed))
        if "zip" in kind:  # the others have no checksum over what they hold
            assert all(isinstance(data, ImageError) or data in PICTURES.values() for data in found.values())


INTACT = {
    "tar": tar_of(PICTURES),
    "zip": zip_of(PICTURES),
    "streamed zip": zip_of(PICTURES, streamed=True),
    "parquet": parquet_of({"image": huggingface_images(PICTURES.values()), "label": list("abab")}, row_group_size=2),
}
