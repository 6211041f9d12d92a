"""Rolls series up by study: a finding of one series is one of its study."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from brainray import storage
from brainray.inputs.listed_image import CHUNK_ROWS
from brainray.scoring.manifest import duckdb_connection, quoted
from brainray.storage import Writer
from brainray.storage.scratch import scratch_folder

from .rollup import Rollup

_FILE = "studies.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("predicted", pa.string()),
        pa.field("confidence", pa.float32()),
        pa.field("review", pa.bool_(), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("series", "decided", "findings", "slices", "scored")),
    ]
)
# Of several series with a finding, the class of the surest counts; without one, the surest of those with none.
_QUERY = """
    SELECT study,
        CASE WHEN count(DISTINCT label) FILTER (label <> {negative}) = 1 THEN max(label) FILTER (label <> {negative})
            WHEN count(DISTINCT label) = 1 THEN max(label) END AS label,
        coalesce(
            arg_max(predicted, {{'c': confidence, 'p': predicted}}) FILTER (predicted <> {negative}), max(predicted)
        ) AS predicted,
        coalesce(max(confidence) FILTER (predicted <> {negative}), max(confidence)) AS confidence,
        bool_or(review) OR count(DISTINCT predicted) FILTER (predicted <> {negative}) > 1 AS review,
        count(*) AS series, count(predicted) AS decided,
        count(*) FILTER (predicted <> {negative}) AS findings, sum(slices) AS slices, sum(scored) AS scored
    FROM read_parquet({files}) WHERE study IS NOT NULL GROUP BY study ORDER BY study
"""


def delete_studies(run_uri: str, writer: Writer) -> None:
    """Delete `studies.parquet` of a run in which no series names its study any more."""
    writer.delete(storage.join(run_uri, _FILE))


def write_studies(run_uri: str, files: Sequence[str], rollup: Rollup, writer: Writer) -> dict[str, Any]:
    """Write `studies.parquet` from the files of series, some of which name their study; gives its figures."""
    negative = rollup.classes[rollup.negative] if rollup.negative is not None else ""
    with scratch_folder() as folder, duckdb_connection() as connection:
        copies = []
        for number, file in enumerate(files):
            copies.append(f"{folder}/{number}.parquet")
            storage.write_bytes(copies[-1], storage.read_bytes(file))
        query = _QUERY.format(negative=quoted(negative), files=f"[{', '.join(map(quoted, copies))}]")
        batches = connection.sql(query).to_arrow_reader(CHUNK_ROWS)
        table = pa.Table.from_batches(list(batches), schema=batches.schema).cast(_SCHEMA)
    writer.write_parquet(storage.join(run_uri, _FILE), table)
    said = table["predicted"].value_counts()
    counts = dict(zip(said.field("values").to_pylist(), said.field("counts").to_pylist(), strict=True))
    return {
        "studies": len(table),
        "decided": len(table) - table["predicted"].null_count,
        "predicted": {name: counts.get(name, 0) for name in rollup.classes},
    }
