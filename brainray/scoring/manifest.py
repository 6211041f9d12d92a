"""The manifest: a row for every image ever listed, one row group a shard; and what a new listing changes in it.

An image stays in the shard it came into. A shard is named by the rows it began with and keeps that name when they
change, so its part file is replaced as a whole: no image is ever in two parts. Memory does not grow with the archive:
old and new rows are joined by DuckDB, which spills to the scratch folder.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain, islice
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs.listing import Listing, slices
from brainray.inputs.schema import CHUNK_ROWS, LISTED_SCHEMA
from brainray.storage.scratch import scratch_folder

if TYPE_CHECKING:
    import duckdb

MANIFEST_SCHEMA = pa.schema(
    [
        *LISTED_SCHEMA,
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("gone", pa.bool_(), nullable=False),  # not found by the last listing; its prediction is kept
    ]
)
# A bucket gives a whole file for the one row group that a worker asks for, and its footer tells of all of them.
_SHARDS_PER_FILE = 32
_SHARDS_KEY = "brainray.shards"  # in the metadata of a file: id, digest and rows of each row group
_JOIN_MEMORY = "256MB"
_JOIN_THREADS = 2
_NAME_HEX = 12

# What is said of an image, and where it lies; its size and version tell whether it has changed.
_SAID = [name for name in LISTED_SCHEMA.names if name not in ("uri", "size_bytes", "version")]


def _of_listed(name: str) -> str:
    """A column as the listing has it, or of an image that is not listed any more as it was."""
    return f'CASE WHEN l.uri IS NULL THEN o."{name}" ELSE l."{name}" END AS "{name}"'


_KEPT = f"""
    SELECT o.uri, {", ".join(map(_of_listed, LISTED_SCHEMA.names[1:]))},
        o.shard_id, l.uri IS NULL AS gone, o.filename, o.file_row_number
    FROM old o LEFT JOIN listed l ON o.uri = l.uri
"""
_LISTED_ONLY = " WHERE l.uri IS NOT NULL"
_NEW = "SELECT l.* FROM listed l ANTI JOIN old o ON o.uri = l.uri"
_CHANGES = f"""
    WITH sides AS (
        SELECT o.uri IS NULL AS new, l.uri IS NULL AS missing, o.gone AS was_gone,
            NOT new AND NOT missing AS known,
            known AND (o.size_bytes IS DISTINCT FROM l.size_bytes OR o.version IS DISTINCT FROM l.version) AS changed,
            known AND ({" OR ".join(f'o."{name}" IS DISTINCT FROM l."{name}"' for name in _SAID)}) AS relabelled
        FROM old o FULL JOIN listed l ON o.uri = l.uri
    )
    SELECT count(*) FILTER (new), count(*) FILTER (changed), count(*) FILTER (relabelled AND NOT changed),
        count(*) FILTER (missing AND NOT was_gone), count(*) FILTER (known AND was_gone), count(*) FILTER (missing)
    FROM sides
"""


@dataclass(frozen=True, slots=True)
class Shard:
    """One unit of work: where its rows stand in the manifest, and a digest of what they say."""

    shard_id: str
    digest: str
    manifest_uri: str
    row_group: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a listing changes in a manifest; counts are images."""

    new: int = 0
    changed: int = 0  # another size or version
    relabelled: int = 0  # the same file, with another label, group or kept column
    gone: int = 0  # listed before and not now
    returned: int = 0  # gone before and listed now
    forgotten: int = 0  # gone, and dropped on request

    def __bool__(self) -> bool:
        return any((self.new, self.changed, self.relabelled, self.gone, self.returned, self.forgotten))


def rows_digest(table: pa.Table) -> str:
    """80 bits of SHA-256 over what rows say of their images: equal rows, equal digest, whichever run lists them."""
    digest = hashlib.sha256()
    for name in LISTED_SCHEMA.names:
        column = table[name]
        for value in column.to_pylist() if column.null_count < len(column) else ():
            digest.update(b"\0" if value is None else str(value).encode() + b"\1")
        digest.update(b"\2")
    return digest.hexdigest()[:20]


def write_first(listing: Listing, folder: str, *, shard_size: int) -> tuple[Shard, ...]:
    """Write the manifest of a first listing into a local scratch folder and return its shards."""
    os.makedirs(folder, exist_ok=True)
    return _write(_begin_shards(slices(listing.batches(), shard_size)), folder)


def write_updated(
    old: Sequence[str], listing: Listing, folder: str, *, forget: bool, shard_size: Callable[[int], int]
) -> tuple[Changes, tuple[Shard, ...]]:
    """Bring the manifest in the local files `old` up to a listing, into a local scratch folder.

    Images that are not listed any more keep their rows, as `gone`, unless `forget`. New ones come into new shards, of
    `shard_size(how many they are)`. Where nothing has changed, nothing is written and there are no shards.
    """
    with _joined(old, listing.path) as connection:
        changes = _changes(connection, forget=forget)
        if not changes:
            return changes, ()
        os.makedirs(folder, exist_ok=True)
        kept = _ordered(connection, _KEPT + (_LISTED_ONLY if forget else ""), MANIFEST_SCHEMA, f"{folder}/.kept")
        new = _ordered(connection, _NEW, LISTED_SCHEMA, f"{folder}/.new")
        new_shards = _begin_shards(slices(new, shard_size(changes.new)))
        return changes, _write(chain(_by_shard(kept), new_shards), folder)


def repeated_uris(files: Sequence[str], *, most: int = 5) -> list[str]:
    """URIs that stand more than once in local manifest files: none, or something is broken."""
    with _connected() as connection:
        query = f"SELECT uri FROM {_parquet(files)} GROUP BY uri HAVING count(*) > 1 ORDER BY uri LIMIT {most}"
        return [row[0] for row in connection.execute(query).fetchall()]


def _duckdb() -> ModuleType:
    """The library, 0.1 s that only an update of a run has to pay.

    Ctrl-C while its C++ part is set up would abort the process; signals come to the main thread only.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(import_module, "duckdb").result()


@contextmanager
def _connected() -> Iterator["duckdb.DuckDBPyConnection"]:
    duckdb = _duckdb()
    with scratch_folder() as spill:
        config = {
            "memory_limit": _JOIN_MEMORY,
            "threads": _JOIN_THREADS,
            "temp_directory": spill,
            "preserve_insertion_order": False,
        }
        with duckdb.connect(config=config) as connection:
            yield connection


@contextmanager
def _joined(old: Sequence[str], listing_path: str) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Both sides as views, `old` and `listed`."""
    with _connected() as connection:
        connection.execute(f"CREATE VIEW listed AS SELECT * FROM {_parquet([listing_path])}")
        connection.execute(f"CREATE VIEW old AS SELECT * FROM {_parquet(old)}")
        yield connection


def _parquet(files: Sequence[str]) -> str:
    return f"read_parquet([{', '.join(map(_quoted, files))}], file_row_number=true, filename=true)"


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"


def _changes(connection: "duckdb.DuckDBPyConnection", *, forget: bool) -> Changes:
    new, changed, relabelled, gone, returned, missing = connection.execute(_CHANGES).fetchall()[0]
    return Changes(
        new=new,
        changed=changed,
        relabelled=relabelled,
        gone=0 if forget else gone,
        returned=returned,
        forgotten=missing if forget else 0,
    )


def _ordered(connection: "duckdb.DuckDBPyConnection", query: str, schema: pa.Schema, spool: str) -> Iterator[pa.Table]:
    """A result in the order of its files and rows, as it is asked for.

    Joined into a file first, then sorted: both at once need more memory than one of them is allowed (16 million rows).
    """
    connection.execute(f"COPY ({query}) TO {_quoted(spool)} (FORMAT parquet)")
    ordered = f"SELECT * FROM read_parquet({_quoted(spool)}) ORDER BY filename, file_row_number"
    for batch in connection.sql(ordered).to_arrow_reader(CHUNK_ROWS):
        yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)
    os.unlink(spool)


def _by_shard(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Rows of one shard at a time; they stand together."""
    held = MANIFEST_SCHEMA.empty_table()
    for batch in batches:
        held = pa.concat_tables([held, batch]).combine_chunks()
        codes = held["shard_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        start = 0
        for end in (np.flatnonzero(np.diff(codes)) + 1).tolist():
            yield held.slice(start, end - start)
            start = end
        held = held.slice(start)
    if len(held):
        yield held


def _begin_shards(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Name each slice by what it says."""
    for table in tables:
        columns = [*table.columns, pa.array([rows_digest(table)] * len(table)), pa.array([False] * len(table))]
        yield pa.table(columns, schema=MANIFEST_SCHEMA)


def _write(shards: Iterator[pa.Table], folder: str) -> tuple[Shard, ...]:
    """Manifest files named by their content, so that one that stays as it is need not be written again."""
    written: list[Shard] = []
    for number, first in enumerate(shards):  # each turn takes a whole file's shards
        written += _write_file(chain([first], islice(shards, _SHARDS_PER_FILE - 1)), folder, number)
    return tuple(written)


def _write_file(tables: Iterable[pa.Table], folder: str, number: int) -> list[Shard]:
    shards: list[Shard] = []
    temporary = os.path.join(folder, ".manifest")
    with pq.ParquetWriter(temporary, MANIFEST_SCHEMA, compression="zstd") as writer:
        for row_group, table in enumerate(tables):
            writer.write_table(table, row_group_size=len(table))
            identity = table["shard_id"][0].as_py()
            shards.append(Shard(identity, rows_digest(table), "", row_group, len(table)))
        described = [[shard.shard_id, shard.digest, shard.images] for shard in shards]
        writer.add_key_value_metadata({_SHARDS_KEY: json.dumps(described)})
    content = hashlib.sha256(storage.read_bytes(temporary)).hexdigest()[:_NAME_HEX]
    uri = os.path.join(folder, f"manifest-{number:05d}-{content}.parquet")
    os.rename(temporary, uri)
    return [replace(shard, manifest_uri=uri) for shard in shards]


def load_shards(uris: Sequence[str]) -> tuple[Shard, ...]:
    """The shards of manifest files, from their metadata. Raises `StorageError` for a file that is none of ours."""
    shards: list[Shard] = []
    for uri in uris:
        with storage.open_parquet(uri) as file:
            described = (file.metadata.metadata or {}).get(_SHARDS_KEY.encode())
        if described is None:
            raise StorageError("read_failed", f"{uri}: is no manifest of this version of brainray")
        for row_group, (shard_id, digest, images) in enumerate(json.loads(described)):
            shards.append(Shard(shard_id, digest, uri, row_group, images))
    return tuple(shards)


def read_shard(shard: Shard) -> pa.Table:
    """The manifest rows of one shard."""
    with storage.open_parquet(shard.manifest_uri) as file:
        return file.read_row_group(shard.row_group).replace_schema_metadata(None)
