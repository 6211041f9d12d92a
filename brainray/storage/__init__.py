"""The only code that opens a URI: lists, reads and writes atomically, on the backend that its scheme names.

No other package may open a file of the user or import a backend.
"""

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from brainray.errors import BadRequest, StorageError, as_bad_request

from .base import CLAIM_FILE, EVERY_FOLDER, FileInfo, FolderRules, Service, StorageBackend
from .json_text import json_bytes
from .local import LocalFiles
from .retry import RetryPolicy

_LOCAL = LocalFiles()
# A local path, to Python: an output would be on the disk, in a folder of that name.
_NEARLY_URI = re.compile("((s3[an]?|https?|gs):/(?!/)|arn:aws)", re.IGNORECASE)
_MAKING = threading.Lock()  # `cache` has no lock: each thread of a reader would make a backend of its own


def _backend(uri: str) -> StorageBackend:
    scheme, found, _ = uri.partition("://")
    if not found or scheme.lower() == "file":
        return _LOCAL
    if scheme.lower() in ("s3", "s3a", "s3n"):  # the last two are Hadoop's names
        with _MAKING:
            return _s3()
    raise BadRequest(f"{uri}: {scheme}:// is not served; give a local path, file:// or s3://")


@cache
def _s3() -> StorageBackend:
    from .s3.backend import S3Objects  # takes 0.3 s, which local files need not pay

    return S3Objects()


def sign_nothing() -> None:
    """Send every request to buckets unsigned, as public buckets allow; for this process, and those that it starts."""
    from .s3.settings import UNSIGNED

    os.environ[UNSIGNED[0]] = "true"


def normalise(uri: str | os.PathLike[str]) -> str:
    """The canonical spelling of a location. Raises `BadRequest` for a scheme that has no backend."""
    text = os.fspath(uri)
    if not text:
        raise BadRequest("a path is empty; give a folder or a file")
    if _NEARLY_URI.match(text):
        raise BadRequest(
            f"{text}: is no URI of a bucket, which has two slashes (pathlib drops one); write s3://bucket/key"
        )
    return _backend(text).normalise(text)


def normalise_listed(uri: str) -> str:
    """The URI of a file that a list names by an absolute path or a URI: an S3 key stays exactly as it stands.

    Raises `BadRequest` for a scheme that has no backend.
    """
    return _backend(uri).normalise_listed(uri)


def resolve_listed(folder: str, path: str) -> str:
    """The URI of a file that a list in `folder` names by a relative path. Raises `BadRequest` outside a bucket."""
    return _backend(folder).resolve_listed(folder, path)


def is_local(uri: str) -> bool:
    """Whether a location is on a disk, or on a file system that is mounted."""
    return _backend(uri) is _LOCAL


def without_links(uri: str) -> str:
    """The place of a location with its links followed; in a bucket there are none."""
    return _LOCAL.without_links(uri) if is_local(uri) else uri


def join(uri: str, *names: str) -> str:
    return "/".join((uri.rstrip("/"), *names))


def name_of(uri: str) -> str:
    """The last part of a location, for display: bytes that are not UTF-8 become escapes."""
    return _backend(uri).name_of(uri)


def is_folder(uri: str) -> bool:
    return _backend(uri).is_folder(uri)


def exists(uri: str) -> bool:
    return _backend(uri).exists(uri)


def check_access(uri: str, *, write: bool) -> None:
    """Raise `StorageError`, which names the missing permission, where a folder cannot be read, or written to."""
    _backend(uri).check_access(uri, write=write)


def check_writable(option: str, uri: str) -> None:
    """Raise `BadRequest` where the folder that an option names cannot be written to."""
    with as_bad_request(option):
        check_access(uri, write=True)


def check_is_folder(option: str, uri: str, *, give: str) -> None:
    """Raise `BadRequest` where the folder that an option names is a file, or would lie below one.

    `give` says what to give in its place. In a bucket a key may lie below an object.
    """
    with as_bad_request(option):  # often the first access: a missing bucket, a wrong region, no credentials
        file = _backend(uri).file_in_the_way(uri)
    if file is not None:
        what = "is a file" if file == uri else f"lies below {file}, which is a file"
        raise BadRequest(f"{option} {uri} {what}; give {give}")


def describe_service(uri: str) -> Service | None:
    """The object store of a location; None for a disk. Makes one request, which may be denied."""
    return _backend(uri).describe_service(uri)


def unsupported_conditions(uri: str) -> tuple[str, ...]:
    """The conditional writes that the store ignores (`If-Match` ...). Tries them on a probe file in the folder."""
    return _backend(uri).unsupported_conditions(uri)


def read_bytes(uri: str, *, most_bytes: int | None = None) -> bytes:
    """Read a whole file. A short read, as on a flaky network share, raises `StorageError`.

    So does a file of more than `most_bytes`, of which no more is read, whatever its size when it was listed.
    """
    return _backend(uri).read_bytes(uri, most_bytes)


def read_once(uri: str, *, most_bytes: int | None = None) -> bytes:
    """As `read_bytes`, by one request without retries: for `inputs.reader`, which retries by itself."""
    return _backend(uri).read_once(uri, most_bytes)


def read_range(uri: str, start: int, length: int, *, version: str | None = None) -> bytes:
    """Read `length` bytes from `start`, by one request without retries.

    Raises `StorageError` where the file has another version, or is too short.
    """
    return _backend(uri).read_range(uri, start, length, version)


def read_tail(uri: str, length: int, *, version: str | None = None) -> tuple[bytes, int]:
    """Read the last `length` bytes of a file (all of a shorter one), and its size; as `read_range` without retries."""
    return _backend(uri).read_tail(uri, length, version)


def open_seekable(uri: str, *, version: str | None = None) -> pa.NativeFile:
    """Open a file for random access. Raises `StorageError` where the file has another version."""
    return _backend(uri).open_seekable(uri, version)


def stat(uri: str) -> FileInfo | None:
    """Size and version of a file; a folder is `special`. None where this would cost a request (S3)."""
    return _backend(uri).stat(uri)


def read_json(uri: str) -> dict[str, Any]:
    """Read a JSON object. Raises `StorageError` where the file holds none."""
    try:
        value = json.loads(read_bytes(uri))
    except ValueError as exc:
        raise StorageError("read_failed", f"{uri}: no valid JSON ({exc})") from exc
    if not isinstance(value, dict):
        raise StorageError("read_failed", f"{uri}: holds no JSON object")
    return value


@contextmanager
def open_parquet(uri: str, *, checksums: bool = False) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file. A damaged one raises `StorageError`; `checksums` verifies the checksum of each page."""
    try:
        with (
            _backend(uri).open_seekable(uri) as source,
            pq.ParquetFile(source, page_checksum_verification=checksums) as file,
        ):
            yield file
    except (pa.ArrowException, OSError) as exc:
        raise StorageError("read_failed", f"{uri}: no readable Parquet ({exc})") from exc


def batches_of(file: pq.ParquetFile, rows: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of an open Parquet file in order, at most so many at a time; one row group is in memory.

    `ParquetFile.iter_batches` alone reads all row groups ahead, and keeps their bytes until the last batch.
    """
    for group in range(file.num_row_groups):
        yield from file.iter_batches(rows, row_groups=[group], columns=columns)


def read_parquet(uri: str) -> pa.Table:
    """Read a whole Parquet file into memory."""
    with open_parquet(uri) as file:
        return file.read()


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes and deletes files for the holder of a lease, whose folder is `staging`.

    Once another run revokes that folder, every change raises `OutputHeld` and changes nothing. Without `staging`
    changes are not guarded.
    """

    staging: str | None = None

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Write a whole file or nothing: readers get the old content or the new. Makes missing folders."""
        _backend(uri).write_bytes(uri, data, self.staging)

    def write_json(self, uri: str, value: dict[str, Any]) -> None:
        self.write_bytes(uri, json_bytes(value))

    def write_parquet(self, uri: str, table: pa.Table) -> None:
        """Write a table that fits in memory (a part, a summary), atomically, with zstd and page checksums."""
        self.write_parquet_rows(uri, table.schema, (table,))

    def write_parquet_rows(self, uri: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        """As `write_parquet`, of tables that come one after the other: only the compressed file is in memory."""
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as file:
            for table in tables:
                file.write_table(table)
        self.write_bytes(uri, sink.getvalue().to_pybytes())

    def create(self, uri: str) -> bool:
        """Make an empty file in the staging folder; False if it exists. Of concurrent calls, one succeeds."""
        return _backend(uri).create(uri, self.staging)

    def copy(self, source: str, target: str) -> None:
        """Copy a file over another one, as a whole. The source stays."""
        _backend(target).copy(source, target, self.staging)

    def delete(self, uri: str) -> None:
        """Remove a file. A missing file is no error."""
        _backend(uri).delete(uri, self.staging)

    def delete_tree(self, uri: str, *, first: Sequence[str] = ()) -> None:
        """Remove a folder and all below it. A missing folder is no error.

        `first` names the files in it that mark it as complete. They are removed first, so that an interrupted deletion
        does not leave a folder that looks complete.
        """
        _backend(uri).delete_tree(uri, self.staging, first)


class PrivateWriter(Writer):
    """Writes files of a folder on a disk, which `make_private` has made, that only the user may read."""

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Write a whole file or nothing. No copy of it lies anywhere else meanwhile."""
        _LOCAL.write_private(uri, data)


UNLEASED = Writer()  # holds no lease: its writes are not guarded
PRIVATE = PrivateWriter()
write_bytes = UNLEASED.write_bytes
write_json = UNLEASED.write_json
write_parquet = UNLEASED.write_parquet
delete = UNLEASED.delete
delete_tree = UNLEASED.delete_tree


def make_private(uri: str) -> None:
    """Make a folder on a disk that only this user may enter; one that is there becomes such a folder."""
    _LOCAL.make_private(uri)


def create_private(uri: str, data: bytes) -> bool:
    """Write a file that only this user may read; False if there is one. Of concurrent calls, one succeeds."""
    return _LOCAL.write_private(uri, data, replace=False)


def claim(uri: str, data: bytes) -> bool:
    """Make the folder `uri` with a record in it; False if it exists. Of concurrent calls, one succeeds."""
    return _backend(uri).claim(uri, data)


def renew(uri: str, data: bytes) -> None:
    """Overwrite the record of a claimed folder. Raises `OutputHeld` where the claim was revoked."""
    _backend(uri).renew(uri, data)


def claim_file(uri: str) -> str:
    """The URI of the record in a claimed folder."""
    return join(uri, CLAIM_FILE)


def revoke(uri: str) -> None:
    """Remove a claimed folder, at once: every `Writer` that stages in it fails from now on."""
    _backend(uri).revoke(uri)


def list_names(uri: str, *, policy: RetryPolicy | None = None) -> list[str]:
    """Names in one folder, sorted, without hidden ones; none where there is no folder.

    `policy` says how often a bucket is asked again; None: as often as for any other request.
    """
    return _backend(uri).list_names(uri, policy)


def list_files(uri: str, rules: FolderRules = EVERY_FOLDER) -> Iterator[FileInfo]:
    """Every file below a folder (or the file itself), streamed, always in the same order.

    `rules` decide which folders of a disk are entered; by default one that cannot be read raises.
    """
    return _backend(uri).list_files(uri, rules)
