"""A row of a listing: the location of an image, its version, label and group. And an index of many images by URI.

The schema of the stored listing; its columns must stay, for manifests of old runs have them.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CHUNK_ROWS = 16_384  # rows of a listing that are held in memory at a time
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


def tables_in(path: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a local file, such as one of a listing, in order, `CHUNK_ROWS` at a time; all columns, or some."""
    with pq.ParquetFile(path, pre_buffer=False) as file:  # pre-buffering would hold the whole file
        for batch in file.iter_batches(CHUNK_ROWS, columns=None if columns is None else list(columns)):
            yield pa.Table.from_batches([batch])


def with_values(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows of a listing with other values in a column, such as labels."""
    return table.set_column(table.schema.get_field_index(name), LISTED_SCHEMA.field(name), values)


@contextmanager
def few_collections() -> Iterator[None]:
    """Collect garbage rarely: a listing's millions of objects have no cycles, and checks took a third of the time."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class UriIndex:
    """The places of URIs in a column, looked up again and again: `pc.index_in` hashes the whole column at each call.

    Needs 16 bytes a row beside the column.
    """

    def __init__(self, uris: pa.Array) -> None:
        self._uris = uris
        hashes = hashes_of(uris)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def find(self, uris: pa.Array) -> pa.Array:
        """The first place of each of these URIs; null for those that the column does not hold."""
        hashes = hashes_of(uris)
        found = np.full(len(uris), -1, np.int64)
        at = np.searchsorted(self._sorted, hashes)
        past = np.searchsorted(self._sorted, hashes, side="right")
        unsettled = np.flatnonzero(at < past)
        while len(unsettled):  # a second turn only for URIs of equal hashes
            places = self._order[at[unsettled]]
            same = pc.equal(self._uris.take(pa.array(places)), uris.take(pa.array(unsettled)))
            equal = np.asarray(same.to_numpy(zero_copy_only=False), bool)
            found[unsettled[equal]] = places[equal]
            unsettled = unsettled[~equal]
            at[unsettled] += 1
            unsettled = unsettled[at[unsettled] < past[unsettled]]
        return pa.array(found, mask=found < 0)


def hashes_of(uris: pa.Array) -> npt.NDArray[np.int64]:
    """Hashes of texts, equal for equal ones within this process."""
    slices = (uris.slice(start, CHUNK_ROWS) for start in range(0, len(uris), CHUNK_ROWS))
    return np.fromiter((hash(uri) for piece in slices for uri in piece.to_pylist()), np.int64, len(uris))
