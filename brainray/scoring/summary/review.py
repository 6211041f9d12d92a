"""The list of what a person should look at first: `summary/review.parquet`, and the same as `review.csv`.

Mistakes come first, the most confident ones leading, as there the label may be what is wrong; then predictions that a
person has judged wrong without naming a class; then predictions for review without a label; then images that could not
be scored. With its `label` column filled in, the CSV can be given as `--labels`.
"""

from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import StorageError
from brainray.page.tiles import Kind
from brainray.scoring.spreadsheet import replace_list, spreadsheet_csv

from .highlights import Highlights

REVIEW_SCHEMA = pa.schema(
    [
        pa.field("place", pa.int64(), nullable=False),  # 1 is to be looked at first
        pa.field("reason", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("predicted", pa.string()),
        pa.field("confidence", pa.float32()),
        pa.field("error", pa.string()),
        pa.field("error_detail", pa.string()),
        pa.field("group", pa.string()),
    ]
)
_REASONS: dict[Kind, str] = {
    "mistake": "label_and_prediction_differ",
    "judged": "judged_wrong_without_class",
    "unsure": "unsure_without_label",
    "failed": "failed",
}


TABLE, LIST = "review.parquet", "review.csv"


def write_review(folder: str, table: pa.Table, writer: storage.Writer) -> str | None:
    """Write both files of a summary; gives the URI of a list that a person had filled in, and that is kept.

    The list stays as it is where its rows are the same. The table is written after it, so an interrupted command never
    takes a list of its own for one that a person has changed.
    """
    before, uri = _table_before(folder), storage.join(folder, LIST)
    kept = None
    if before is None or not before.equals(table) or not storage.exists(uri):
        kept = replace_list(uri, review_csv(table), None if before is None else review_csv(before), writer)
    writer.write_parquet(storage.join(folder, TABLE), table)
    return kept


def _table_before(folder: str) -> pa.Table | None:
    """review.parquet as it is there; None where there is none of this version."""
    with suppress(StorageError):
        table = storage.read_parquet(storage.join(folder, TABLE))
        if table.schema.equals(REVIEW_SCHEMA):
            return table
    return None


def kept_line(kept: str) -> str:
    """The line for the log on a list that is kept."""
    folder, _, name = kept.rpartition("/")
    return (
        f"{storage.join(folder, LIST)} was filled in or changed, and the run has another list now; what was there is "
        f"kept as {name}, and `report --labels` takes it"
    )


def review_table(highlights: Highlights) -> pa.Table:
    """The rows of review.parquet, in order."""
    columns = [name for name in REVIEW_SCHEMA.names if name not in ("place", "reason")]
    blocks = []
    for kind, reason in _REASONS.items():
        rows = highlights.rows[kind]
        values = {
            name: rows[name] if name in rows.column_names else pa.nulls(len(rows), pa.string()) for name in columns
        }
        blocks.append(pa.table(values | {"reason": pa.repeat(reason, len(rows))}))
    table = pa.concat_tables(blocks)
    place = pa.array(range(1, len(table) + 1), pa.int64())
    return table.append_column("place", place).select(REVIEW_SCHEMA.names).cast(REVIEW_SCHEMA)


def review_csv(table: pa.Table) -> bytes:
    """The table as CSV; an image without a label has an empty one."""
    texts = [field.name for field in REVIEW_SCHEMA if field.type == pa.string()]
    for name in texts:
        table = table.set_column(table.schema.get_field_index(name), name, pc.fill_null(table[name], ""))
    return spreadsheet_csv(table)


def review_figures(highlights: Highlights) -> dict[str, Any]:
    """For summary.json: the images of each reason, and how many of them are in the list."""
    return {
        reason: {"images": highlights.images[kind], "listed": len(highlights.rows[kind])}
        for kind, reason in _REASONS.items()
    }
