"""Archives of every format are listed and read back; damage and failing reads end in rows."""

import io
import struct
import tarfile
import tracemalloc
import zipfile

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each
from support.inputs.archive_rows import (
    END,
    ENTRY,
    LOCAL,
    PICTURES,
    Counting,
    contents,
    entry,
    huggingface_images,
    parquet_of,
    refusals,
    rows_of,
)
from support.inputs.archives import TAR_FORMATS, tar_of, zip_of

from brainray.errors import ImageError
from brainray.inputs import archives
from brainray.inputs.archives import (
    list_members,
    parquet_rows,
    tar_file,
)


class TestRoundTrip:
    @each("form", TAR_FORMATS)
    def test_tar(self, form):
        assert contents("tar", tar_of(PICTURES, form)) == PICTURES

    def test_a_tar_written_to_a_pipe(self):
        assert contents("tar", tar_of(PICTURES, mode="w|")) == PICTURES

    @each("streamed", [False, True])
    @each("force_zip64", [False, True])
    @each("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_zip(self, method, force_zip64, streamed):
        assert contents("zip", zip_of(PICTURES, method, streamed=streamed, force_zip64=force_zip64)) == PICTURES

    @each("streamed", [False, True])
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

    @each("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
    @each("compression", ["none", "zstd"])
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
        names = [row["name"] for row in rows_of("tar", block * 10_000 + bytes(1024))]
        assert (names[0], names[-1]) == ("x.jpg", "x.jpg#10000")

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

        monkeypatch.setattr(archives, "_TABLE_ROWS", 300)
        monkeypatch.setattr(tar_file, "_MOST_READ", tar_file._LEAST_READ)
        blocks = [tarfile.TarInfo(f"{k:06}.jpg").tobuf(tarfile.USTAR_FORMAT) for k in range(2_300)]
        small, large = (peak_bytes("tar", b"".join(blocks[:count]) + bytes(1024)) for count in (300, 2_300))
        assert large - small < 2_000 * 200  # `tarfile` takes 440 bytes a member of the shortest name


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

    @each(("name", "reason"), HOSTILE)
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

    @each("name", ["a.tar", "a.ZIP", "b.parquet", "b.pq", "c.tar.gz", "c.tgz", "d.7z", "e.rar", "f.xz"])
    def test_archives_in_archives_are_refused(self, name):
        expected = {f"in/{name}": "unsupported: an archive inside an archive is not opened"}
        assert (
            refusals("tar", tar_of({f"in/{name}": b"x"})) == refusals("zip", zip_of({f"in/{name}": b"x"})) == expected
        )

    def test_a_packed_volume_is_left_to_the_decoder_which_says_what_to_do(self):
        assert contents("tar", tar_of({"v.nii.gz": b"x"})) == {"v.nii.gz": b"x"}

    @each("form", ["pax", "gnu"])
    @each(
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


class TestFailingReads:
    """What the storage raises is tried again by the caller; were it an error row, images would be given up."""

    @each("kind", ["tar", "zip", "parquet"])
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

    @each("streamed", [False, True])
    def test_a_zip_cut_anywhere_says_so(self, streamed):
        data = zip_of({"a.jpg": b"some pixels", "b.jpg": b"others"}, streamed=streamed)
        for cut in range(len(data)):
            assert [*contents("zip", data[:cut])] == [""], cut

    def test_a_parquet_cut_anywhere_says_so(self):
        data = parquet_of({"image": [b"1" * 50]})
        for cut in range(len(data)):
            assert [*contents("parquet", data[:cut])] == [""], cut

    @settings(max_examples=100)
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
    @settings(max_examples=120, derandomize=True)
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
