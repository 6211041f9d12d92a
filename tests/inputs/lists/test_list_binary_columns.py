"""A Parquet file with a column of locations is a list, also where other columns are binary."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes

from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.listing import Lister
from brainray.inputs.lists.file_lists import open_file_list

DIGEST = hashlib.sha256(b"x").digest()
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
OTHER_STRUCT = pa.struct([("bytes", pa.binary()), ("when", pa.int64())])
IMAGE = {"bytes": image_bytes(1), "path": "a.jpg"}


@pytest.fixture
def opened(tmp_path):
    def write(**columns):
        pq.write_table(pa.table(columns), tmp_path / "list.parquet")
        return open_file_list(str(tmp_path / "list.parquet"))

    return write


@pytest.mark.parametrize(
    "columns",
    [
        {"uri": ["a.jpg"], "sha256": [DIGEST]},
        {"uri": ["a.jpg"], "sha256": [DIGEST], "md5": pa.array([DIGEST], pa.large_binary())},
        {"path": pa.array(["a.jpg"]).dictionary_encode(), "thumbnail": [image_bytes(0)]},
        {"File": pa.array(["a.jpg"], pa.large_string()), "uuid": pa.array([DIGEST[:16]], pa.binary(16))},
    ],
)
def test_a_binary_column_beside_the_uri_makes_no_archive(opened, tmp_path, columns):
    found = opened(**columns)
    assert found is not None
    assert [row.uri for row in found.rows()] == [f"{tmp_path}/a.jpg"]


def test_an_inventory_with_a_digest_is_a_list(opened):
    found = opened(bucket=["data"], key=["a.jpg"], checksum=[DIGEST])
    assert [row.uri for row in found.rows()] == ["s3://data/a.jpg"]


@pytest.mark.parametrize(
    "columns",
    [
        {"path": ["a.jpg"], "image": [image_bytes(0)]},
        {"path": ["a.jpg"], "content": [image_bytes(0)], "length": [9]},
        {"file_name": ["a.jpg"], "scan": pa.array([IMAGE], STRUCT)},
        {"id": ["a"], "scan": pa.array([IMAGE], STRUCT)},
        {"pixels": [image_bytes(0)]},
        {"file": [image_bytes(0)]},
    ],
)
def test_a_table_of_images_is_no_list(opened, columns):
    assert opened(**columns) is None


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"uri": ["a"], "scan": pa.array([{"bytes": b"x", "when": 1}], OTHER_STRUCT)}, "bytes in its column scan"),
        ({"uri": [b"a.jpg"]}, "its column uri is binary; write it as text"),
        ({"age": [5], "note": ["x"]}, "needs a column uri or path, and has age, note"),
    ],
)
def test_what_is_neither_is_refused_with_what_was_seen(opened, columns, told):
    with pytest.raises(BadRequest, match=told):
        opened(**columns)


def test_a_binary_column_that_is_no_text_is_not_kept(opened):
    found = opened(uri=["a.jpg"], sha256=[DIGEST])
    with pytest.raises(BadRequest, match="its column sha256 is binary, which is no text"):
        list(found.rows(keep=("sha256",)))


def test_a_list_within_a_folder_is_no_archive(tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"uri": ["a.jpg"], "sha256": [DIGEST]}), tmp_path / "in" / "list.parquet")
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([str(tmp_path / "in")], indexes, classes=("glioma",))
        assert list(lister.tables()) == []
    assert lister.skipped == {"Parquet without images": 1}


def test_an_id_beside_images_makes_no_list_of_them(opened):
    """A run of an earlier version has such a table: its rows must not be gone."""
    assert opened(image_name=["a"], photo=[image_bytes(1)]) is None


def test_a_path_beside_a_digest_makes_a_list(opened):
    assert opened(image_path=["a.jpg"], sha256=[DIGEST]) is not None
