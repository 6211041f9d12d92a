"""A row of a listing: the location of an image, its version, label and group.

The schema of the stored listing; its columns must stay, for manifests of old runs have them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

CHUNK_ROWS = 65_536  # rows of a listing that are held in memory at a time
LISTED_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("label", pa.string()),
        pa.field("group", pa.string()),
        pa.field("container", pa.string()),  # URI of the archive that holds the image, null for a file of its own
        # Where the image lies in the archive, see `archives.INDEX_SCHEMA`.
        pa.field("offset", pa.int64()),
        pa.field("stored_bytes", pa.int64()),
        pa.field("refused", pa.string()),  # "reason: detail": the image is not read and gets an error row
        pa.field("kept", pa.string()),  # values of kept columns of a file list, see `FileListRow.kept`
    ]
)


class ListedImage(NamedTuple):
    """A row of `LISTED_SCHEMA`."""

    uri: str
    size_bytes: int | None = None
    version: str | None = None
    label: str | None = None
    group: str | None = None
    container: str | None = None
    offset: int | None = None
    stored_bytes: int | None = None
    refused: str | None = None
    kept: str | None = None


def tables_in(path: str) -> Iterator[pa.Table]:
    """The rows of a local file of a listing in order, `CHUNK_ROWS` at a time."""
    with pq.ParquetFile(path, pre_buffer=False) as file:  # pre-buffering would hold the whole file
        for batch in file.iter_batches(CHUNK_ROWS):
            yield pa.Table.from_batches([batch])


def with_values(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows of a listing with other values in a column, such as labels."""
    return table.set_column(table.schema.get_field_index(name), LISTED_SCHEMA.field(name), values)
