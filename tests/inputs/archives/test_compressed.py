"""Compressed tars: members, damage, bombs, and reads in any order by several threads."""

import bz2
import gzip
import io
import lzma
import os
import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pyarrow as pa
import pytest
from support.each import each
from support.inputs.archives import tar_of

from brainray import storage
from brainray.errors import ImageError, StorageError
from brainray.inputs import archives
from brainray.inputs.archives import compressed
from brainray.inputs.archives.compressed import CompressedStreams, UnpackedFile
from brainray.inputs.ranges import Member, RangeRead, RangeReader

DATA = random.Random(0).randbytes(40 * 60_000)
FILES = {f"glioma/{number}.jpg": DATA[number * 60_000 :][:60_000] for number in range(40)}
TAR = tar_of(FILES)
COMPRESSIONS = {
    "tar.gz": lambda: gzip.compress(TAR, 1),
    "tar.bz2": lambda: bz2.compress(TAR, 1),
    "tar.xz": lambda: lzma.compress(TAR, preset=0),
    "tar.zst": lambda: pa.compress(TAR, "zstd", asbytes=True),
    "tgz": lambda: TAR,  # a plain one that is named so
}


@cache
def compressed_tar(suffix):
    """When a test asks for it: all take a second, which every process that collects this file would need."""
    return COMPRESSIONS[suffix]()


class Failing(io.BytesIO):
    """A file that cannot be read after its first bytes."""

    def read(self, size=-1, /):
        if self.tell() > 0:
            raise OSError(5, "Input/output error")
        return super().read(min(size, 1000))


def members(data):
    return [row for table in archives.list_members("compressed tar", io.BytesIO(data)) for row in table.to_pylist()]


def ranges(rows, *, each):
    found = [Member(row["name"], row["offset"], row["stored_bytes"], row["size_bytes"]) for row in rows]
    return [tuple(found[start : start + each]) for start in range(0, len(found), each)]


@each("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_bytes_behind_the_end_of_an_archive_lose_no_member(pack):
    """As copies that were padded or joined have them; `tar` ignores them, too."""
    rows = members(pack(tar_of({"1.jpg": b"a" * 900, "2.jpg": b"b"})) + b"garbage")
    assert [row["name"] for row in rows if row["refused"] is None] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_members_are_read_as_they_were_packed(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(compressed_tar(suffix))
    rows = members(compressed_tar(suffix))
    reader = RangeReader()
    read = [
        image
        for some in ranges(rows, each=7)
        for image in reader(RangeRead(str(path), None, str(path.stat().st_mtime_ns), some))
    ]
    assert dict(zip((row["name"] for row in rows), read, strict=True)) == FILES
    assert archives.stem(f"glioma.{suffix}") == "glioma"


def test_a_changed_archive_is_not_read(tmp_path):
    path = tmp_path / "a.tgz"
    path.write_bytes(compressed_tar("tar.gz"))
    some = ranges(members(compressed_tar("tar.gz")), each=7)[0]
    with pytest.raises(StorageError, match="has changed"):
        RangeReader()(RangeRead(str(path), None, "1", some))


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_what_is_before_the_damage_is_read(tmp_path, suffix):
    data = compressed_tar(suffix)[: len(compressed_tar(suffix)) // 2]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    *whole, last = members(data)
    assert last["name"] == ""
    assert last["refused"].startswith("truncated: damaged or cut off after")
    images = []
    for some in ranges([row for row in whole if not row["refused"]], each=50):
        images += RangeReader()(RangeRead(str(path), None, None, some))
    good = [image for image in images if not isinstance(image, ImageError)]
    assert len(good) > 10
    assert good == list(FILES.values())[: len(good)]
    assert len(whole) <= len(good) + 1
    assert all(image.reason == "truncated" for image in images[len(good) :])


def test_a_bomb_ends_the_listing(monkeypatch):
    monkeypatch.setattr(compressed, "_ALWAYS_ALLOWED_BYTES", 0)
    monkeypatch.setattr(compressed, "_MOST_RATIO", 50)
    rows = members(gzip.compress(tar_of({"a.jpg": DATA[:50_000], "b.bmp": bytes(50 << 20), "c.jpg": DATA[:50_000]})))
    assert [row["name"] for row in rows] == ["a.jpg", "b.bmp", ""]
    assert rows[-1]["refused"].startswith("too_large: unpacks to more than 50 times")


def test_a_file_that_cannot_be_read_is_no_damage():
    stream = UnpackedFile(Failing(compressed_tar("tar.gz")))
    with pytest.raises(OSError, match="Input/output error"):
        stream.read(1 << 20)


def test_an_archive_that_goes_away_is_a_failed_read(tmp_path):
    path = tmp_path / "a.tgz"
    path.write_bytes(compressed_tar("tar.gz"))
    first, *_, last = ranges(members(compressed_tar("tar.gz")), each=7)
    reader, version = RangeReader(), str(path.stat().st_mtime_ns)
    reader(RangeRead(str(path), None, version, first))
    path.write_bytes(b"other")
    os.utime(path, ns=(1, 1))
    with pytest.raises(StorageError, match="has changed"):
        reader(RangeRead(str(path), None, version, last))


def test_a_stream_that_breaks_is_a_failed_read(tmp_path, monkeypatch):
    rows = members(compressed_tar("tar.gz"))
    monkeypatch.setattr(storage, "stat", lambda uri: None)
    monkeypatch.setattr(storage, "open_seekable", lambda uri, version: Failing(compressed_tar("tar.gz")))
    with pytest.raises(StorageError, match=r"a.tgz: .*Input/output error"):
        RangeReader()(RangeRead("/a.tgz", None, None, ranges(rows, each=7)[0]))


def test_threads_share_streams_which_only_go_forward(monkeypatch):
    monkeypatch.setattr(compressed, "_KEPT_BYTES", 1 << 20)
    monkeypatch.setattr(compressed, "_NEAR_BYTES", 200_000)
    opened = []

    def open_file(uri, version):
        opened.append((uri, version))
        return pa.BufferReader(compressed_tar("tar.gz"))

    rows = members(compressed_tar("tar.gz"))
    streams = CompressedStreams(open_file)

    def read(row):
        return streams.read("a.tgz", "1", row["offset"], row["stored_bytes"])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(read, rows)) == list(FILES.values())
    assert len(opened) <= 2
    with ThreadPoolExecutor(8) as pool:
        mixed = random.Random(1).sample(rows, len(rows))
        assert list(pool.map(read, mixed)) == [FILES[row["name"]] for row in mixed]
    assert len(streams._streams) <= 16
