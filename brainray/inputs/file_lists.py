"""File lists: CSV or Parquet inputs that name one image per row, with its label and columns to keep.

First the list itself (`open_file_list`, `FileList.rows`), then the lookup of its images (`resolve_rows`). Every column
of a CSV is read as text, for "007" is not 7. Memory does not grow with the list. Opens no image.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.csv as pa_csv

from brainray import storage
from brainray.errors import BadRequest, ImageError, StorageError, as_bad_request
from brainray.storage.base import FileInfo

from . import archives
from .archives import kind_of
from .archives.index import ArchiveIndexes, Members
from .archives.parquet_file import BUCKET_COLUMN, KEY_COLUMN, LOCATION_COLUMNS, holds_images
from .archives.parquet_images import is_text, not_read
from .class_names import LABEL_COLUMNS
from .csv_quotes import CheckedQuotes
from .listed_image import ListedImage

_SIZE = ("size_bytes", "size")
_VERSION = ("version", "etag", "e_tag")
_LONGEST_SIZE = 19  # digits; shorter numbers fit in 64 bits
_ROWS = 65_536
_BLOCK_BYTES = 4 << 20
_AT_ONCE = 16  # files that are looked up in parallel
_KEPT_BYTES = 128 << 20  # of indexes in memory: one archive of a million members, or many smaller ones
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Types that are kept as they are; everything else is kept as text.
_KEPT = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_date32)


@dataclass(frozen=True, slots=True)
class FileListRow:
    """A row of a file list."""

    uri: str  # a local path is normalised; an S3 key, and the name of an archive's member, is as it stands
    size_bytes: int | None
    version: str | None
    label: str | None  # as spelled in the list
    kept: str | None  # JSON array of the kept columns' values as text, in the order they were asked for


@dataclass(frozen=True, kw_only=True)
class FileList:
    """A file list, with its columns."""

    uri: str
    columns: Mapping[str, pa.DataType]  # by name as the file spells it
    holds_images: bool = False  # whether it is no list but an archive, whose rows are the images

    @property
    def base(self) -> str:
        """The folder of the list, to which relative paths are resolved."""
        return self.uri.rpartition("/")[0]

    @property
    def labelled(self) -> bool:
        return self._find(LABEL_COLUMNS) is not None

    def kept_types(self, names: Sequence[str]) -> dict[str, str]:
        """The Arrow types of columns to be kept. Raises `BadRequest` for one that the list does not have."""
        for name in names:
            if name not in self.columns:
                known = ", ".join(self.columns)
                what = "table" if self.holds_images else "list"
                raise BadRequest(f"--keep-columns {name}: the {what} {self.uri} has no such column; it has {known}")
        return {name: _kept_type(self.columns[name]) for name in names}

    def rows(self, keep: Sequence[str] = ()) -> Iterator[FileListRow]:
        """The rows in order. Raises `BadRequest` for a row that names no image."""
        location, label, size, version = (
            self._find(names) for names in (LOCATION_COLUMNS, LABEL_COLUMNS, _SIZE, _VERSION)
        )
        located = [location] if location else [BUCKET_COLUMN, KEY_COLUMN]
        self._check_names(located)
        wanted = [*located, *filter(None, (label, size, version)), *keep]
        number = 0
        for table in _tables(self.uri, list(dict.fromkeys(wanted)), one_line=located):
            texts = {name: self._texts(table, name) for name in table.column_names}
            none = [None] * len(table)
            listed = zip(
                texts[location] if location else map(_in_bucket, texts[BUCKET_COLUMN], texts[KEY_COLUMN]),
                texts[size] if size else none,
                texts[version] if version else none,
                texts[label] if label else none,
                map(json.dumps, zip(*(texts[name] for name in keep), strict=True)) if keep else none,
                strict=True,
            )
            for text, size_bytes, tag, spelled, kept in listed:
                number += 1
                if not text or not text.strip():
                    raise BadRequest(f"--input {self.uri}: row {number:,} names no image; fill it in or remove it")
                yield FileListRow(
                    uri=self._located(_unpadded(text, location) if location else text),
                    size_bytes=_size(size_bytes),
                    version=tag.strip('"') if tag else None,
                    label=spelled.strip() or None if spelled else None,
                    kept=kept,
                )

    def keeps(self, names: Sequence[str]) -> bool:
        """Whether the columns are to be kept: of lists all must exist, a table of images may have none of them."""
        return not self.holds_images or not self.columns.keys().isdisjoint(names)

    def kept_rows(self, keep: Sequence[str]) -> Iterator[str]:
        """The values of columns to be kept, of each row as `FileListRow.kept` has them."""
        for table in _tables(self.uri, list(keep), one_line=()):
            yield from map(json.dumps, zip(*(self._texts(table, name) for name in keep), strict=True))

    def _find(self, names: Sequence[str]) -> str | None:
        by_name = {column.strip().lower(): column for column in self.columns}
        return next((by_name[name] for name in names if name in by_name), None)

    def _check_names(self, located: Sequence[str]) -> None:
        """Refuse names of images in a column of numbers: 007 would be 7."""
        for name in located:
            kind = self.columns[name]
            if not (is_text(kind) or pa.types.is_null(kind)):
                raise BadRequest(
                    f"--input {self.uri}: its column {name} names the images and is {kind}; write it as text"
                )

    def _texts(self, table: pa.Table, name: str) -> list[str | None]:
        if table.column_names.count(name) > 1:
            raise BadRequest(f"--input {self.uri}: has {table.column_names.count(name)} columns named {name}")
        try:
            texts: list[str | None] = table[name].cast(pa.string()).to_pylist()
        except pa.ArrowException as exc:
            kind = self.columns[name]
            raise BadRequest(
                f"--input {self.uri}: its column {name} is {kind}, which is no text; write it as text"
            ) from exc
        return texts

    def _located(self, text: str) -> str:
        """The URI of an image. The name of an archive's member stays as it stands."""
        found = archives.archive_of(text)
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
    if not (uri.lower().endswith(".csv") or _is_parquet(uri)):
        return None
    with as_bad_request("--input"):
        if storage.is_folder(uri):
            return None
    with _readable(uri):
        if _is_parquet(uri):
            with storage.open_parquet(uri) as file:
                schema = file.schema_arrow
        else:
            with storage.open_seekable(uri) as file:
                schema = pa.schema([(name, pa.string()) for name in _header(uri, file)])
    try:
        is_archive = holds_images(schema)
    except ImageError as exc:
        raise BadRequest(f"--input {uri}: {exc.detail}") from exc
    columns_by_name = dict(zip(schema.names, schema.types, strict=True))
    found = FileList(uri=uri, columns=columns_by_name, holds_images=is_archive)
    if is_archive:
        return found
    if found._find(LOCATION_COLUMNS) is None and not {BUCKET_COLUMN, KEY_COLUMN} <= set(found.columns):
        columns = ", ".join(found.columns)
        seen = f"; {unread}" if (unread := not_read(schema)) else ""
        raise BadRequest(f"--input {uri}: is no list of images: it needs a column uri or path, and has {columns}{seen}")
    return found


def kept_types(inputs: Sequence[str], names: Sequence[str], *, taken: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Name and Arrow type of each column to be kept. Raises `BadRequest` where a list among the inputs lacks it.

    `taken` are the names that predictions have already.
    """
    if not names:
        return ()
    clash = next((name for name in names if name in set(taken) or names.count(name) > 1), None)
    if clash is not None:
        raise BadRequest(f"--keep-columns {clash}: predictions have such a column already; name it otherwise")
    tables = [table for uri in inputs if (table := open_table(storage.normalise(uri))) is not None]
    lists = [table for table in tables if table.keeps(names)] or tables[:1]
    if not lists:
        raise BadRequest(
            "--keep-columns needs an --input that is a list of images (CSV or Parquet with a column uri) or a Parquet "
            "file of images; give Parquet files below a folder each by an --input"
        )
    types = [image_list.kept_types(names) for image_list in lists]
    for image_list, other in zip(lists, types, strict=True):
        for name in names:
            if other[name] != types[0][name]:
                raise BadRequest(
                    f"--keep-columns {name}: is {types[0][name]} in {lists[0].uri} and {other[name]} in "
                    f"{image_list.uri}; give it one type"
                )
    return tuple(types[0].items())


def resolve_rows(
    image_list: FileList, indexes: ArchiveIndexes, *, keep: Sequence[str] = ()
) -> Iterator[tuple[FileListRow, ListedImage]]:
    """The rows of a list in order, each with its image, also where that does not exist.

    Objects of a bucket are not looked up, which would cost a request each: size and version are those of the list.
    """
    rows = image_list.rows(keep)
    lookup = _ArchiveLookup(indexes)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look-up") as pool:
        while chunk := list(islice(rows, _ROWS)):
            members = lookup.find({listed.uri for listed in chunk})
            plain = [listed for listed in chunk if listed.uri not in members]
            found = dict(zip((listed.uri for listed in plain), pool.map(_plain, plain), strict=True))
            no_members = [listed for listed in chunk if (of := members.get(listed.uri)) and _is_missing(of)]
            for listed, file in zip(no_members, pool.map(_named_like_a_member, no_members), strict=True):
                members[listed.uri] = file or members[listed.uri]
            for listed in chunk:
                image = members.get(listed.uri) or found[listed.uri]
                yield listed, image._replace(kept=listed.kept)


def _plain(listed: FileListRow) -> ListedImage:
    as_listed = ListedImage(listed.uri, listed.size_bytes, listed.version)
    if archives.kind_of(listed.uri):
        return as_listed._replace(refused="unsupported: is a container; give it as --input, or list its members")
    try:
        found = storage.stat(listed.uri)
    except StorageError:
        return ListedImage(listed.uri)  # the read will report the reason
    if found is None:
        return as_listed
    if found.special:
        return as_listed._replace(refused="unsupported: is no file")
    return ListedImage(listed.uri, found.size_bytes, found.version)


def _named_like_a_member(listed: FileListRow) -> ListedImage | None:
    """The file that is named like a member of an archive, as `a.zip#1.jpg`; None where there is none.

    Costs a request or two in a bucket, and is asked only for a member that there is not.
    """
    try:
        return _plain(listed) if storage.exists(listed.uri) else None
    except BadRequest:  # a member's name with "://" makes no path
        return None
    except StorageError as exc:
        if exc.reason == "read_failed":
            raise
        return None


def _is_missing(image: ListedImage) -> bool:
    return image.refused is not None and image.refused.startswith("not_found:")


class _ArchiveLookup:
    """Finds the members of archives that a list names.

    Keeps the most recently used indexes in memory, up to `most_bytes`, so that rows in any order read each index once.
    """

    def __init__(self, indexes: ArchiveIndexes, *, most_bytes: int = _KEPT_BYTES) -> None:
        self._indexes = indexes
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[FileInfo, Members]] = OrderedDict()

    def find(self, uris: Iterable[str]) -> dict[str, ListedImage]:
        """The image of each URI that names a member of an archive, also where there is no such member."""
        images: dict[str, ListedImage] = {}
        left = {uri: found for uri in uris if (found := archives.archive_of(uri)) is not None}
        while left:
            wanted: dict[tuple[str, archives.Kind], list[str]] = {}
            for uri, found in left.items():
                wanted.setdefault(found, []).append(uri)
            left = {}
            for (archive, kind), members in wanted.items():
                for uri, image in self._members(archive, kind, members).items():
                    if not _is_missing(image) or uri not in images:
                        images[uri] = image
                    following = archives.archive_of(uri, longer_than=len(archive)) if _is_missing(image) else None
                    if following is not None:
                        left[uri] = following
        return images

    def _members(self, archive: str, kind: archives.Kind, uris: list[str]) -> dict[str, ListedImage]:
        images = {uri: ListedImage(uri, refused=f"not_found: {archive} has no such member") for uri in uris}
        try:
            info, index = self._opened(archive, kind)
        except StorageError as exc:
            if exc.reason == "read_failed":
                raise
            return {uri: ListedImage(uri, refused=f"{exc.reason}: {exc}") for uri in uris}
        names = [uri.removeprefix(f"{archive}#") for uri in uris]
        return images | {image.uri: image for image in index.find(info, names)}

    def _opened(self, archive: str, kind: archives.Kind) -> tuple[FileInfo, Members]:
        if archive in self._kept:
            self._kept.move_to_end(archive)
            return self._kept[archive]
        info = next(storage.list_files(archive), None)
        if info is None or info.uri != archive:
            raise StorageError("not_found", f"{archive}: is a folder, and no archive")
        if info.special:
            raise StorageError("unsupported", f"{archive}: is no file")
        opened = info, self._indexes.begin(info, kind).result().members()
        self._kept[archive] = opened
        self._bytes += opened[1].size_bytes
        while self._bytes > self._most_bytes:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._bytes -= oldest.size_bytes
        return opened


def _tables(uri: str, columns: list[str], *, one_line: Sequence[str]) -> Iterator[pa.Table]:
    """The columns, a part at a time. A CSV with a line break in a column of `one_line` is refused."""
    with _readable(uri):
        if _is_parquet(uri):
            with storage.open_parquet(uri) as file:
                for batch in file.iter_batches(_ROWS, columns=columns):
                    yield pa.Table.from_batches([batch])
            return
        with storage.open_seekable(uri) as file:
            names = _header(uri, file)
        single = {number for number, name in enumerate(names) if name in one_line}
        convert = pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=columns,
            strings_can_be_null=True,
            null_values=[""],
        )
        with storage.open_seekable(uri) as file:
            for batch in _csv_batches(CheckedQuotes(file, source=f"--input {uri}", one_line=single), convert):
                yield pa.Table.from_batches([batch])


def _header(uri: str, file: pa.NativeFile) -> list[str]:
    checked = CheckedQuotes(file, source=f"--input {uri}")
    with _open_quotes_reported(checked), _csv(checked, None) as reader:
        names: list[str] = reader.schema.names
        return names


def _csv_batches(file: CheckedQuotes, convert: pa_csv.ConvertOptions) -> Iterator[pa.RecordBatch]:
    with _open_quotes_reported(file), _csv(file, convert) as reader:
        yield from reader


@contextmanager
def _open_quotes_reported(file: CheckedQuotes) -> Iterator[None]:
    """Report an open quote in place of the parser's error that it led to."""
    try:
        yield
    except pa.ArrowInvalid:
        file.check_open_quote()
        raise


def _csv(file: CheckedQuotes, convert: pa_csv.ConvertOptions | None) -> pa_csv.CSVStreamingReader:
    return pa_csv.open_csv(
        pa.PythonFile(file, mode="r"),
        read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=convert,
    )


def _is_parquet(uri: str) -> bool:
    return kind_of(uri) == "parquet"


def _size(text: str | None) -> int | None:
    """A size in bytes; None for what is none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < _LONGEST_SIZE else None


def _in_bucket(bucket: str | None, key: str | None) -> str | None:
    return f"s3://{bucket}/{key}" if bucket and key else None


def _unpadded(text: str, column: str) -> str:
    """A location without the blanks that its column's name has, too: in `label, uri` they belong to the comma."""
    name = column.strip()
    before, _, after = column.partition(name)
    return text.removeprefix(before).removesuffix(after)


def _kept_type(kind: pa.DataType) -> str:
    return str(kind) if any(is_kept(kind) for is_kept in _KEPT) else "string"


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    with as_bad_request("--input"):
        try:
            yield
        except pa.ArrowException as exc:
            what = "Parquet" if _is_parquet(uri) else "CSV"
            raise BadRequest(f"--input {uri}: is no readable {what} ({str(exc).splitlines()[0]})") from exc
