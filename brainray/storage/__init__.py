"""The only code that opens a URI: list, read, atomic write. Which backend serves it is decided here, by its scheme."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from brainray.errors import BadRequest, StorageError, as_bad_request

from .base import CLAIM_FILE, FileInfo, Service, StorageBackend
from .local import LocalFiles
from .retry import RetryPolicy

_LOCAL = LocalFiles()
_MAKING = threading.Lock()  # `cache` has none: each thread of a reader would make clients of its own


def _backend(uri: str) -> StorageBackend:
    scheme, found, _ = uri.partition("://")
    if not found or scheme == "file":
        return _LOCAL
    if scheme == "s3":
        with _MAKING:
            return _s3()
    raise BadRequest(f"{uri}: {scheme}:// is not served; give a local path, file:// or s3://")


@cache
def _s3() -> StorageBackend:
    from .s3.backend import S3Objects  # 0.3 s that only buckets have to pay

    return S3Objects()


def normalise(uri: str | os.PathLike[str]) -> str:
    """The one spelling of a location. Raises `BadRequest` for one that is not served."""
    text = os.fspath(uri)
    if not text:
        raise BadRequest("a path is empty; give a folder or a file")
    return _backend(text).normalise(text)


def join(uri: str, *names: str) -> str:
    return "/".join((uri.rstrip("/"), *names))


def name_of(uri: str) -> str:
    """The last part of a location, as text to look at: bytes that are no UTF-8 show as escapes."""
    return _backend(uri).name_of(uri)


def is_folder(uri: str) -> bool:
    return _backend(uri).is_folder(uri)


def exists(uri: str) -> bool:
    return _backend(uri).exists(uri)


def check_access(uri: str, *, write: bool) -> None:
    """Raise `StorageError` naming the permission that is missing to read, or to write and delete, below a folder."""
    _backend(uri).check_access(uri, write=write)


def check_writable(option: str, uri: str) -> None:
    """Raise `BadRequest` where nothing may be written to the folder that an option names."""
    with as_bad_request(option):
        check_access(uri, write=True)


def describe_service(uri: str) -> Service | None:
    """The object store that serves a location, by one request, tried once and allowed or not; None for a disk."""
    return _backend(uri).describe_service(uri)


def unsupported_conditions(uri: str) -> tuple[str, ...]:
    """Of the conditions of a write that let one of many succeed, those not honoured; tried in a folder."""
    return _backend(uri).unsupported_conditions(uri)


def read_bytes(uri: str) -> bytes:
    """A whole file. One that ends too early, as on a flaky network share, raises `StorageError`."""
    return _backend(uri).read_bytes(uri)


def read_once(uri: str) -> bytes:
    """The same, by one request that is not tried again: for `reading`, which counts and paces its tries."""
    return _backend(uri).read_once(uri)


def read_range(uri: str, start: int, length: int, *, version: str | None = None) -> bytes:
    """A stretch of a file, by one request; `StorageError` where the file is of another version by now, or too short."""
    return _backend(uri).read_range(uri, start, length, version)


def read_tail(uri: str, length: int, *, version: str | None = None) -> tuple[bytes, int]:
    """The last bytes of a file, all of a shorter one, and the file's size; not tried again, as `read_range` is not."""
    return _backend(uri).read_tail(uri, length, version)


def open_seekable(uri: str, *, version: str | None = None) -> pa.NativeFile:
    """A file, to be read where it is needed; `StorageError` where it is of another version by now."""
    return _backend(uri).open_seekable(uri, version)


def stat(uri: str) -> FileInfo | None:
    """What there is to know of a file, or of a folder, which is `special`; None where it would cost a request."""
    return _backend(uri).stat(uri)


def read_json(uri: str) -> dict[str, Any]:
    """A JSON object. Raises `StorageError` where the file holds none."""
    try:
        value = json.loads(read_bytes(uri))
    except ValueError as exc:
        raise StorageError("read_failed", f"{uri}: no valid JSON ({exc})") from exc
    if not isinstance(value, dict):
        raise StorageError("read_failed", f"{uri}: holds no JSON object")
    return value


@contextmanager
def open_parquet(uri: str, *, checksums: bool = False) -> Iterator[pq.ParquetFile]:
    """A Parquet file, read where it is needed. A damaged one raises `StorageError`; `checksums` looks at each page."""
    try:
        with (
            _backend(uri).open_seekable(uri) as source,
            pq.ParquetFile(source, page_checksum_verification=checksums) as file,
        ):
            yield file
    except (pa.ArrowException, OSError) as exc:
        raise StorageError("read_failed", f"{uri}: no readable Parquet ({exc})") from exc


def read_parquet(uri: str) -> pa.Table:
    """A whole small table."""
    with open_parquet(uri) as file:
        return file.read()


@dataclass(frozen=True, slots=True)
class Writer:
    """Changes files in the name of one owner, who has claimed the folder `staging`.

    Once another has revoked that folder every change raises `OutputHeld` and changes nothing. Without `staging` there
    is no owner, and no such guard.
    """

    staging: str | None = None

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Write a whole file or nothing: readers see the old content or the new. Makes missing folders."""
        _backend(uri).write_bytes(uri, data, self.staging)

    def write_json(self, uri: str, value: dict[str, Any]) -> None:
        self.write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write_parquet(self, uri: str, table: pa.Table) -> None:
        """Atomically, zstd, with page checksums. Small enough to be built in memory: a part, a summary."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self.write_bytes(uri, sink.getvalue().to_pybytes())

    def create(self, uri: str) -> bool:
        """Make an empty file in the staging folder; False where there is one already. Of many, one succeeds."""
        return _backend(uri).create(uri, self.staging)

    def copy(self, source: str, target: str) -> None:
        """Put a file in another's place, as a whole. The source stays."""
        _backend(target).copy(source, target, self.staging)

    def delete(self, uri: str) -> None:
        """Remove a file; one that is not there is fine."""
        _backend(uri).delete(uri, self.staging)

    def delete_tree(self, uri: str, *, first: Sequence[str] = ()) -> None:
        """Remove a folder and all below it; one that is not there is fine.

        `first`: names of files in it that make it look complete. A deletion that is cut short has removed these.
        """
        _backend(uri).delete_tree(uri, self.staging, first)


UNLEASED = Writer()  # of who holds no lease: its writes are not guarded
write_bytes = UNLEASED.write_bytes
write_json = UNLEASED.write_json
write_parquet = UNLEASED.write_parquet
delete = UNLEASED.delete
delete_tree = UNLEASED.delete_tree


def claim(uri: str, data: bytes) -> bool:
    """Make the folder `uri` with a record in it, at once; False where it is there already. Of many, one succeeds."""
    return _backend(uri).claim(uri, data)


def renew(uri: str, data: bytes) -> None:
    """Replace the record of a claimed folder. Raises `OutputHeld` where the claim was revoked."""
    _backend(uri).renew(uri, data)


def claim_file(uri: str) -> str:
    """Where the record of a claimed folder lies."""
    return join(uri, CLAIM_FILE)


def revoke(uri: str) -> None:
    """Take a claimed folder away, at once: every `Writer` that stages in it fails from now on."""
    _backend(uri).revoke(uri)


def list_names(uri: str, *, policy: RetryPolicy | None = None) -> list[str]:
    """Names in one folder, sorted, without hidden ones; none where there is no folder.

    `policy` says how often a bucket is asked again; None: as often as for any other request.
    """
    return _backend(uri).list_names(uri, policy)


def list_files(uri: str) -> Iterator[FileInfo]:
    """Every file below a folder (or the file itself), streamed, always in the same order.

    A folder that cannot be read raises.
    """
    return _backend(uri).list_files(uri)
