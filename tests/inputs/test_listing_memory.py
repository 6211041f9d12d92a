"""The memory of a listing is that of the rows that are held at a time, however many images there are."""

import tracemalloc
from secrets import token_hex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainray import storage
from brainray.inputs import listing
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.frames import listing as frames_listing
from brainray.inputs.listed_image import CHUNK_ROWS
from brainray.inputs.listing import Lister, scan
from brainray.inputs.lists.file_lists import open_file_list
from brainray.scoring.manifest import write_first
from brainray.storage.base import FileInfo

HELD = 300  # rows at a time, in this test


@pytest.fixture
def peak_bytes(monkeypatch, tmp_path):
    """The peak of Python's memory where a bucket of so many DICOM objects is listed and brought into shards."""
    monkeypatch.setattr(listing, "CHUNK_ROWS", HELD)
    monkeypatch.setattr(frames_listing, "frames_in_file", lambda *_: 1)

    def objects(root, *_):
        for number in range(images):  # of few folders: what is remembered of them has a bound of its own
            folders = (f"patient-{number % 8:06d}",)
            uri = f"{root}/{folders[0]}/1.2.826.{number:09d}.dcm"
            yield FileInfo(uri=uri, folders=folders, size_bytes=20_000, version=f"{number:032x}")

    monkeypatch.setattr(storage, "list_files", objects)

    def peak(count: int) -> int:
        nonlocal images
        images = count
        tracemalloc.start()
        try:
            with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
                found = scan(Lister(["s3://b"], indexes, classes=("glioma",)), str(tmp_path / "listing.parquet"))
            assert sum(shard.images for shard in write_first(found, str(tmp_path / "m"), shard_size=100)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    images = 0
    peak(2 * HELD)  # what is made once
    return peak


def test_five_times_the_images_take_no_more_memory(peak_bytes):
    few, many = peak_bytes(3 * HELD), peak_bytes(15 * HELD)
    assert many < 1.15 * few, f"a listing of millions would fill the memory: {few:,} bytes became {many:,}"
    assert few / HELD * CHUNK_ROWS < 48e6, "the rows that are held at a time take more than 48 MB"


def test_a_list_of_more_row_groups_takes_no_more_memory(tmp_path):
    """Arrow's own way to read batches keeps the bytes of all row groups until the last one."""
    path = str(tmp_path / "list.parquet")

    def peak(groups: int) -> int:
        names = [f"s3://bucket/{token_hex(32)}.jpg" for _ in range(groups * HELD)]
        pq.write_table(pa.table({"uri": names}), path, row_group_size=HELD)
        rows = open_file_list(path).rows()
        return max(pa.total_allocated_bytes() for _ in rows)

    few, many = peak(4), peak(40)
    assert many < 2 * few, f"a list of millions would be in memory as a whole: {few:,} bytes became {many:,}"
