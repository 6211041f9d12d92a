"""Indexes of archives: each version of an archive is listed once, and its index is kept with the run.

An index is a Parquet file of `archives.INDEX_SCHEMA`. Its name is a hash of the archive's URI, size and version, so a
kept index is never out of date. Unpacks no member.
"""

import hashlib
import os
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import ImageError, StorageError
from brainray.inputs import archives
from brainray.inputs.frames import nifti, split_member_frame
from brainray.inputs.frames.members import frame_of_member, slice_of_member
from brainray.inputs.frames.nifti.header import Header
from brainray.inputs.listed_image import CHUNK_ROWS, ListedImage
from brainray.storage.base import FileInfo

from . import INDEX_SCHEMA, Kind, NotAnArchive
from .member import frames_by_row

# Folder of a run with the indexes. An archive was called "container" once: this name and that of the column `container`
# in stored files stay, for runs made then.
FOLDER = "containers"
AT_ONCE = 8  # archives that are listed in parallel
_FORMAT = 9  # raised when a new version lists the same bytes differently
_WITHOUT_PAGES = 8  # lists a file of several pages as one image
_FORMATS = (2, 3, 4, 5, 6, 7, _WITHOUT_PAGES, _FORMAT)  # of indexes that runs may have
_SKIPPED_KEY = b"brainray.skipped"  # metadata of an index: why the file holds no images at all
_NOTE_KEY = b"brainray.note"  # metadata of an index: what the user should know of the archive as a whole
_NAME_HEX = 32
_VOLUME_SUFFIX = r"(?i)[.]nii([.]gz)?(#[0-9]+)*$"


class Spelled(NamedTuple):
    """A label as it is spelled in an archive."""

    text: str
    key: str | None = None  # of JSON, or a column, where it has other uses than labels, too: then the text may be none


class ArchiveIndex:
    """The index of one archive, as a local file."""

    def __init__(self, path: str, *, in_run: bool = False) -> None:
        self._path = path
        self.in_run = in_run  # whether the run has images of this very archive, as this or an earlier version listed it

    @property
    def skipped(self) -> str | None:
        """Why the file is no archive of images, in spite of its name; None if it is one."""
        return self._metadata(_SKIPPED_KEY)

    @property
    def note(self) -> str | None:
        """What the user should know of the archive as a whole."""
        return self._metadata(_NOTE_KEY)

    def _metadata(self, key: bytes) -> str | None:
        value = (pq.read_schema(self._path).metadata or {}).get(key)
        return value.decode() if value else None

    def named(self, name: str) -> list[str]:
        """The members of this name, with their folders."""
        names = (batch["name"] for batch in self._columns("name"))
        return [member for each in names for member in each.filter(pc.ends_with(each, name)).to_pylist()]

    def side_files(self) -> int:
        """The number of NIfTI files that have a JSON file beside them."""
        sides = [
            pc.replace_substring_regex(names.filter(pc.ends_with(names, ".json")), r"[.]json$", "")
            for names in (batch["name"] for batch in self._columns("name"))
        ]
        beside = pa.concat_arrays([*sides, pa.array([], pa.string())])
        volumes = (batch["name"].filter(pc.is_valid(batch["volume"])) for batch in self._columns("name", "volume"))
        stems = (pc.replace_substring_regex(names, _VOLUME_SUFFIX, "") for names in volumes if len(beside))
        return sum(pc.sum(pc.is_in(names, beside)).as_py() or 0 for names in stems)

    def _columns(self, *names: str) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            yield from file.iter_batches(columns=list(names))

    def images(self, archive: FileInfo) -> Iterator["IndexedImage"]:
        """Each member; the name "" is the damaged archive itself."""
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            for batch in file.iter_batches():
                yield from _images(archive, batch)

    def members(self) -> "Members":
        """Read the whole index into memory, as an Arrow table."""
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            return Members(file.read())


class Members:
    """The members of one archive, in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.size_bytes: int = table.nbytes

    def find(self, archive: FileInfo, names: Sequence[str]) -> Iterator[tuple[ListedImage, Header | None]]:
        """The images of those names that exist, in no order, with their labels as the archive spells them.

        With each comes the header of a NIfTI file.
        """
        places = pc.index_in(pa.array([name for name in names if name], pa.string()), self._table["name"])
        for each in _images(archive, self._table.take(places.drop_null())):
            yield _labelled(each), each.volume

    def find_frames(self, archive: FileInfo, names: Sequence[str]) -> Iterator[tuple[str, ListedImage]]:
        """The frames and slices of those names, as `x.dcm#frame=3`, that their members have, in no order.

        A slice has the name that a listing of its archive gives it.
        """
        wanted = {name: found for name in names if (found := split_member_frame(name) or nifti.split(name)) is not None}
        members = pa.array(sorted({member for member, _ in wanted.values()}), pa.string())
        places = pc.index_in(members, self._table["name"]).drop_null()
        there = {each.name: each for each in _images(archive, self._table.take(places))}
        for name, (member, place) in wanted.items():
            each = there.get(member)
            if each is None:
                continue
            image = _labelled(each)
            if isinstance(place, nifti.Place):
                if each.volume is not None and each.volume.holds(place):
                    yield name, slice_of_member(image, place, each.volume)
            elif place <= each.frames:
                yield name, frame_of_member(image, place, each.frames)


class IndexedImage(NamedTuple):
    """A row of an index: name, image and label of a member, and what else was seen of it."""

    name: str
    image: ListedImage
    spelled: Spelled | None
    frames: int
    volume: Header | None  # of a NIfTI file
    label_unread: str | None  # why the label that the file holds is not read


def _images(archive: FileInfo, rows: pa.RecordBatch | pa.Table) -> Iterator[IndexedImage]:
    """The members of rows of an index."""
    for name, size_bytes, offset, stored_bytes, label, key, refused, count, volume, unread, frame_bytes in zip(
        *(column.to_pylist() for column in rows.columns), strict=True
    ):
        image = ListedImage(
            uri=archives.member_uri(archive.uri, name),
            size_bytes=size_bytes,
            version=archive.version,
            container=archive.uri if name else None,
            offset=offset,
            stored_bytes=stored_bytes,
            refused=refused,
        )
        header = None if volume is None else Header.from_text(volume)
        frames = frames_by_row(count, frame_bytes)
        yield IndexedImage(name, image, Spelled(label, key) if label else None, frames, header, unread)


def _labelled(each: IndexedImage) -> ListedImage:
    """The image with its label as the archive spells it."""
    return each.image._replace(label=each.spelled.text) if each.spelled else each.image


class ArchiveIndexes:
    """Lists archives in parallel, into the local folder `scratch`. `kept` is the folder of a run with its indexes."""

    def __init__(self, scratch: str, *, kept: str | None = None, wholes_stay: bool = True) -> None:
        """Without `wholes_stay`, a file of several pages has them also where the run has it as one image."""
        self._scratch = scratch
        self._kept = kept
        self._wholes_stay = wholes_stay
        self._there = set(storage.list_names(kept)) if kept else set()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="index")

    def __enter__(self) -> Self:
        os.makedirs(self._scratch, exist_ok=True)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def paths(self) -> tuple[str, ...]:
        """The local files of all indexes made so far."""
        return tuple(os.path.join(self._scratch, name) for name in sorted(os.listdir(self._scratch)))

    def ahead(
        self, files: Iterable[tuple[FileInfo, Kind | None]]
    ) -> Iterator[tuple[FileInfo, Future[ArchiveIndex] | None]]:
        """The same files in order, with the indexes of archives, which are made ahead in parallel."""
        held, waiting = deque[tuple[FileInfo, Future[ArchiveIndex] | None]](), 0
        for found, kind in files:
            held.append((found, self.begin(found, kind) if kind else None))
            waiting += kind is not None
            while held and (held[0][1] is None or waiting > AT_ONCE or len(held) > CHUNK_ROWS):
                waiting -= held[0][1] is not None
                yield held.popleft()
        yield from held

    def begin(self, archive: FileInfo, kind: Kind) -> Future[ArchiveIndex]:
        """Start to read or make the index of an archive. The result raises `StorageError` where that cannot be read."""
        return self._pool.submit(self._index, archive, kind)

    def _index(self, archive: FileInfo, kind: Kind) -> ArchiveIndex:
        in_run = any(_name(archive, number) in self._there for number in _FORMATS)
        has_wholes = in_run and _name(archive, _FORMAT) not in self._there and self._wholes_stay
        name = _name(archive, _WITHOUT_PAGES if has_wholes else _FORMAT)
        path = os.path.join(self._scratch, name)
        if os.path.exists(path):  # a file list may name members of one archive many times
            return ArchiveIndex(path, in_run=in_run)
        if self._kept and name in self._there:
            storage.write_bytes(path, storage.read_bytes(storage.join(self._kept, name)))
        else:
            temporary = f"{path}.{secrets.token_hex(4)}"
            _write(temporary, archive, kind, ask_pages=not has_wholes)
            os.replace(temporary, path)
        return ArchiveIndex(path, in_run=in_run)


def refusal_of(index: Future[ArchiveIndex]) -> str | None:
    """Why an archive of images cannot be listed although its store is there; None where it can.

    Raises `StorageError` for any other failure.
    """
    try:
        index.result()
    except StorageError as exc:
        if exc.reason != "archived":
            raise
        return str(ImageError("archived", str(exc)))
    return None


def keep(paths: Sequence[str], folder: str, writer: storage.Writer) -> None:
    """Copy indexes into the folder of a run, and remove those of archives that are gone or have changed."""
    there = set(storage.list_names(folder))
    names = {os.path.basename(path): path for path in paths}

    def put(name: str) -> None:
        writer.write_bytes(storage.join(folder, name), storage.read_bytes(names[name]))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = [pool.submit(put, name) for name in names.keys() - there]
        done += [pool.submit(writer.delete, storage.join(folder, name)) for name in there - names.keys()]
        for future in done:
            future.result()


def _name(archive: FileInfo, number: int) -> str:
    """The file name of the index of an archive in the format of that number."""
    identity = "\0".join((str(number), archive.uri, str(archive.size_bytes), archive.version))
    return f"{hashlib.sha256(identity.encode()).hexdigest()[:_NAME_HEX]}.parquet"


def _write(path: str, archive: FileInfo, kind: Kind, *, ask_pages: bool) -> None:
    """List an archive into an index file, without rows where it holds no images."""
    with storage.open_seekable(archive.uri, version=archive.version) as file:
        notes: list[str] = []
        ask_each = storage.is_local(archive.uri)
        members = archives.list_members(kind, file, notes=notes, ask_each=ask_each, ask_pages=ask_pages)
        tables = _listed(archive.uri, members)
        try:
            first = next(tables, INDEX_SCHEMA.empty_table())
        except NotAnArchive as exc:
            schema = INDEX_SCHEMA.with_metadata({_SKIPPED_KEY: str(exc).encode()})
            pq.write_table(schema.empty_table(), path)
            return
        schema = INDEX_SCHEMA.with_metadata({_NOTE_KEY: notes[0].encode()} if notes else None)
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)


def _listed(uri: str, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    try:
        yield from tables
    except OSError as exc:
        raise StorageError("read_failed", f"{uri}: {exc}") from exc
