"""Columns of Parquet files of images that are carried over, such as their ids."""

import datetime
import json

import pyarrow as pa
import pytest
from support.inputs.archive_rows import parquet_of

from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.listing import Lister
from brainray.inputs.lists.kept_columns import kept_types

DAY = datetime.date(2024, 2, 3)


@pytest.fixture
def table(tmp_path):
    def write(name="t.parquet", **columns):
        (tmp_path / name).write_bytes(parquet_of({"image": [b"x", b"y", b"z"], **columns}, row_group_size=2))
        return str(tmp_path / name)

    return write


def listed(tmp_path, inputs, keep):
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister(inputs, indexes, classes=("glioma",), keep=keep)
        rows = [row for found, _ in lister.tables() for row in found.to_pylist()]
    return {row["uri"].rpartition("/")[2]: row["kept"] and json.loads(row["kept"]) for row in rows}


def test_ids_of_a_table_of_images_are_kept_and_name_no_row(table, tmp_path):
    uri = table(id=["p7", None, "p9"], path=["a.jpg", "b.jpg", "c.jpg"], age=[1, 2, None], day=[DAY] * 3)
    assert kept_types([uri], ["id", "age", "day"], taken=()) == (
        ("id", "string"),
        ("age", "int64"),
        ("day", "date32[day]"),
    )
    assert listed(tmp_path, [uri], ["id", "age"]) == {
        "t.parquet#0": ["p7", "1"],
        "t.parquet#1": [None, "2"],
        "t.parquet#2": ["p9", None],
    }


def test_a_table_below_a_folder_and_rows_that_are_left_out_shift_nothing(table, tmp_path):
    uri = table(id=["a", "b", "c"])
    assert set(listed(tmp_path, [str(tmp_path)], ["id"]).values()) == {None}
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([uri], indexes, classes=("glioma",), keep=["id"], exclude=["*#1"])
        kept = [row["kept"] for found, _ in lister.tables() for row in found.to_pylist()]
    assert kept == ['["a"]', '["c"]']


def test_a_list_and_a_table_keep_one_column_of_one_type(table, tmp_path):
    uri = table(id=["a", "b", "c"])
    (tmp_path / "l.csv").write_text("uri,id\nx.jpg,7\n")
    inputs = [str(tmp_path / "l.csv"), uri]
    assert kept_types(inputs, ["id"], taken=()) == (("id", "string"),)
    assert listed(tmp_path, inputs, ["id"])["x.jpg"] == ["7"]
    with pytest.raises(BadRequest, match=r"id: is string in .*l\.csv and int64 in .*n\.parquet; give it one type"):
        kept_types([inputs[0], table("n.parquet", id=[1, 2, 3])], ["id"], taken=())


def test_a_table_has_all_the_columns_or_none(table, tmp_path):
    one, other, some = table(id=list("abc"), age=[1, 2, 3]), table("o.parquet", note=list("abc")), "s.parquet"
    assert kept_types([other, one], ["id", "age"], taken=()) == (("id", "string"), ("age", "int64"))
    found = listed(tmp_path, [other, one], ["id", "age"])
    assert (found["o.parquet#0"], found["t.parquet#0"]) == (None, ["a", "1"])
    with pytest.raises(BadRequest, match=r"age: the table .*s\.parquet has no such column"):
        kept_types([one, table(some, id=list("abc"))], ["id", "age"], taken=())


def test_what_cannot_be_kept_is_refused_by_name_and_type(table, tmp_path):
    uri = table(meta=[{"a": 1}] * 3, tags=[["x"]] * 3, digest=[b"\xff"] * 3)
    for name, kind in (("meta", "struct<a: int64>"), ("tags", "list<element: string>"), ("digest", "binary")):
        with pytest.raises(BadRequest) as raised:
            listed(tmp_path, [uri], [name])
        assert f"its column {name} is {kind}, which is no text; write it as text" in str(raised.value)
    with pytest.raises(BadRequest, match=r"--keep-columns id: the table .* has no such column; it has image, meta"):
        kept_types([uri], ["id"], taken=())


def test_a_folder_alone_has_no_columns_to_keep(table, tmp_path):
    table(id=pa.array(["a", "b", "c"]))
    with pytest.raises(BadRequest, match="give Parquet files below a folder each by an --input"):
        kept_types([str(tmp_path)], ["id"], taken=())
