"""The manifest of a run, Parquet files with a row for every image ever listed, and its update from a new listing.

A shard is a row group. An image stays in its shard. The id of a shard is a digest of its first rows and is kept when
they change, so its part file is replaced as a whole and no image is ever in two parts. Memory must not grow with the
number of images: old and new rows are joined by DuckDB, which spills to the scratch folder.
"""

import errno
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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs.listed_image import CHUNK_ROWS, LISTED_SCHEMA, tables_in
from brainray.inputs.listing import Listing
from brainray.inputs.repeats import may_repeat
from brainray.inputs.shard_slices import slices
from brainray.storage.scratch import no_room, scratch_folder

from .known_frames import IS_PART, IS_UNREAD

if TYPE_CHECKING:
    import duckdb

MANIFEST_SCHEMA = pa.schema(
    [
        *LISTED_SCHEMA,
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("gone", pa.bool_(), nullable=False),  # missing in the last listing; its prediction is kept
    ]
)
# Few, because to read one row group a worker reads the footer, which describes all, and a small file of a bucket whole.
_SHARDS_PER_FILE = 32
_SHARDS_KEY = "brainray.shards"  # in the metadata of a file: id, digest and number of rows of each row group
_JOIN_MEMORY = "256MB"
_JOIN_THREADS = 2
_FULL = (os.strerror(errno.ENOSPC), "max_temp_directory_size")  # what DuckDB says; by itself it spills to what is free
_NAME_HEX = 12  # hex digits of the content's digest in the name of a file

# Columns whose change does not require a new prediction: label, group, place in an archive. A change of size or version
# does.
_DESCRIBING = [name for name in LISTED_SCHEMA.names if name not in ("uri", "size_bytes", "version")]


def _newest(name: str) -> str:
    """SQL for a column: its value in the listing, or the old value of an image that is missing there."""
    return f'CASE WHEN l.uri IS NULL THEN o."{name}" ELSE l."{name}" END AS "{name}"'


_KEPT_QUERY = f"""
    SELECT o.uri, {", ".join(map(_newest, LISTED_SCHEMA.names[1:]))},
        o.shard_id, l.uri IS NULL AS gone, o.filename, o.file_row_number
    FROM old o LEFT JOIN listed l ON o.uri = l.uri
"""
_LISTED_ONLY = " WHERE l.uri IS NOT NULL"
_NOT_REPLACED = " WHERE l.uri IS NOT NULL OR o.uri NOT IN (SELECT uri FROM replaced)"
# Whether a row may be that of a frame, page or slice of a member of an archive, and the URI of that member.
_IN_MEMBER = "#(frame=|(t=[0-9]+,)?[xyz]=)[0-9]+$"
_IS_IN = f"(container IS NOT NULL AND regexp_matches(uri, '{_IN_MEMBER}'))"
_MEMBER = f"regexp_replace(uri, '{_IN_MEMBER}', '')"
# Rows whose file is listed otherwise: as frames and no longer as one image, or the other way round. Of those that are
# not listed, also rows that were never more than a file that could not be read: it may have been no image.
_AS_FRAMES_NOW = (
    f"SELECT uri FROM old WHERE container IS NULL AND uri IN (SELECT container FROM listed WHERE {IS_PART})"
)
_AS_ONE_NOW = f"SELECT uri FROM old WHERE {IS_PART} AND container IN (SELECT uri FROM listed WHERE container IS NULL)"
_MEMBERS_NOW = f"""
    SELECT uri FROM old WHERE container IS NOT NULL AND uri IN (SELECT {_MEMBER} FROM listed WHERE {_IS_IN})
    UNION ALL SELECT uri FROM old WHERE {_IS_IN} AND {_MEMBER} IN (SELECT uri FROM listed WHERE container IS NOT NULL)
"""
_NEVER_READ = f"SELECT uri FROM old WHERE {IS_UNREAD}"
_NEW_QUERY = "SELECT l.* FROM listed l ANTI JOIN old o ON o.uri = l.uri"
_CHANGES_QUERY = f"""
    WITH sides AS (
        SELECT o.uri IS NULL AS new, l.uri IS NULL AS missing, o.gone AS was_gone,
            NOT new AND NOT missing AS known, missing AND o.uri IN (SELECT uri FROM replaced) AS is_replaced,
            known AND (o.size_bytes IS DISTINCT FROM l.size_bytes OR o.version IS DISTINCT FROM l.version) AS changed,
            known AND o.label IS NOT NULL AND l.label IS NULL AS unlabelled,
            known AND o."group" IS NOT NULL AND l."group" IS NULL AS ungrouped,
            known AND ({" OR ".join(f'o."{name}" IS DISTINCT FROM l."{name}"' for name in _DESCRIBING)}) AS relabelled
        FROM old o FULL JOIN listed l ON o.uri = l.uri
    )
    SELECT count(*) FILTER (new), count(*) FILTER (changed), count(*) FILTER (relabelled AND NOT changed),
        count(*) FILTER (missing AND NOT was_gone AND NOT is_replaced), count(*) FILTER (known AND was_gone),
        count(*) FILTER (missing), count(*) FILTER (is_replaced),
        count(*) FILTER (unlabelled), count(*) FILTER (ungrouped)
    FROM sides
"""


@dataclass(frozen=True, slots=True)
class Shard:
    """A unit of work: a row group of the manifest."""

    shard_id: str
    digest: str  # `rows_digest` of its rows
    manifest_uri: str
    row_group: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Numbers of images that a listing changes in a manifest."""

    new: int = 0
    changed: int = 0  # another size or version
    relabelled: int = 0  # the same file with another label, group or kept column
    gone: int = 0  # listed before and missing now
    returned: int = 0  # missing before and listed now
    # Dropped: missing, with --forget-missing; listed by frame or page now and not as one image, or the reverse; or a
    # file that could not be read, and is no image.
    forgotten: int = 0
    unlabelled: int = 0  # listed now and before, without the label of before
    ungrouped: int = 0  # the same of the group

    def __bool__(self) -> bool:
        return any((self.new, self.changed, self.relabelled, self.gone, self.returned, self.forgotten))


def rows_digest(table: pa.Table) -> str:
    """80 bits of SHA-256 over the listed columns, as 20 hex digits: equal rows give equal digests in every run."""
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
    return _write(_new_shards(slices(listing.batches(), shard_size)), folder)


def write_updated(
    old: Sequence[str], listing: Listing, folder: str, *, forget: bool, shard_size: Callable[[int], int]
) -> tuple[Changes, tuple[Shard, ...]]:
    """Update the manifest in the local files `old` by a listing; write the new one into a local scratch folder.

    Missing images keep their rows, marked `gone`, unless `forget`; but a file is in the manifest either as one image or
    as its frames (`known_frames`), as it is listed now. New images form new shards of `shard_size(number of
    new images)`. If nothing has changed, nothing is written and no shards are returned.
    """
    if _is_listed_again(old, listing):
        return Changes(), ()
    with _manifest_and_listing(old, listing.path) as connection:
        changes = _count_changes(connection, forget=forget)
        if not changes:
            return changes, ()
        os.makedirs(folder, exist_ok=True)
        kept = _query_in_order(
            connection, _KEPT_QUERY + (_LISTED_ONLY if forget else _NOT_REPLACED), MANIFEST_SCHEMA, f"{folder}/.kept"
        )
        new: Iterator[pa.Table] = iter(())
        if changes.new:
            new = _query_in_order(connection, _NEW_QUERY, LISTED_SCHEMA, f"{folder}/.new")
        new_shards = _new_shards(slices(new, shard_size(changes.new)))
        return changes, _write(chain(_split_by_shard(kept), new_shards), folder)


def _is_listed_again(old: Sequence[str], listing: Listing) -> bool:
    """Whether a listing has just the rows of a manifest, in their order: then no DuckDB is needed, nor imported.

    A manifest has another order where it has grown. The first rows that differ end the comparison.
    """
    if sum(pq.read_metadata(file).num_rows for file in old) != listing.images:
        return False
    known = slices((table for file in old for table in tables_in(file)), CHUNK_ROWS)
    listed = slices(listing.batches(), CHUNK_ROWS)
    return all(
        before.select(LISTED_SCHEMA.names).equals(now) and not pc.any(before["gone"]).as_py()
        for before, now in zip(known, listed, strict=True)
    )


def rewrite(old: Sequence[str], folder: str, change: Callable[[pa.Table], pa.Table]) -> tuple[Shard, ...]:
    """Write the manifest in the local files `old` anew into a local scratch folder, each shard as `change` gives it.

    `change` is called once a shard, in order, and keeps number, order and URIs of the rows.
    """
    os.makedirs(folder, exist_ok=True)
    return _write((change(table) for file in old for table in _stored_shards(file)), folder)


def _stored_shards(path: str) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for row_group in range(file.num_row_groups):
            yield file.read_row_group(row_group).replace_schema_metadata(None)


def repeated_uris(files: Sequence[str], *, most: int = 5) -> list[str]:
    """At most `most` URIs that occur more than once in local manifest files; a sound manifest has none.

    DuckDB needs up to `_JOIN_MEMORY` for them, so it is asked only where there are some.
    """
    if not may_repeat(files):
        return []
    with duckdb_connection() as connection:
        query = f"SELECT uri FROM {_parquet(files)} GROUP BY uri HAVING count(*) > 1 ORDER BY uri LIMIT {most}"
        return [row[0] for row in connection.execute(query).fetchall()]


def load_shards(uris: Sequence[str]) -> tuple[Shard, ...]:
    """The shards of manifest files, from their metadata. Raises `StorageError` for any other file."""
    shards: list[Shard] = []
    for uri in uris:
        with storage.open_parquet(uri) as file:
            described = (file.metadata.metadata or {}).get(_SHARDS_KEY.encode())
        if described is None:
            raise StorageError("read_failed", f"{uri}: is no manifest of this version of brainray")
        for row_group, (shard_id, digest, images) in enumerate(json.loads(described)):
            shards.append(Shard(shard_id, digest, uri, row_group, images))
    return tuple(shards)


def read_shard(shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    """The manifest rows of one shard; all columns, or some."""
    wanted = None if columns is None else list(columns)
    with storage.open_parquet(shard.manifest_uri) as file:
        return file.read_row_group(shard.row_group, columns=wanted).replace_schema_metadata(None)


def _duckdb() -> ModuleType:
    """The module duckdb, imported only when needed, because that takes 0.1 s.

    It is imported in a thread of its own: signals are handled in the main thread only, and a Ctrl-C while the C++ part
    is initialised would abort the process.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(import_module, "duckdb").result()


@contextmanager
def duckdb_connection() -> Iterator["duckdb.DuckDBPyConnection"]:
    """A DuckDB in memory, limited in size, that spills to the scratch folder."""
    duckdb = _duckdb()
    with scratch_folder() as spill:
        config = {
            "memory_limit": _JOIN_MEMORY,
            "threads": _JOIN_THREADS,
            "temp_directory": spill,
            "preserve_insertion_order": False,
        }
        try:
            with duckdb.connect(config=config) as connection:
                yield connection
        except (duckdb.IOException, duckdb.OutOfMemoryException) as exc:
            if not any(words in str(exc) for words in _FULL):
                raise
            raise no_room() from exc


@contextmanager
def _manifest_and_listing(old: Sequence[str], listing_path: str) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A DuckDB with the manifest and the listing as the views `old` and `listed`."""
    with duckdb_connection() as connection:
        connection.execute(f"CREATE TEMP VIEW listed AS SELECT * FROM {_parquet([listing_path])}")
        connection.execute(f"CREATE TEMP VIEW old AS SELECT * FROM {_parquet(old)}")
        connection.execute(_replaced_query(old, listing_path))
        yield connection


def _replaced_query(old: Sequence[str], listing_path: str) -> str:
    """SQL that makes the table `replaced`. What cannot find anything is left out: of plain files, all of it."""
    in_listing, in_old = _has_values([listing_path], "container"), _has_values(old, "container")
    queries = {
        _AS_FRAMES_NOW: in_listing,
        _AS_ONE_NOW: in_old,
        _MEMBERS_NOW: in_listing and in_old,
        _NEVER_READ: _has_values(old, "refused"),
    }
    wanted = " UNION ALL ".join(query for query, is_needed in queries.items() if is_needed)
    return f"CREATE TEMP TABLE replaced AS {wanted}" if wanted else "CREATE TEMP TABLE replaced (uri VARCHAR)"


def _has_values(files: Sequence[str], column: str) -> bool:
    """Whether a column of local Parquet files has a value that is not null, by their footers; True if none tells."""
    for path in files:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            place = file.schema_arrow.get_field_index(column)
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                statistics = group.column(place).statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count < group.num_rows:
                    return True
    return False


def _parquet(files: Sequence[str]) -> str:
    """SQL that reads files, with the file and the number of each row."""
    return f"read_parquet([{', '.join(map(quoted, files))}], file_row_number=true, filename=true)"


def quoted(path: str) -> str:
    """A path as a literal of SQL."""
    return "'" + path.replace("'", "''") + "'"


def _count_changes(connection: "duckdb.DuckDBPyConnection", *, forget: bool) -> Changes:
    found = connection.execute(_CHANGES_QUERY).fetchall()[0]
    new, changed, relabelled, gone, returned, missing, replaced, unlabelled, ungrouped = found
    return Changes(
        new=new,
        changed=changed,
        relabelled=relabelled,
        gone=0 if forget else gone,
        returned=returned,
        forgotten=missing if forget else replaced,
        unlabelled=unlabelled,
        ungrouped=ungrouped,
    )


def _query_in_order(
    connection: "duckdb.DuckDBPyConnection", query: str, schema: pa.Schema, spool: str
) -> Iterator[pa.Table]:
    """The result of a query in the order of files and rows, batch by batch.

    The result is written to the file `spool` and sorted from there: for 16 million rows a join and a sort at once need
    more memory than `_JOIN_MEMORY`.
    """
    connection.execute(f"COPY ({query}) TO {quoted(spool)} (FORMAT parquet)")
    ordered = f"SELECT * FROM read_parquet({quoted(spool)}) ORDER BY filename, file_row_number"
    for batch in connection.sql(ordered).to_arrow_reader(CHUNK_ROWS):
        yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)
    os.unlink(spool)


def _split_by_shard(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of each shard as a table. The rows of a shard must be neighbours."""
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


def _new_shards(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Make each slice of a listing a new shard, with the digest of its rows as id."""
    for table in tables:
        columns = [*table.columns, pa.array([rows_digest(table)] * len(table)), pa.array([False] * len(table))]
        yield pa.table(columns, schema=MANIFEST_SCHEMA)


def _write(shards: Iterator[pa.Table], folder: str) -> tuple[Shard, ...]:
    """Write manifest files, which are named by their content, so that an unchanged one need not be written to a run."""
    written: list[Shard] = []
    for number, first in enumerate(shards):  # each turn takes the shards of a whole file
        written += _write_file(chain([first], islice(shards, _SHARDS_PER_FILE - 1)), folder, number)
    return tuple(written)


def _write_file(tables: Iterable[pa.Table], folder: str, number: int) -> list[Shard]:
    """Write one manifest file: a row group for each table."""
    shards: list[Shard] = []
    temporary = os.path.join(folder, ".manifest")
    with pq.ParquetWriter(temporary, MANIFEST_SCHEMA, compression="zstd") as writer:
        for row_group, table in enumerate(tables):
            writer.write_table(table, row_group_size=len(table))
            shard_id = table["shard_id"][0].as_py()
            shards.append(Shard(shard_id, rows_digest(table), "", row_group, len(table)))
        described = [[shard.shard_id, shard.digest, shard.images] for shard in shards]
        writer.add_key_value_metadata({_SHARDS_KEY: json.dumps(described)})
    content = hashlib.sha256(storage.read_bytes(temporary)).hexdigest()[:_NAME_HEX]
    uri = os.path.join(folder, f"manifest-{number:05d}-{content}.parquet")
    os.rename(temporary, uri)
    return [replace(shard, manifest_uri=uri) for shard in shards]
