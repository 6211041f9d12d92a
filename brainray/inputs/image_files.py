"""The image files below a folder, as data sets of class folders have them: no lists, no containers."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa

from brainray import storage
from brainray.errors import blamed_on
from brainray.storage.base import FileInfo

from .listing import CHUNK_ROWS
from .selection import skip_reason


def image_files(option: str, root: str, skipped: Counter[str]) -> Iterator[FileInfo]:
    """Counts by reason what is passed over. Errors name the option."""
    with blamed_on(option):
        for found in storage.list_files(root):
            reason = skip_reason(storage.name_of(found.uri), found.folders, special=found.special)
            if reason:
                skipped[reason] += 1
            else:
                yield found


def tables_of(rows: Iterable[dict[str, str | None]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Of at most `CHUNK_ROWS` rows each, so that few are held as Python objects."""
    left = iter(rows)
    while chunk := list(islice(left, CHUNK_ROWS)):
        yield pa.Table.from_pylist(chunk, schema=schema)
