"""The labels of the rows of a Parquet file with images: which column holds them, and how they are read."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from brainray.errors import ImageError
from brainray.inputs.class_names import LABEL_COLUMNS, UNSURE_LABEL_COLUMNS, numbered_class, numbered_classes
from brainray.inputs.tables.table_columns import spelled

from .member import LONGEST_LABEL
from .parquet_images import is_text
from .parquet_reads import Watched, arrow_errors

_AT_ONCE = 1024
_LONGEST_TYPE = 80  # characters in a message


class Labels:
    """The labels of the rows: strings unchanged, numbers only where the schema names their classes."""

    def __init__(self, opened: pq.ParquetFile, watched: Watched) -> None:
        self._opened = opened
        self._watched = watched
        self._column, self._classes = _label_column(opened.schema_arrow)
        self.damage: ImageError | None = None

    @property
    def unsure_column(self) -> str | None:
        """The column, if its name has other uses than labels, too."""
        return self._column if self._column and spelled(self._column) in UNSURE_LABEL_COLUMNS else None

    def of_group(self, group: int) -> Iterator[str | None]:
        """The labels of a row group in order. They end early where the column is damaged or missing."""
        if self._column is None:
            return
        batches = self._opened.iter_batches(_AT_ONCE, row_groups=[group], columns=[self._column], use_threads=False)
        while True:
            try:
                with arrow_errors(self._watched):
                    batch = next(batches, None)
                    values = batch.column(0).to_pylist() if batch is not None else []
            except ImageError as exc:
                self.damage = exc
                return
            if not values:
                return
            yield from map(self._label, values)

    def _label(self, value: Any) -> str | None:  # noqa: ANN401 - what the column holds
        if isinstance(value, int):
            return numbered_class(value, self._classes)
        return value[:LONGEST_LABEL] if isinstance(value, str) else None  # a longer one is no class, which is told


def unused_labels(schema: pa.Schema, image_column: str) -> Iterator[str]:
    """Which column is named as labels and cannot be read as such, and why; nothing where one can, or none is there."""
    if _label_column(schema)[0] is not None:
        return
    for field in _named_as_labels(schema):
        if not types.is_null(field.type) and field.name != image_column.removesuffix(".bytes"):
            why = " without names of classes" if types.is_integer(field.type) else ""
            yield f"its column {field.name} is {str(field.type)[:_LONGEST_TYPE]}{why}"
            return


def _label_column(schema: pa.Schema) -> tuple[str | None, list[str]]:
    """The column of labels (None: there is none), and the names of its classes if it holds numbers."""
    for field in _named_as_labels(schema):
        classes = numbered_classes(schema.metadata, field.name) if types.is_integer(field.type) else []
        if classes or is_text(field.type):
            return str(field.name), classes
    return None, []


def _named_as_labels(schema: pa.Schema) -> list[pa.Field]:
    """The columns with a name of labels, the first in the order of the names first."""
    by_key = {spelled(field.name): field for field in reversed(schema)}
    return [by_key[name] for name in LABEL_COLUMNS if name in by_key]
