"""Columns of a Parquet list that hold no text, each in the place of a column that brainray reads."""

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each

from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.listing import Lister
from brainray.inputs.lists.file_lists import open_file_list

NESTED = {
    "struct<a: int64>": pa.array([{"a": 1}]),
    "list<element: string>": pa.array([["a.jpg"]]),
    "map<string, int64": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
}


@pytest.fixture
def rows(tmp_path):
    def write(keep=(), **columns):
        pq.write_table(pa.table({"uri": ["a.jpg"], **columns}), tmp_path / "l.parquet")
        return list(open_file_list(str(tmp_path / "l.parquet")).rows(keep))

    return write


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("name", ["uri", "label", "size", "version", "x"])
def test_a_nested_column_is_refused_by_name_and_type(rows, name, kind):
    with pytest.raises(BadRequest) as raised:
        rows(["x"] if name == "x" else (), **{name: NESTED[kind]})
    assert f"l.parquet: its column {name} " in str(raised.value)
    assert f"is {kind}" in str(raised.value)


@pytest.mark.parametrize("values", [[7], [7.5], [True], [decimal.Decimal("1.5")], [datetime.date(2024, 1, 1)]])
def test_numbers_name_no_images(rows, values):
    with pytest.raises(BadRequest, match=r"its column uri names the images and is .*; write it as text"):
        rows(uri=values)


@pytest.mark.parametrize("size", ["9" * 19, "-1", "²", "1.5", None])
def test_what_is_no_size_is_none(rows, tmp_path, size):
    assert [row.size_bytes for row in rows(size=pa.array([size], pa.string()))] == [None]
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        ((table, _),) = Lister([str(tmp_path / "l.parquet")], indexes, classes=()).tables()
    assert table["size_bytes"].to_pylist() == [None]


def test_columns_of_nulls_and_of_dictionaries_are_read(rows):
    (row,) = rows(["x"], uri=pa.array(["a.jpg"]).dictionary_encode(), label=pa.nulls(1), size=[3], x=pa.nulls(1))
    assert (row.uri.rpartition("/")[2], row.label, row.size_bytes, row.kept) == ("a.jpg", None, 3, "[null]")


@each("name", ["uri", "label", "x"])
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    names = ["uri", "label", "x", name]
    pq.write_table(pa.table([["a.jpg"]] * len(names), names), tmp_path / "l.parquet")
    with pytest.raises(BadRequest, match=rf"l\.parquet: has 2 columns named {name}"):
        list(open_file_list(str(tmp_path / "l.parquet")).rows(["x"]))
