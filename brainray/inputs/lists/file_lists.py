"""File lists: inputs of text or Parquet that name one image per row, with its label and columns to keep.

`resolve` looks up their images. Every column of a text is read as text, for "007" is not 7. Memory does not grow with
the list.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial

import pyarrow as pa

from brainray import storage
from brainray.errors import BadRequest, ImageError, StorageError, as_bad_request
from brainray.inputs import archives
from brainray.inputs.archives import kind_of
from brainray.inputs.archives.parquet_file import holds_images
from brainray.inputs.archives.parquet_images import is_text, not_read
from brainray.inputs.class_names import LABEL_COLUMNS, numbered_class, numbered_classes
from brainray.inputs.frames.named import frame_named
from brainray.inputs.frames.nifti.header import Header
from brainray.inputs.listed_image import CHUNK_ROWS
from brainray.inputs.skip_counts import count_skipped
from brainray.inputs.tables.delimited_text import TextTable, blank_rows, open_text_table
from brainray.inputs.tables.table_columns import (
    BUCKET_COLUMN,
    DELETED_COLUMNS,
    IMAGE_COLUMNS,
    KEY_COLUMN,
    LATEST_COLUMNS,
    PREFIX_COLUMNS,
    SIZE_COLUMNS,
    STORAGE_COLUMNS,
    TIER_COLUMNS,
    URI_COLUMNS,
    VERSION_COLUMNS,
    find_column,
)
from brainray.inputs.tables.table_columns import spelled as spelled_name
from brainray.inputs.tables.text_stream import refuse_other_table

from .list_values import kept_type, size_of, unpadded
from .prefixes import prefix_of
from .s3_inventory import Inventory, archived_class, is_encoded, open_inventory, passed_over, unencoded

# Names of lists. The bytes tell what they hold.
_TEXT = re.compile(r"\.(csv|tsv|tab|psv|txt|list|lst|jsonl|ndjson)(\.gz)?$", re.IGNORECASE)
_LINES = re.compile(r"\.(txt|list|lst)(\.gz)?$", re.IGNORECASE)  # may hold a path in each line, without a header
_LONGEST_NAME = 8192  # characters; a path has 4096 bytes at most, a key 1024
_ENCODED_IMAGES = ("data:", "/9j/", "iVBORw0KGgo")  # how base64 of JPEG and PNG begins
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(?i:file:/)")


@dataclass(frozen=True, slots=True)
class FileListRow:
    """A row of a file list."""

    uri: str  # a local path is normalised; an S3 key, and the name of an archive's member, is as it stands
    size_bytes: int | None
    version: str | None
    label: str | None  # as spelled in the list
    archived: str | None  # the storage class of an object that must be restored before it can be read
    kept: str | None  # JSON array of the kept columns' values as text, in the order they were asked for
    is_prefix: bool = False  # whether it names what lies below it, see `prefixes`
    volume: Header | None = None  # of the NIfTI file in an archive that it names


@dataclass(frozen=True, kw_only=True)
class FileList:
    """A file list, with its columns."""

    uri: str
    columns: Mapping[str, pa.DataType]  # by name as the file spells it
    names: tuple[str, ...]  # of all columns in order, also where two are alike
    text: TextTable | None = None  # None: the list is Parquet, or an inventory in several files
    inventory: Inventory | None = None  # None: a list of its own
    metadata: Mapping[bytes, bytes] | None = None  # of the schema of a Parquet file
    label_names: Sequence[str] = LABEL_COLUMNS  # of columns that are taken for labels
    holds_images: bool = False  # whether it is no list but an archive, whose rows are the images

    @property
    def base(self) -> str:
        """The folder of the list, to which relative paths are resolved; the bucket of an inventory."""
        return self.inventory.bucket if self.inventory else self.uri.rpartition("/")[0]

    @property
    def labelled(self) -> bool:
        return self.label_column is not None

    @property
    def label_column(self) -> str | None:
        return self._find(self.label_names)

    def kept_types(self, names: Sequence[str]) -> dict[str, str]:
        """The Arrow types of columns to be kept. Raises `BadRequest` for one that the list does not have."""
        what = "table" if self.holds_images else "list"
        for name in names:
            if name not in self.columns:
                known = ", ".join(self.columns)
                raise BadRequest(f"--keep-columns {name}: the {what} {self.uri} has no such column; it has {known}")
            if self.names.count(name) > 1:
                raise BadRequest(f"--keep-columns {name}: the {what} {self.uri} has several such columns; keep one")
        return {name: kept_type(self.columns[name]) for name in names}

    def rows(self, keep: Sequence[str] = (), *, skipped: Counter[str] | None = None) -> Iterator[FileListRow]:
        """The rows in order, without the deleted and older objects of an inventory, which `skipped` counts by reason.

        Raises `BadRequest` for a row that names no image.
        """
        counted = Counter[str]() if skipped is None else skipped
        located = self.location()
        self._check_names(located)
        label, *others = map(
            self._find, (self.label_names, SIZE_COLUMNS, VERSION_COLUMNS, STORAGE_COLUMNS, TIER_COLUMNS)
        )
        is_object = len(located) == 2
        others += map(self._find, (LATEST_COLUMNS, DELETED_COLUMNS)) if is_object else (None, None)
        wanted = [*located, *filter(None, (label, *others)), *keep]
        number = 0
        for table, blank in self._tables(list(dict.fromkeys(wanted)), one_line=located):
            texts = {name: self._texts(table, name) for name in table.column_names}
            none = [None] * len(table)
            listed = zip(
                map(self._object, *(texts[name] for name in located)) if is_object else texts[located[0]],
                self._labels(label, texts[label]) if label else none,
                map(json.dumps, zip(*(texts[name] for name in keep), strict=True)) if keep else none,
                *(texts[name] if name else none for name in others),
                strict=True,
            )
            for place, (text, spelled, kept, size_bytes, tag, storage_class, tier, newest, gone) in enumerate(listed):
                number += 1
                if not text or not text.strip():
                    if place in blank():
                        continue
                    raise BadRequest(f"--input {self.uri}: row {number:,} names no image; fill it in or remove it")
                if len(text) > _LONGEST_NAME or (text.startswith(_ENCODED_IMAGES) and "." not in text):
                    raise self._no_name(text, number, located[0])
                if is_object and (reason := passed_over(self.inventory, text, size_bytes, newest, gone)) is not None:
                    count_skipped(counted, reason)
                    continue
                name = text if is_object else unpadded(text, located[0])
                prefix = None if is_object or size_bytes else self._prefix(name, located[0])
                yield FileListRow(
                    uri=self._file(prefix) if prefix else self._located(name),
                    is_prefix=prefix is not None,
                    size_bytes=size_of(size_bytes),
                    version=tag.strip('"') if tag else None,
                    label=spelled.strip() or None if spelled else None,
                    archived=archived_class(storage_class, tier),
                    kept=kept,
                )

    def _prefix(self, name: str, column: str) -> str | None:
        """The folder or prefix that a name stands for; a file of a disk may be called `*`."""
        found = prefix_of(name, always=spelled_name(column) in PREFIX_COLUMNS)
        is_file = found is not None and name.endswith("*") and "://" not in name and storage.exists(self._file(name))
        return None if is_file else found

    def _labels(self, column: str, texts: list[str | None]) -> Iterable[str | None]:
        """The labels: numbers by the names of their classes, if the schema has them."""
        classes = numbered_classes(self.metadata, column) if pa.types.is_integer(self.columns[column]) else []
        return (numbered_class(int(text), classes) if text else None for text in texts) if classes else texts

    def _no_name(self, text: str, number: int, column: str) -> BadRequest:
        return BadRequest(
            f"--input {self.uri}: row {number:,} has {text[:20]!r} … in its column {column}, which is no name of an "
            "image; write encoded images to files, or as binary to Parquet"
        )

    def keeps(self, names: Sequence[str]) -> bool:
        """Whether the columns are to be kept: of lists all must exist, a table of images may have none of them."""
        return not self.holds_images or not self.columns.keys().isdisjoint(names)

    def first_texts(self) -> dict[str, list[str | None]]:
        """The columns of text, but those that name the images, with their first values."""
        located = self.location()
        names = [
            name for name in self.columns if self._is_text(name) and name not in located and self.names.count(name) == 1
        ]
        table, _ = next(self._tables(names, one_line=()), (None, None)) if names else (None, None)
        return {} if table is None else {name: self._texts(table, name) for name in names}

    def kept_rows(self, keep: Sequence[str]) -> Iterator[str]:
        """The values of columns to be kept, of each row as `FileListRow.kept` has them."""
        for table, _ in self._tables(list(keep), one_line=()):
            yield from map(json.dumps, zip(*(self._texts(table, name) for name in keep), strict=True))

    def location(self) -> list[str]:
        """The column that names the image, or those of its bucket and key; none where there is no such column."""
        bucket, key = self._find([BUCKET_COLUMN]), self._find([KEY_COLUMN])
        # A column `image` of other types holds images, if in a layout that is not read.
        image = self._find(["image"])
        taken = [name for name in IMAGE_COLUMNS if name != "image" or (image and self._is_text(image))]
        found = self._find(URI_COLUMNS if bucket and key else taken)
        return [found] if found else [bucket, key] if bucket and key else []

    def _is_text(self, name: str) -> bool:
        return is_text(self.columns[name])

    def _check_names(self, located: Sequence[str]) -> None:
        """Refuse names of images in a column of numbers: 007 would be 7."""
        for name in located:
            kind = self.columns[name]
            if not (is_text(kind) or pa.types.is_null(kind)):
                raise BadRequest(
                    f"--input {self.uri}: its column {name} names the images and is {kind}; write it as text"
                )

    def _find(self, names: Iterable[str]) -> str | None:
        place = find_column(self.names, names, f"--input {self.uri}")
        return None if place is None else self.names[place]

    def _tables(
        self, columns: list[str], *, one_line: Sequence[str]
    ) -> Iterator[tuple[pa.Table, Callable[[], Collection[int]]]]:
        """The columns, a part at a time, and how to find rows without any value in them."""
        for part in self.inventory.parts if self.inventory else [self.text or self.uri]:
            if isinstance(part, TextTable):
                yield from _text_tables(part, columns, one_line=one_line)
            else:
                yield from ((table, _none) for table in _parquet_tables(part, columns))

    def _object(self, bucket: str | None, key: str | None) -> str | None:
        """The URI of the object that a row names by bucket and key."""
        if not bucket or not key:
            return None
        if self._encoded:
            key = unencoded(key, f"--input {self.uri}")
        return f"s3://{bucket}/{key}"

    @property
    def _encoded(self) -> bool:
        return self.inventory.encoded if self.inventory else self.text is not None and is_encoded(self.names)

    def _texts(self, table: pa.Table, name: str) -> list[str | None]:
        if self.names.count(name) > 1:
            raise BadRequest(f"--input {self.uri}: has {self.names.count(name)} columns named {name}")
        try:
            texts: list[str | None] = table[name].cast(pa.string()).to_pylist()
        except pa.ArrowException as exc:
            kind = self.columns[name]
            raise BadRequest(
                f"--input {self.uri}: its column {name} is {kind}, which is no text; write it as text"
            ) from exc
        return texts

    def _located(self, text: str) -> str:
        """The URI of an image. The name of an archive's member, or of a frame, stays as it stands."""
        found = archives.archive_of(text) or frame_named(text)
        file = found[0] if found else text
        return self._file(file) + text[len(file) :]

    def _file(self, text: str) -> str:
        if text.startswith("~") or _SCHEME.match(text):
            return storage.normalise_listed(text)
        return storage.resolve_listed("/" if text.startswith("/") else self.base, text)


def open_file_list(uri: str) -> FileList | None:
    """Open a file list; None if the name is not of one, or the Parquet file holds the images themselves.

    Raises `BadRequest` where it cannot be read.
    """
    found = open_table(uri)
    return None if found is None or found.holds_images else found


def open_table(uri: str) -> FileList | None:
    """Open a file list, or a Parquet file that holds the images themselves; None for any other name."""
    _refuse_pipe(uri)
    with as_bad_request("--input"):
        refuse_other_table(uri, source=f"--input {uri}")
    is_text = _TEXT.search(uri) is not None
    if not (is_text or _is_parquet(uri) or uri.lower().endswith(".json")):
        return None
    with as_bad_request("--input"):
        if storage.is_folder(uri):
            return None
        if is_text:
            return _text_list(uri)
        if not _is_parquet(uri):
            inventory = open_inventory(uri)
            return None if inventory is None else _inventory_list(uri, inventory)
    with _readable(uri), storage.open_parquet(uri) as file:
        schema = file.schema_arrow
    try:
        is_archive = holds_images(schema)
    except ImageError as exc:
        raise BadRequest(f"--input {uri}: {exc.detail}") from exc
    found = replace(_list_of(uri, schema), holds_images=is_archive)
    return found if is_archive else _located(found, seen=not_read(schema))


def _refuse_pipe(uri: str) -> None:
    """Refuse pipes and devices, as /dev/stdin may be one: an input is read several times, also by other machines."""
    with suppress(StorageError):  # what does not exist is refused by others
        found = storage.stat(uri)
        if found is not None and found.special and not storage.is_folder(uri):
            raise BadRequest(f"--input {uri}: is a pipe, socket or device; write its content to a file and give that")


def _text_list(uri: str) -> FileList:
    text = open_text_table(uri, source=f"--input {uri}")
    found = _list_of(uri, _text_schema(text.names), text=text)
    if _LINES.search(uri) and text.kind == "delimited" and not found.location():
        text = text.as_paths()
        found = _list_of(uri, _text_schema(text.names), text=text)
    return _located(found)


def _inventory_list(uri: str, inventory: Inventory) -> FileList:
    first = inventory.parts[0] if inventory.parts else None
    if isinstance(first, str):
        with _readable(first), storage.open_parquet(first) as file:
            schema = file.schema_arrow
    else:
        schema = _text_schema(inventory.names)
    return _located(_list_of(uri, schema, inventory=inventory))


def _text_schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def _list_of(
    uri: str, schema: pa.Schema, *, text: TextTable | None = None, inventory: Inventory | None = None
) -> FileList:
    columns = dict(zip(schema.names, schema.types, strict=True))
    return FileList(
        uri=uri,
        columns=columns,
        names=tuple(schema.names),
        text=text,
        inventory=inventory,
        metadata=schema.metadata,
    )


def _located(found: FileList, *, seen: str | None = None) -> FileList:
    if not found.location():
        raise BadRequest(
            f"--input {found.uri}: is no list of images: it needs a column uri or path, and has "
            f"{', '.join(found.columns)}{f'; {seen}' if seen else ''}; "
            "image, filename, key, or bucket and key serve, too; "
            "for a CSV of an S3 inventory, which has no header, give its manifest.json"
        )
    return found


def _parquet_tables(uri: str, columns: list[str]) -> Iterator[pa.Table]:
    with _readable(uri), storage.open_parquet(uri) as file:
        for batch in storage.batches_of(file, CHUNK_ROWS, columns):
            yield pa.Table.from_batches([batch])


def _text_tables(
    text: TextTable, columns: Sequence[str], *, one_line: Sequence[str]
) -> Iterator[tuple[pa.Table, Callable[[], Collection[int]]]]:
    places = {name: text.names.index(name) for name in columns}
    images = {places[name] for name in one_line}
    with as_bad_request("--input"):
        for batch in text.batches(images=images, one_line=images):
            table = pa.table({name: batch[place] for name, place in places.items()})
            yield table, cache(partial(blank_rows, batch))


def _none() -> Collection[int]:
    return ()


def _is_parquet(uri: str) -> bool:
    return kind_of(uri) == "parquet"


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    with as_bad_request("--input"):
        try:
            yield
        except pa.ArrowException as exc:
            raise BadRequest(f"--input {uri}: is no readable Parquet ({str(exc).splitlines()[0]})") from exc
