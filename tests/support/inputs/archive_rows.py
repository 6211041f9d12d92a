"""What tests of archives share: archives to make, and what is listed in them."""

import io
import json
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from brainray.errors import IMAGE_REASONS, ImageError
from brainray.inputs.archives import (
    INDEX_SCHEMA,
    NotAnArchive,
    list_members,
    parquet_rows,
    split_refusal,
    unpack,
)

LOCAL, ENTRY, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"  # how records of a zip begin
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
