"""What an export is made of: each series of a run with what was said of it, and its scored slices.

Memory does not grow with the run: rows and manifest are joined by DuckDB, which spills to the scratch folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import BadRequest
from brainray.inputs.listed_image import CHUNK_ROWS, LISTED_SCHEMA
from brainray.scoring.manifest import duckdb_connection, quoted
from brainray.scoring.parts import part_uri, present_shards, read_parts
from brainray.scoring.run_folder import SUMMARY, check_is_run, copy_manifest, is_published, later_columns
from brainray.scoring.series.build import FOLDER
from brainray.scoring.series.key import CHECK
from brainray.scoring.series.rows import MOST_ROWS, whole_series
from brainray.storage.scratch import scratch_folder

_PREFIX_DIGITS = 8
_COLUMNS = ("uri", "series", "content_hash", "predicted", "scored_at")
_NO_ROWS = pa.schema(
    [*((name, pa.string()) for name in _COLUMNS[:-1]), ("scored_at", pa.timestamp("us", tz="UTC"))]
).empty_table()
_QUERY = """
    SELECT m.*, r.series, r.content_hash, r.predicted, r.scored_at
    FROM read_parquet({rows}) r JOIN read_parquet([{manifest}]) m ON m.uri = r.uri ORDER BY r.series, m.uri
"""


@dataclass(frozen=True, kw_only=True)
class ExportedRun:
    """A run that is exported."""

    uri: str
    values: dict[str, Any]  # run.json
    scored_at: datetime  # the last of its rows

    @property
    def prefix(self) -> str:
        """The beginning of the name of each file that an export of this run writes, in all its generations.

        It is of the check of the run's key, so it tells nothing of the run.
        """
        return str(self.values[CHECK])[:_PREFIX_DIGITS]

    @property
    def generation(self) -> str:
        """What is the same for each export of this run and model, and for no other."""
        return f"{self.values[CHECK]}/{self.values['fingerprint']}"

    @property
    def names_series(self) -> bool:
        """Whether rows name the series of their headers; those that an earlier version began do not."""
        return "series" in later_columns(self.values)


def open_run(uri: str) -> ExportedRun:
    """Raises `BadRequest` for a run that is not complete, or has no series."""
    values = check_is_run(uri)
    if not is_published(uri):
        raise BadRequest(f"{uri} is not complete: it has no _SUCCESS; finish it with its `score` command first")
    if CHECK not in values or not storage.list_names(storage.join(uri, FOLDER)):
        if "series" not in later_columns(values):
            raise BadRequest(
                f"{uri} has no series: an earlier version scored it; see --rescore, or --series-by, of `score`"
            )
        raise BadRequest(f"{uri} has no series: none of its images has a DICOM header; see --series-by of `score`")
    last = storage.read_json(storage.join(uri, SUMMARY, "summary.json"))["last_scored_at"]
    return ExportedRun(uri=uri, values=values, scored_at=datetime.fromisoformat(last))


def said_of_series(run: ExportedRun) -> Iterator[dict[str, Any]]:
    """The rows of `series/*.parquet`, by the name of the series."""
    for name in sorted(storage.list_names(storage.join(run.uri, FOLDER))):
        with storage.open_parquet(storage.join(run.uri, FOLDER, name)) as file:
            for batch in storage.batches_of(file, 1_000):
                yield from batch.to_pylist()


@contextmanager
def scored_slices(run: ExportedRun) -> Iterator[Iterator[tuple[str, pa.Table]]]:
    """The name of each series with scored slices, and their rows of the manifest with `_COLUMNS`, by name."""
    with scratch_folder() as folder, duckdb_connection() as connection:
        rows = f"{folder}/rows.parquet"
        _copy(run.uri, rows)
        manifest = copy_manifest(run.uri, run.values["manifest"], f"{folder}/manifest")
        query = _QUERY.format(rows=quoted(rows), manifest=", ".join(map(quoted, manifest)))
        batches = connection.sql(query).to_arrow_reader(CHUNK_ROWS)
        listed = (pa.Table.from_batches([batch]) for batch in batches)
        tables = whole_series(listed, lambda rows: rows.slice(0, MOST_ROWS))  # nothing is said of larger ones
        yield (each for table in tables for each in _apart(table))


def _apart(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    listed = [pa.field(name, LISTED_SCHEMA.field(name).type) for name in LISTED_SCHEMA.names]
    for field in listed:  # DuckDB gives text as large strings
        table = table.set_column(table.schema.get_field_index(field.name), field, table[field.name].cast(field.type))
    for name in table["series"].unique().to_pylist():
        yield name, table.filter(pc.equal(table["series"], name)).combine_chunks()


def _copy(run_uri: str, path: str) -> None:
    """Copy what is needed of the scored rows with a series into a local file."""
    uris = [part_uri(run_uri, shard_id) for shard_id in sorted(present_shards(run_uri))]
    file: pq.ParquetWriter | None = None
    try:
        for table in read_parts(_read, uris):
            file = file or pq.ParquetWriter(path, table.schema)
            file.write_table(table)
    finally:
        if file is not None:
            file.close()


def _read(uri: str) -> pa.Table:
    with storage.open_parquet(uri) as file:
        if "series" not in file.schema_arrow.names:
            return _NO_ROWS
        table = file.read(columns=[*_COLUMNS, "status"], use_threads=False).replace_schema_metadata(None)
    scored = pc.and_(pc.equal(table["status"], "ok"), table["series"].is_valid())
    return table.filter(scored).select(_COLUMNS)
