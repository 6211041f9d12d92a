"""Rows of a Parquet file with a column of encoded images, as Hugging Face and others write them.

The listing reads the footer and the labels, never an image. A member's name is the number of its row.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from .errors import ImageError, ImageReason
from .labels import LABEL_COLUMNS
from .members import BinaryFile, Member, read_at, size_of, too_many

_IMAGES = ("image", "img", "bytes", "image_bytes", "content", "data", "jpg", "jpeg", "png")
_LONGEST_LABEL = 1000  # characters; longer ones are no class names
_MOST_GROUP_BYTES = 2 << 30
_MOST_FOOTER_BYTES = 64 << 20  # of images, it has some 200 bytes a row group
_MAGIC, _ENCRYPTED_MAGIC = b"PAR1", b"PARE"
# Unpacked together: a dictionary makes a row group of repeated images small, however much they are unpacked.
_IMAGES_AT_ONCE = 16
_LABELS_AT_ONCE = 1024


class NotAContainer(Exception):
    """The file holds no images, as a table of labels does."""


def list_parquet(file: BinaryFile, most: int) -> Iterator[Member]:
    """Rows in order. Raises `ImageError` where not all can be listed, `NotAContainer` where there are no images."""
    _check_ends(file)
    watched = _Watched(file)
    with _arrow_errors(watched):
        opened = pq.ParquetFile(pa.PythonFile(watched, mode="r"))
        _image_column(opened.schema_arrow)
        groups = _groups(opened.metadata, most)
        labels = _Labels(opened, watched)
    row = 0
    for group, (rows, stored_bytes, refused) in enumerate(groups):
        for label, number in zip(chain(labels.of_group(group), repeat(None)), range(row, row + rows), strict=False):
            if refused is None:
                yield Member(str(number), offset=group, stored_bytes=stored_bytes, label=label)
            else:
                yield Member(str(number), offset=group, label=label, refused=refused)
        row += rows
    if labels.damage is not None:
        raise ImageError("truncated", f"labels are missing: {labels.damage.detail}")


def parquet_rows(file: BinaryFile, row_group: int, names: Sequence[str]) -> list[bytes | ImageError]:
    """The images of some rows of a row group, in the order of `names`. What the file itself raises is passed on."""
    watched = _Watched(file)
    images: dict[str, bytes | ImageError] = {}
    missing = ImageError("not_found", f"no row of row group {row_group}")
    try:
        with _arrow_errors(watched):
            opened = pq.ParquetFile(pa.PythonFile(watched, mode="r"), page_checksum_verification=True)
            _read_rows(opened, row_group, set(names), images)
    except ImageError as exc:
        missing = exc
    except NotAContainer as exc:
        missing = ImageError("truncated", f"has no images any more: {exc}")
    return [images.get(name, missing) for name in names]


def _read_rows(opened: pq.ParquetFile, group: int, wanted: set[str], images: dict[str, bytes | ImageError]) -> None:
    """Fill `images` as far as can be read."""
    column = _image_column(opened.schema_arrow)
    row = sum(opened.metadata.row_group(k).num_rows for k in range(group))
    for batch in opened.iter_batches(_IMAGES_AT_ONCE, row_groups=[group], columns=[column], use_threads=False):
        values = batch.column(0)
        values = pc.struct_field(values, "bytes") if types.is_struct(values.type) else values
        for k, value in enumerate(values):
            if (name := str(row + k)) in wanted:
                data = value.as_py()
                images[name] = data if data is not None else ImageError("empty", f"row {name} has no image")
        row += len(batch)
        if len(images) == len(wanted):
            return


def _groups(metadata: pq.FileMetaData, most: int) -> list[tuple[int, int, str | None]]:
    """Rows of each row group, its bytes, and why it is refused."""
    groups: list[tuple[int, int, str | None]] = []
    for k in range(metadata.num_row_groups):
        group = metadata.row_group(k)
        # Not `group.column(...)`, which knows the images' bytes alone: on a damaged footer it aborts the process.
        rows, size_bytes = group.num_rows, group.total_byte_size
        if rows < 0 or size_bytes < 0:
            raise ImageError("truncated", f"its footer is damaged: row group {k} has {rows} rows in {size_bytes} bytes")
        refused = None
        if size_bytes > _MOST_GROUP_BYTES:
            told = f"row group of {size_bytes / (1 << 30):.1f} GiB; write smaller row groups"
            refused = str(ImageError("too_large", told))
        groups.append((rows, size_bytes, refused))
    if sum(rows for rows, _, _ in groups) > most:
        raise too_many(most)
    return groups


def _image_column(schema: pa.Schema) -> str:
    """The path of the column with the images' bytes. Raises `NotAContainer` where there is none."""
    paths = {field.name: path for field in schema if (path := _image_path(field)) is not None}
    if not paths:
        raise NotAContainer("Parquet without images")
    if len(paths) == 1:
        return next(iter(paths.values()))
    by_key = {name.lower(): path for name, path in paths.items()}
    for name in _IMAGES:
        if name in by_key:
            return by_key[name]
    raise ImageError("unsupported", f"has several binary columns ({', '.join(paths)}); name one of them image")


def _image_path(field: pa.Field) -> str | None:
    """The path within Parquet, of a binary column or of a struct as Hugging Face has it; None for others."""
    if _is_binary(field.type):
        return str(field.name)
    if (
        types.is_struct(field.type)
        and (k := field.type.get_field_index("bytes")) >= 0
        and _is_binary(field.type[k].type)
    ):
        return f"{field.name}.bytes"
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return any(fits(kind) for fits in (types.is_binary, types.is_large_binary, types.is_binary_view))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(fits(kind) for fits in (types.is_string, types.is_large_string, types.is_string_view))


class _Labels:
    """Labels of a file's rows: strings as they are, numbers only where their names are known."""

    def __init__(self, opened: pq.ParquetFile, watched: "_Watched") -> None:
        self._opened = opened
        self._watched = watched
        self._column, self._classes = _label_column(opened.schema_arrow)
        self.damage: ImageError | None = None

    def of_group(self, group: int) -> Iterator[str | None]:
        """In order; they end early where the column is damaged, or where there is none."""
        if self._column is None:
            return
        batches = self._opened.iter_batches(
            _LABELS_AT_ONCE, row_groups=[group], columns=[self._column], use_threads=False
        )
        while True:
            try:
                with _arrow_errors(self._watched):
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
            return self._classes[value] if 0 <= value < len(self._classes) else None
        return value if isinstance(value, str) and len(value) <= _LONGEST_LABEL else None


def _label_column(schema: pa.Schema) -> tuple[str | None, list[str]]:
    """The column of labels, and the names of its classes if it holds their numbers."""
    by_key = {field.name.lower(): field for field in schema}
    for field in filter(None, map(by_key.get, LABEL_COLUMNS)):
        classes = _class_names(schema, field.name) if types.is_integer(field.type) else []
        if classes or _is_text(field.type):
            return str(field.name), classes
    return None, []


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """As Hugging Face's `datasets` notes them in the schema; none where it has not."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _check_ends(file: BinaryFile) -> None:
    """Raise `ImageError` for what is no whole Parquet file, or has a footer too large to be read."""
    size_bytes = size_of(file)
    head, tail = read_at(file, 0, 4), read_at(file, max(0, size_bytes - 8), 8)
    if tail[4:] == _ENCRYPTED_MAGIC:
        raise ImageError("unsupported", "is encrypted")
    if tail[4:] != _MAGIC and head == _MAGIC:
        raise ImageError("truncated", "its footer is missing, as in a copy that was interrupted")
    if tail[4:] != _MAGIC:
        raise ImageError("not_an_image", "is named .parquet but is none")
    if (footer_bytes := int.from_bytes(tail[:4], "little")) > min(_MOST_FOOTER_BYTES, size_bytes):
        raise ImageError("too_large" if footer_bytes < size_bytes else "truncated", f"footer of {footer_bytes:,} bytes")


class _Watched:
    """A file that notes what it raised: Arrow raises `OSError` for damaged data, too."""

    closed = False

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self.failure: Exception | None = None

    def read(self, size: int) -> bytes:
        with self._noted():
            return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._noted():
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        with self._noted():
            return self._file.tell()

    def close(self) -> None:
        """Whoever has opened the file closes it."""

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            self.failure = exc
            raise


@contextmanager
def _arrow_errors(watched: _Watched) -> Iterator[None]:
    """What Arrow raises of damaged data becomes an `ImageError`; what the file raised is raised again."""
    try:
        yield
    except (ImageError, NotAContainer):
        raise
    except Exception as exc:  # damaged files raise nearly every type there is
        if watched.failure is not None:
            raise watched.failure from None
        reason: ImageReason = "unsupported" if isinstance(exc, pa.ArrowNotImplementedError) else "truncated"
        raise ImageError(reason, " ".join(str(exc).split())[:200] or type(exc).__name__) from exc
