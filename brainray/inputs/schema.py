"""An image as a listing knows it: where it is, which version of it, and what is said of it."""

from typing import NamedTuple

import pyarrow as pa

CHUNK_ROWS = 65_536  # of a listing at a time, so that memory does not grow with it
LISTED_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("label", pa.string()),
        pa.field("group", pa.string()),
        pa.field("container", pa.string()),  # the file it lies in, and where: see `containers.INDEX_SCHEMA`
        pa.field("offset", pa.int64()),
        pa.field("stored_bytes", pa.int64()),
        pa.field("refused", pa.string()),  # "reason: detail": gets an error row instead of being read
        pa.field("kept", pa.string()),  # of a list: values of the columns to be kept, see `lists.Listed`
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
