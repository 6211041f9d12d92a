"""Images that are listed twice are found, in memory that does not grow with the list."""

import os
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainray.inputs import listed_image, repeats
from brainray.inputs.listed_image import LISTED_SCHEMA
from brainray.inputs.listing import Listing
from brainray.inputs.repeats import each_once
from brainray.scoring import manifest
from brainray.scoring.manifest import repeated_uris


def listed(path, numbers):
    pq.write_table(pa.table({"uri": [f"/in/{number:06d}.jpg" for number in numbers]}), path)
    return str(path)


@pytest.mark.parametrize("hashes_a_file", [1 << 19, 30])
@pytest.mark.parametrize("rows_at_a_time", [16_384, 7])
def test_a_name_that_stands_twice_is_found(tmp_path, monkeypatch, hashes_a_file, rows_at_a_time):
    """In one file or in two, whether or not both are read at once."""
    monkeypatch.setattr(repeats, "_HASHES_A_FILE", hashes_a_file)
    monkeypatch.setattr(listed_image, "CHUNK_ROWS", rows_at_a_time)
    first, more = listed(tmp_path / "a", range(100)), listed(tmp_path / "b", range(100, 150))
    assert repeated_uris([first, more]) == []
    assert repeated_uris([first, listed(tmp_path / "c", [*range(100, 190), 7])]) == ["/in/000007.jpg"]
    twice = repeated_uris([listed(tmp_path / "d", [*range(80), *range(50)])], most=2)
    assert twice == ["/in/000000.jpg", "/in/000001.jpg"]
    assert repeated_uris([listed(tmp_path / "e", [])]) == []


def test_ten_times_the_images_take_no_more_memory_and_no_database(tmp_path, monkeypatch):
    monkeypatch.setattr(repeats, "_HASHES_A_FILE", 2_000)
    monkeypatch.setattr(listed_image, "CHUNK_ROWS", 500)
    monkeypatch.setattr(manifest, "duckdb_connection", None)  # it takes up to 256 MB

    def peak(images):
        path = listed(tmp_path / "list", range(images))
        tracemalloc.start()
        try:
            assert repeated_uris([path]) == []
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(5_000)  # what is made once
    few, many = peak(5_000), peak(50_000)
    assert many < 1.3 * few, f"the check of a list of millions would fill the memory: {few:,} bytes became {many:,}"


def listing_of(path, numbers):
    rows = [
        {"uri": f"/in/{number:02d}.jpg", "size_bytes": 10 + number, "label": "glioma" if number % 2 else None}
        for number in numbers
    ]
    pq.write_table(pa.Table.from_pylist(rows, LISTED_SCHEMA), path)
    sizes = sum(row["size_bytes"] for row in rows)
    labelled = sum(row["label"] is not None for row in rows)
    return Listing(path=str(path), images=len(rows), size_bytes=sizes, labelled=labelled, notes=("first",))


def test_a_name_that_the_storage_lists_twice_is_taken_once(tmp_path, monkeypatch):
    """Its two rows would keep the run from being published, this night and all that follow."""
    monkeypatch.setattr(listed_image, "CHUNK_ROWS", 7)
    found = each_once(listing_of(tmp_path / "twice", [*range(20), 3, 19, 3]))
    whole = listing_of(tmp_path / "once", range(20))
    assert (found.images, found.size_bytes, found.labelled) == (whole.images, whole.size_bytes, whole.labelled)
    assert pq.read_table(found.path).equals(pq.read_table(whole.path))
    assert found.notes == (
        "first",
        "names that the storage listed twice, and that are taken once: 3, such as /in/03.jpg",
    )
    assert each_once(whole) is whole and sorted(os.listdir(tmp_path)) == ["once", "twice"]
