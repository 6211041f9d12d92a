"""A file of more bytes than the limit is not read, also where it grows after its size was looked up."""

import io
import os
from pathlib import Path

import pytest
from support.each import each

from brainray import storage
from brainray.errors import StorageError
from brainray.storage import local
from brainray.storage.s3 import requests
from brainray.storage.s3.backend import S3Objects

LIMIT = 1000


def refusal(uri: str) -> StorageError:
    with pytest.raises(StorageError) as caught:
        storage.read_once(uri, most_bytes=LIMIT)
    return caught.value


class _Counted(io.FileIO):
    """Counts the bytes that are read."""

    read_bytes = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size) or b""
        _Counted.read_bytes += len(data)
        return data


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[_Counted]:
    _Counted.read_bytes = 0
    monkeypatch.setattr(local, "open", lambda path, mode, buffering: _Counted(path, mode), raising=False)
    return _Counted


def test_large_sparse_file_is_refused_unread(tmp_path: Path, counted: type[_Counted]) -> None:
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(3 << 30)
    assert refusal(f"{tmp_path}/a.jpg").reason == "too_large"
    assert counted.read_bytes == 0


def test_file_that_grows_is_read_no_further_than_the_limit(
    tmp_path: Path, counted: type[_Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"x")
    before = os.stat(file)
    file.write_bytes(b"x" * 10 * LIMIT)
    monkeypatch.setattr(os, "fstat", lambda _: before)
    assert refusal(str(file)).reason == "too_large"
    assert counted.read_bytes <= LIMIT + 1


def test_file_that_grows_below_the_limit_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"x")
    before = os.stat(file)
    file.write_bytes(b"x" * 500)
    monkeypatch.setattr(os, "fstat", lambda _: before)
    assert storage.read_once(str(file), most_bytes=LIMIT) == b"x" * 500


@each("size", [0, 1, LIMIT])
def test_file_up_to_the_limit_is_read(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x" * size)
    assert storage.read_once(f"{tmp_path}/a.jpg", most_bytes=LIMIT) == b"x" * size


class _Body:
    closed = False

    def read(self) -> bytes:
        raise AssertionError("the body is read")

    bytes = read

    def close(self) -> None:
        self.closed = True


@each("key", ["a.jpg", "a//b.jpg"])  # by obstore, by botocore
def test_large_object_is_refused_by_the_head_of_the_answer(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    body = _Body()
    body.meta = {"size": LIMIT + 1}  # type: ignore[attr-defined]
    files = S3Objects()
    monkeypatch.setattr("obstore.get", lambda store, key: body)
    monkeypatch.setattr(requests.Clients, "store", lambda self, bucket: None)
    monkeypatch.setattr(requests.Requests, "once", lambda *_, **__: {"ContentLength": LIMIT + 1, "Body": body})
    with pytest.raises(StorageError) as caught:
        files.read_once(f"s3://bucket/{key}", LIMIT)
    assert caught.value.reason == "too_large"
    assert body.closed == ("//" in key)
