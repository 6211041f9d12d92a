"""Which images containers hold: each version of a container is listed once, and its index kept with the run.

An index is a Parquet file of `containers.INDEX_SCHEMA`, named by what it is of, so a kept one is never out of date.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs import archives
from brainray.inputs.schema import ListedImage
from brainray.storage.base import FileInfo

from . import INDEX_SCHEMA, Kind, NotAContainer

FOLDER = "containers"  # of a run
AT_ONCE = 8  # containers that are listed beside each other
_FORMAT = 1  # changes when another listing of the same bytes would differ
_SKIPPED_KEY = b"brainray.skipped"  # why the file holds no images at all
_NAME_HEX = 32


class ArchiveIndex:
    """The members of one container."""

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def skipped(self) -> str | None:
        """Why the file is no container of images, whatever its name; else None."""
        reason = (pq.read_schema(self._path).metadata or {}).get(_SKIPPED_KEY)
        return reason.decode() if reason else None

    def entries(self, container: FileInfo) -> Iterator[tuple[str, ListedImage, str | None]]:
        """Name, entry and label, as it is spelled, of each member; what is wrong with the container has no name."""
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            for batch in file.iter_batches():
                yield from _entries(container, batch)

    def members(self) -> "Members":
        """All of them in memory, without a Python object for each."""
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            return Members(file.read())


class Members:
    """The members of one container in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.size_bytes: int = table.nbytes

    def find(self, container: FileInfo, names: Sequence[str]) -> Iterator[ListedImage]:
        """The entries of those that are there, in no order."""
        places = pc.index_in(pa.array([name for name in names if name], pa.string()), self._table["name"])
        for _, entry, _ in _entries(container, self._table.take(places.drop_null())):
            yield entry


def _entries(container: FileInfo, rows: pa.RecordBatch | pa.Table) -> Iterator[tuple[str, ListedImage, str | None]]:
    """Of rows of an index."""
    for name, size_bytes, offset, stored_bytes, label, refused in zip(
        *(column.to_pylist() for column in rows.columns), strict=True
    ):
        entry = ListedImage(
            uri=archives.member_uri(container.uri, name),
            size_bytes=size_bytes,
            version=container.version,
            container=container.uri if name else None,
            offset=offset,
            stored_bytes=stored_bytes,
            refused=refused,
        )
        yield name, entry, label


class ArchiveIndexes:
    """Lists containers, several at once, into the local folder `scratch`. `kept` is where a run keeps its indexes."""

    def __init__(self, scratch: str, *, kept: str | None = None) -> None:
        self._scratch = scratch
        self._kept = kept
        self._there = set(storage.list_names(kept)) if kept else set()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="index")

    def __enter__(self) -> Self:
        os.makedirs(self._scratch, exist_ok=True)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def paths(self) -> tuple[str, ...]:
        """The index of every container so far."""
        return tuple(os.path.join(self._scratch, name) for name in sorted(os.listdir(self._scratch)))

    def begin(self, container: FileInfo, kind: Kind) -> Future[ArchiveIndex]:
        """The index of a container, read from the run or made. `StorageError` where the container cannot be read."""
        return self._pool.submit(self._index, container, kind)

    def _index(self, container: FileInfo, kind: Kind) -> ArchiveIndex:
        said = "\0".join((str(_FORMAT), container.uri, str(container.size_bytes), container.version))
        name = f"{hashlib.sha256(said.encode()).hexdigest()[:_NAME_HEX]}.parquet"
        path = os.path.join(self._scratch, name)
        if os.path.exists(path):  # a list may name a container time and again
            return ArchiveIndex(path)
        if self._kept and name in self._there:
            storage.write_bytes(path, storage.read_bytes(storage.join(self._kept, name)))
        else:
            temporary = f"{path}.{secrets.token_hex(4)}"
            _write(temporary, container, kind)
            os.replace(temporary, path)
        return ArchiveIndex(path)


def keep(paths: Sequence[str], folder: str, writer: storage.Writer) -> None:
    """Put indexes into the folder of a run, and remove those of containers that are gone or have changed."""
    there = set(storage.list_names(folder))
    names = {os.path.basename(path): path for path in paths}

    def put(name: str) -> None:
        writer.write_bytes(storage.join(folder, name), storage.read_bytes(names[name]))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = [pool.submit(put, name) for name in names.keys() - there]
        done += [pool.submit(writer.delete, storage.join(folder, name)) for name in there - names.keys()]
        for future in done:
            future.result()


def _write(path: str, container: FileInfo, kind: Kind) -> None:
    with storage.open_seekable(container.uri, version=container.version) as file:
        tables = _listed(container.uri, archives.list_members(kind, file))
        try:
            first = next(tables, INDEX_SCHEMA.empty_table())
        except NotAContainer as exc:
            schema = INDEX_SCHEMA.with_metadata({_SKIPPED_KEY: str(exc).encode()})
            pq.write_table(schema.empty_table(), path)
            return
        with pq.ParquetWriter(path, INDEX_SCHEMA, compression="zstd") as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)


def _listed(uri: str, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    try:
        yield from tables
    except OSError as exc:
        raise StorageError("read_failed", f"{uri}: {exc}") from exc
