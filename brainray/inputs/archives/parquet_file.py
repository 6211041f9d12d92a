"""Lists and reads the rows of a Parquet file with a column of encoded images, as Hugging Face datasets have.

The listing reads the footer and the labels, never an image. A member's name is the number of its row, counted from 0.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from brainray.errors import ImageError
from brainray.inputs.tables.table_columns import BUCKET_COLUMN, KEY_COLUMN, spelled

from .member import BinaryFile, Member, read_at, size_of, too_many
from .parquet_images import (
    BYTES_COLUMNS,
    NotAnArchive,
    encoded,
    image_path,
    is_empty,
    is_spark_image,
    is_text,
    not_read,
    only_a_path,
    path_column,
)
from .parquet_labels import Labels, unused_labels
from .parquet_reads import MOST_GROUP_BYTES, ReadBuffer, ReadRequested, Watched, arrow_errors

# Names of the column that locates images. A table with such a column of text is a list of images.
LOCATION_COLUMNS = ("uri", "url", "path", "file", "filename", "file_name")
# A column `image_name` or the like beside binary images is their id.
_LOCATIONS = {spelled(name) for name in (*LOCATION_COLUMNS, "image_path", "file_path")}
_NO_IMAGES = frozenset(LOCATION_COLUMNS) - {"file"}  # names of columns whose bytes are text
_MOST_FOOTER_BYTES = 64 << 20  # a file of images has about 200 bytes of footer per row group
# Upper limit for several row groups in one read. `ranges` joins no more than 8 MiB of them.
_MOST_STRETCH_BYTES = 16 << 20
_END_BYTES = 8  # the end of a Parquet file: length of the footer (4 bytes), magic
_MAGIC, _ENCRYPTED_MAGIC = b"PAR1", b"PARE"
# Rows per batch. Dictionary encoding makes a row group of repeated images small, though they unpack to gigabytes.
_IMAGES_AT_ONCE = 16
_PATHS_AT_ONCE = 1024


def list_parquet(file: BinaryFile, most: int, notes: list[str]) -> Iterator[Member]:
    """The rows in order. Raises `ImageError` where some cannot be listed, `NotAnArchive` without images.

    `notes` takes, before the first row, what the user should know of the labels.
    """
    _check_ends(file)
    watched = Watched(file)
    with arrow_errors(watched):
        opened = pq.ParquetFile(pa.PythonFile(watched, mode="r"))
        if not holds_images(opened.schema_arrow):
            raise NotAnArchive(_without_images(opened.schema_arrow))
        images = _image_column(opened.schema_arrow)
        groups = _groups(opened.metadata, most)
        labels = Labels(opened, watched)
    notes += unused_labels(opened.schema_arrow, images)
    row = 0
    for group, (rows, stored_bytes, refused) in enumerate(groups):
        key = labels.unsure_column
        for label, number in zip(chain(labels.of_group(group), repeat(None)), range(row, row + rows), strict=False):
            if refused is None:
                yield Member(str(number), offset=group, stored_bytes=stored_bytes, label=label, label_key=key)
            else:
                yield Member(str(number), offset=group, label=label, label_key=key, refused=refused)
        row += rows
    if labels.damage is not None:
        raise ImageError("truncated", f"labels are missing: {labels.damage.detail}")


def parquet_rows(file: BinaryFile, row_groups: Sequence[int], names: Sequence[str]) -> list[bytes | ImageError]:
    """Read the images of some rows of successive row groups, in the order of `names`.

    The footer is read first, then the images of all the row groups at once. Exceptions of
    `file` are passed on.
    """
    watched = Watched(file)
    wanted = set(names)
    images: dict[str, bytes | ImageError] = {}
    missing = ImageError("not_found", f"no row of row group {', '.join(map(str, row_groups))}")
    try:
        with arrow_errors(watched):
            opened = _Opened(watched)
            opened.read_ahead(row_groups)
        for group in row_groups:
            opened.read_group(group, wanted, images)
    except ImageError as exc:
        missing = exc
    except NotAnArchive as exc:
        missing = ImageError("truncated", f"has no images any more: {exc}")
    return [images.get(name, missing) for name in names]


class _Opened:
    """An open Parquet file, from which the images of some row groups are read."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._buffer = ReadBuffer(watched)
        footer = _read_footer(watched)
        self._metadata = pq.read_metadata(pa.BufferReader(footer))
        self._file = pq.ParquetFile(
            pa.PythonFile(self._buffer, mode="r"), metadata=self._metadata, page_checksum_verification=True
        )
        self._column = _image_column(self._file.schema_arrow)
        self._path_column = path_column(self._file.schema_arrow, self._column)

    def read_ahead(self, groups: Sequence[int]) -> None:
        """Read the images of the row groups at once, unless the footer places them too far apart."""
        if len(groups) < 2:
            return
        first, last = self._place(groups[0]), self._place(groups[-1])
        if first and last and 0 < sum(last) - first[0] <= _MOST_STRETCH_BYTES:
            self._buffer.hold(first[0], sum(last) - first[0])

    def read_group(self, group: int, wanted: set[str], images: dict[str, bytes | ImageError]) -> None:
        """Add the wanted rows of a row group to `images`; rows that cannot be read get the reason."""
        with arrow_errors(self._watched):
            rows = self._metadata.row_group(group).num_rows
            first = row = sum(self._metadata.row_group(k).num_rows for k in range(group))
        here = {name for name in wanted if name.isdecimal() and first <= int(name) < first + rows}
        try:
            with arrow_errors(self._watched):
                for batch in self._batches(group):
                    _take(batch.column(0), row, here, images)
                    row += len(batch)
                    if here <= images.keys():
                        break
                empty = {name for name in here if is_empty(images.get(name))}
                if empty and self._path_column is not None:
                    self._note_paths(group, first, empty, images)
        except ImageError as exc:
            images |= {name: exc for name in here if name not in images}

    def _note_paths(self, group: int, row: int, empty: set[str], images: dict[str, bytes | ImageError]) -> None:
        """Give rows that have a path in place of bytes that reason. `datasets` writes them if it embeds no files."""
        for batch in self._file.iter_batches(
            _PATHS_AT_ONCE, row_groups=[group], columns=[self._path_column], use_threads=False
        ):
            for number, path in enumerate(pc.struct_field(batch.column(0), "path").to_pylist(), row):
                if path and str(number) in empty:
                    images[str(number)] = only_a_path(str(number), path)
            row += len(batch)

    def _batches(self, group: int) -> Iterator[pa.RecordBatch]:
        batches: Iterator[pa.RecordBatch] = self._file.iter_batches(
            _IMAGES_AT_ONCE, row_groups=[group], columns=[self._column], use_threads=False
        )
        return batches

    def _place(self, group: int) -> tuple[int, int] | None:
        """Offset and length of the bytes that Arrow would read for a row group; None where that fails.

        The footer's own figures are not used, see `_groups`.
        """
        try:
            with self._buffer.recording():
                next(self._batches(group), None)
        except ReadRequested as place:
            return place.offset, place.length
        except Exception:  # noqa: BLE001  # a damaged footer, which reading the row group reports
            return None
        return None


def _take(values: pa.Array, first: int, wanted: set[str], images: dict[str, bytes | ImageError]) -> None:
    if types.is_struct(values.type) and not is_spark_image(values.type):
        values = pc.struct_field(values, "bytes")
    for row, value in enumerate(values, first):
        if (name := str(row)) in wanted:
            images[name] = encoded(value.as_py(), name)


def _groups(metadata: pq.FileMetaData, most: int) -> list[tuple[int, int, str | None]]:
    """Rows, bytes and reason of refusal (None: read) of each row group."""
    groups: list[tuple[int, int, str | None]] = []
    for k in range(metadata.num_row_groups):
        group = metadata.row_group(k)
        # Not `group.column(...)`, which has the size of the images alone: on a damaged footer it aborts the process.
        rows, size_bytes = group.num_rows, group.total_byte_size
        if rows < 0 or size_bytes < 0:
            raise ImageError("truncated", f"its footer is damaged: row group {k} has {rows} rows in {size_bytes} bytes")
        refused = None
        if size_bytes > MOST_GROUP_BYTES:
            detail = f"row group of {size_bytes / (1 << 30):.1f} GiB; write smaller row groups"
            refused = str(ImageError("too_large", detail))
        groups.append((rows, size_bytes, refused))
    if sum(rows for rows, _, _ in groups) > most:
        raise too_many(most)
    return groups


def holds_images(schema: pa.Schema) -> bool:
    """Whether a Parquet file holds images itself. Raises `ImageError` where its columns do not tell.

    Beside a column that locates images, a binary column may be a digest or a thumbnail: it holds the images only if it
    is named so, or has the layout of Hugging Face's or Spark's images.
    """
    images = [field for field in schema if image_path(field) is not None]
    binary_names = [field.name for field in images if field.name.strip().lower() in _NO_IMAGES]
    if binary_names:
        raise ImageError("unsupported", f"its column {binary_names[0]} is binary; write it as text")
    if not images or not _is_list(schema):
        return bool(images)
    if any(field.name.lower() in BYTES_COLUMNS or _is_image_struct(field.type) for field in images):
        return True
    structs = [field.name for field in images if types.is_struct(field.type)]
    if structs:
        detail = f"has a column of locations and bytes in its column {structs[0]}; remove one, or name the other image"
        raise ImageError("unsupported", detail)
    return False


def _without_images(schema: pa.Schema) -> str:
    seen = not_read(schema)
    return f"Parquet without images ({seen})" if seen else "Parquet without images"


def _is_list(schema: pa.Schema) -> bool:
    """Whether a table has a column of text that locates images."""
    texts = {spelled(field.name) for field in schema if is_text(field.type)}
    return not texts.isdisjoint(_LOCATIONS) or {BUCKET_COLUMN, KEY_COLUMN} <= texts


def _is_image_struct(kind: pa.DataType) -> bool:
    """Whether a column has the layout of Hugging Face's images (bytes and path) or of Spark's."""
    if not types.is_struct(kind):
        return False
    return is_spark_image(kind) or bool(kind.num_fields == 2 and kind.get_field_index("path") >= 0)


def _image_column(schema: pa.Schema) -> str:
    """The path of the column of image bytes. Raises `NotAnArchive` where there is none."""
    paths = {field.name: path for field in schema if (path := image_path(field)) is not None}
    if not paths:
        raise NotAnArchive(_without_images(schema))
    if len(paths) == 1:
        return next(iter(paths.values()))
    by_key = {name.lower(): path for name, path in paths.items()}
    for name in BYTES_COLUMNS:
        if name in by_key:
            return by_key[name]
    raise ImageError("unsupported", f"has several binary columns ({', '.join(paths)}); name one of them image")


def _check_ends(file: BinaryFile) -> None:
    """Raise `ImageError` for a file that is no whole Parquet file, or has too large a footer."""
    size_bytes = size_of(file)
    tail = read_at(file, max(0, size_bytes - _END_BYTES), _END_BYTES)
    if tail[4:] == _ENCRYPTED_MAGIC:
        raise ImageError("unsupported", "is encrypted")
    if tail[4:] != _MAGIC and read_at(file, 0, 4) == _MAGIC:
        raise ImageError("truncated", "its footer is missing, as in a copy that was interrupted")
    if tail[4:] != _MAGIC:
        raise ImageError("not_an_image", "is named .parquet but is none")
    length = footer_bytes(tail) - _END_BYTES
    if length > min(_MOST_FOOTER_BYTES, size_bytes):
        raise ImageError("too_large" if length < size_bytes else "truncated", f"footer of {length:,} bytes")


def footer_bytes(tail: bytes) -> int:
    """The size of the footer, with the 8 bytes after it, from the last bytes of a file."""
    return int.from_bytes(tail[-_END_BYTES:-4], "little") + _END_BYTES


def _read_footer(file: BinaryFile) -> bytes:
    _check_ends(file)
    size_bytes = size_of(file)
    length = footer_bytes(read_at(file, max(0, size_bytes - _END_BYTES), _END_BYTES))
    return read_at(file, max(0, size_bytes - length), length)
