"""Objects are read, written, copied and deleted, on two independent servers."""

import io
import os
import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.storage.s3_objects import error_of, files, held
from support.storage.s3_servers import s3, s3_endpoints, strict_s3

from brainray.errors import (
    BadRequest,
    OutputHeld,
)
from brainray.scoring.run_folder import delete_run
from brainray.storage.s3 import requests as s3_requests

__all__ = ["s3", "s3_endpoints", "strict_s3"]  # fixtures


ODD_KEYS = (
    "in/a b.jpg",
    "in/100%.jpg",
    "in/%41.jpg",
    "in/a#b.jpg",
    "in/a?b=c&d.jpg",
    "in/a+b.jpg",
    "in/ünï/脳.jpg",
    "in/'q\"<&>.jpg",
    "in/~tilde$@!*().jpg",
    "in/\U0001f9e0.jpg",
)


def test_an_image_costs_one_get_and_no_head(s3):
    uris = [s3.put(f"in/{i}.jpg", os.urandom(30_000)) for i in range(50)]
    backend = files()
    with ThreadPoolExecutor(8) as pool:
        data = list(pool.map(backend.read_bytes, uris))
    assert [len(content) for content in data] == [30_000] * 50
    assert s3.proxy.counts == {("GET", f"/{s3.bucket}/in/{i}.jpg"): 1 for i in range(50)}
    assert s3.proxy.connections <= 16  # the pool may open one while another comes free


def test_odd_names_are_listed_and_lead_back_to_their_objects(s3):
    for key in ODD_KEYS:
        s3.put(key, key.encode())
    found = list(files().list_files(f"{s3.root}/in"))
    assert [info.uri for info in found] == [f"{s3.root}/{key}" for key in sorted(ODD_KEYS)]
    backend = files()
    for info in found:
        assert f"{s3.root}/{backend.read_bytes(info.uri).decode()}" == info.uri
    assert {info.folders for info in found} == {(), ("ünï",)}


def test_names_that_the_fast_client_would_alter_are_read_as_they_are(strict_s3):
    for key in ("in/a//b.jpg", "/in/c.jpg", "in/./d.jpg"):
        strict_s3.put(key, key.encode())
        assert files().read_bytes(f"{strict_s3.root}/{key}") == key.encode()
    assert error_of(lambda: files().read_bytes(f"{strict_s3.root}/in//nothing")).reason == "not_found"


def test_an_empty_object_is_read(s3):
    assert files().read_bytes(s3.put("in/empty", b"")) == b""


def test_a_missing_object_is_not_found_and_a_missing_bucket_is_named(s3):
    missing = error_of(lambda: files().read_bytes(f"{s3.root}/nothing.jpg"))
    assert missing.reason == "not_found"
    for action in (files().read_bytes, files().list_names, files().exists, lambda uri: list(files().list_files(uri))):
        error = error_of(lambda action=action: action("s3://no-such-bucket-here/a"))
        assert error.reason == "not_found"
        assert "no bucket no-such-bucket-here" in str(error)


def table(rows: int) -> pa.Table:
    return pa.table({"a": range(rows), "b": [os.urandom(20) for _ in range(rows)]})


def test_a_parquet_file_is_opened_by_one_request(s3):
    sink = io.BytesIO()
    pq.write_table(table(1000), sink)
    uri = s3.put("run/part.parquet", sink.getvalue())
    with pq.ParquetFile(files().open_seekable(uri)) as file:
        assert file.read().num_rows == 1000
    assert s3.proxy.counts == {("GET", f"/{s3.bucket}/run/part.parquet"): 1}
    assert error_of(lambda: files().open_seekable(f"{s3.root}/run/none.parquet")).reason == "not_found"


def test_a_large_file_is_read_by_ranges_of_one_version(s3, monkeypatch):
    monkeypatch.setattr(s3_requests, "WHOLE_BYTES", 10_000)
    monkeypatch.setattr(s3_requests, "_BUFFER_BYTES", 4096)
    written = table(20_000)
    sink = io.BytesIO()
    pq.write_table(written, sink, row_group_size=1000)
    uri = s3.put("run/big.parquet", sink.getvalue())
    with pq.ParquetFile(files().open_seekable(uri)) as file:
        assert file.read_row_group(3).equals(written.slice(3000, 1000))
        s3.put("run/big.parquet", sink.getvalue()[::-1])
        if s3.conditional:
            assert error_of(lambda: file.read_row_group(9)).reason == "read_failed"


def test_what_is_written_can_be_read_listed_copied_and_deleted(s3):
    backend = files()
    uri, other = f"{s3.root}/run/a b%.bin", f"{s3.root}/run/copy.bin"
    backend.write_bytes(uri, b"one", None)
    assert s3.proxy.counts == {("PUT", f"/{s3.bucket}/run/a b%.bin"): 1}
    backend.write_bytes(uri, b"two", None)
    backend.copy(uri, other, None)
    assert backend.read_bytes(other) == backend.read_bytes(uri) == b"two"
    backend.delete(uri, None)
    backend.delete(uri, None)
    assert not backend.exists(uri)
    assert backend.list_names(f"{s3.root}/run") == ["copy.bin"]
    error = error_of(lambda: backend.copy(uri, other, None))
    assert error.reason == "not_found"
    assert uri in str(error)
    assert backend.read_bytes(other) == b"two"


def test_a_large_file_is_written_in_parts_and_appears_at_once(s3, monkeypatch):
    for module in ("requests", "backend"):
        monkeypatch.setattr(f"brainray.storage.s3.{module}.PART_BYTES", 5 << 20)
    data = random.Random(0).randbytes(12 << 20)
    staging = held(s3)
    s3.proxy.add("503 SlowDown", methods=("PUT", "POST"), times=2)
    backend = files()
    backend.write_bytes(f"{s3.root}/run/big.bin", data, staging)
    assert backend.read_bytes(f"{s3.root}/run/big.bin") == data
    backend.revoke(staging)
    with pytest.raises(OutputHeld):
        backend.write_bytes(f"{s3.root}/run/big-2.bin", data, staging)
    assert not backend.exists(f"{s3.root}/run/big-2.bin")


def test_a_large_write_whose_last_answer_was_lost_is_known_as_done(strict_s3, monkeypatch):
    for module in ("requests", "backend"):
        monkeypatch.setattr(f"brainray.storage.s3.{module}.PART_BYTES", 5 << 20)
    data = random.Random(0).randbytes(6 << 20)
    strict_s3.proxy.add("drop", methods=("POST",), key="uploadId", times=1)
    files().write_bytes(f"{strict_s3.root}/big.bin", data, None)
    assert files().read_bytes(f"{strict_s3.root}/big.bin") == data


def test_a_run_is_deleted_beginning_with_what_makes_it_look_complete(s3):
    for key in ("run/parts/1", "run/parts/2", "run/_SUCCESS", "run/run.json", "run-2/a"):
        s3.put(key)
    staging = held(s3)
    writer = SimpleNamespace(delete_tree=lambda uri, first: files().delete_tree(uri, staging, first))
    s3.proxy.add("403 AccessDenied", methods=("GET",), key="list-type")  # the deletion does not get further
    error_of(lambda: delete_run(f"{s3.root}/run", writer))
    assert [key for key in s3.there() if key.startswith("run/")] == ["run/parts/1", "run/parts/2"]
    s3.proxy.clear()
    delete_run(f"{s3.root}/run", writer)
    delete_run(f"{s3.root}/run", writer)
    assert s3.there() == ["out/.lease/00000001/holder.json", "run-2/a"]


def test_a_tree_is_deleted_and_no_whole_bucket(s3):
    for key in ("run/1", "run/2/3", "run-2/a"):
        s3.put(key)
    files().delete_tree(f"{s3.root}/run", None)
    files().delete_tree(f"{s3.root}/run", None)
    assert s3.there() == ["run-2/a"]
    with pytest.raises(BadRequest):
        files().delete_tree(s3.root, None)
