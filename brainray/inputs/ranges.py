"""Plans and makes reads: one of a whole file, or of a byte range that holds several images of an archive.

Retries nothing (`reader` does), and knows no shards.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyarrow as pa

from brainray import storage
from brainray.errors import ImageError, StorageError
from brainray.storage.base import changed

from . import archives
from .frames import nifti, split_member_frame
from .frames.listing import is_frame
from .frames.members import read_member_frames
from .frames.nifti import place_of
from .frames.nifti.reading import Volumes
from .frames.pages import WHOLE_BYTES, is_animation, is_paged, read_pages
from .frames.reading import read_frames
from .frames.sources import Fetch, Image, Keep, Once, Spans, Unpacked, within
from .image_suffixes import without_number
from .unread import MOST_FILE_BYTES, refusal_of_size

# Upper limit of a range, which is one request and is held in memory: long enough to hide the latency of a bucket.
RANGE_BYTES = 8 << 20
# Upper limit of the gap between two members of a range: reading it is faster than another request.
_GAP_BYTES = 256 << 10
# Bytes read from the end of a Parquet file for its footer, which has 100 to 300 bytes per column and row group. One
# that is longer takes one more request.
_TAIL_BYTES = 256 << 10
_TAILS_BYTES = 64 << 20  # of all ends of Parquet files that a worker caches
_SPANS_BYTES = 64 << 20  # of all places of compressed frames that a worker caches
_SPAN_BYTES = 128  # of a tuple of two integers
_UNPACKED_BYTES = 64 << 20  # of members with frames, and at least one, that a worker caches
_PACKED_BYTES = 400 << 20  # of DICOM files that were unpacked for their frames, and at least one: two shards take turns
_LOCKS = 64

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Member:
    """An image in an archive and its position; see `archives.INDEX_SCHEMA`."""

    name: str
    offset: int
    stored_bytes: int
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class RangeRead:
    """One read: of the members of an archive, or without `members` of a whole file in its current version."""

    uri: str
    size_bytes: int | None  # bytes of the read; None: not known
    version: str | None = None
    members: tuple[Member, ...] = ()

    @property
    def images(self) -> int:
        return len(self.members) or 1


def plan_reads(rows: pa.Table) -> Iterator[RangeRead]:
    """The reads for the rows of a manifest, in their order."""
    names = ("uri", "size_bytes", "version", "container", "offset", "stored_bytes")
    held: list[Member] = []
    archive, version = "", ""
    for uri, size_bytes, row_version, row_archive, offset, stored_bytes in zip(
        *(rows[name].to_pylist() for name in names), strict=True
    ):
        if row_archive is None:
            yield from _range(archive, version, held)
            held = []
            yield RangeRead(uri, size_bytes)
            continue
        member = Member(uri[len(row_archive) + 1 :], offset, stored_bytes, size_bytes)
        if held and not ((archive, version) == (row_archive, row_version) and _joins(archive, held, member)):
            yield from _range(archive, version, held)
            held = []
        archive, version = row_archive, row_version
        held.append(member)
    yield from _range(archive, version, held)


def _joins(archive: str, held: list[Member], member: Member) -> bool:
    """Whether a member follows `held` closely enough to be read with them."""
    first, last = held[0], held[-1]
    kind = _kind(archive, first)
    if kind is None:
        follows = member.offset == last.offset + 1 and not is_animation(archive)
        return follows and _fits(held, member)
    if kind == "parquet":
        follows = member.offset == last.offset + 1  # the next row group
        return member.offset == last.offset or (follows and _group_bytes(held) + member.stored_bytes <= RANGE_BYTES)
    frame, before = split_member_frame(member.name), split_member_frame(last.name)
    if frame is not None or before is not None:
        follows = frame is not None and before is not None and frame == (before[0], before[1] + 1)
        follows = follows and not (frame is not None and _is_animation(frame[0]))
        return follows and member.offset == last.offset and _fits(held, member)
    place, earlier = nifti.split(member.name), nifti.split(last.name)
    if place is not None or earlier is not None:
        follows = place is not None and earlier is not None and _follows(place[1], earlier[1])
        return follows and member.offset == last.offset and _fits(held, member)
    gap = member.offset - (last.offset + last.stored_bytes)
    return 0 <= gap <= _GAP_BYTES and member.offset + member.stored_bytes - first.offset <= RANGE_BYTES


def _follows(place: nifti.Place, earlier: nifti.Place) -> bool:
    return (place.volume, place.axis, place.number) == (earlier.volume, earlier.axis, earlier.number + 1)


def _is_part(name: str) -> bool:
    """Whether a name in an archive is that of a frame or a slice of a member."""
    return split_member_frame(name) is not None or nifti.split(name) is not None


def _is_animation(member: str) -> bool:
    return is_animation(without_number(member))


def _kind(archive: str, member: Member) -> archives.Kind | None:
    """The kind of an archive; None for a file whose members are frames, pages or slices."""
    has_frames = is_frame(archive, member.name, member.offset, member.size_bytes, member.stored_bytes)
    return None if has_frames else archives.container_kind(archive)


def _fits(held: list[Member], frame: Member) -> bool:
    """Whether a frame may be read with others of its file, which all count as one share of it."""
    return (len(held) + 1) * (frame.size_bytes or 0) <= RANGE_BYTES


def _share_bytes(frames: list[Member]) -> int:
    """The size of frames, each a share of its file."""
    return sum(frame.size_bytes or 0 for frame in frames)


def _group_bytes(members: list[Member]) -> int:
    """The size of the members' row groups by the footer: all columns, uncompressed."""
    return sum({member.offset: member.stored_bytes for member in members}.values())


def _range(archive: str, version: str, held: list[Member]) -> Iterator[RangeRead]:
    if held:
        kind = _kind(archive, held[0])
        frame = None if kind is None else split_member_frame(held[0].name)
        if is_animation(archive) if kind is None else frame is not None and _is_animation(frame[0]):
            size_bytes = held[0].stored_bytes  # it may take all that stands before it in the file
        elif kind is None or _is_part(held[0].name):
            size_bytes = _share_bytes(held)
        else:
            size_bytes = _group_bytes(held) if kind == "parquet" else _end(held) - held[0].offset
        yield RangeRead(archive, size_bytes, version, tuple(held))


def _end(members: list[Member] | tuple[Member, ...]) -> int:
    return members[-1].offset + members[-1].stored_bytes


def _fetch_of(read: RangeRead, begin: int = 0) -> Fetch:
    """Fetches parts of the file of a read, by their places from `begin` on."""
    return lambda start, length: (
        storage.read_range(read.uri, begin + start, length, version=read.version) if length > 0 else b""
    )


class RangeReader:
    """Makes reads, each by one request without retries, for `reader` retries.

    A Parquet file takes one more request, for its footer, which is cached. Safe to share between threads.
    """

    def __init__(self, *, most_bytes: int = MOST_FILE_BYTES) -> None:
        self._most_bytes = most_bytes  # of a file; most sizes were compared when it was listed
        self._tails = _Cache[tuple[bytes, int]](lambda tail: len(tail[0]), _TAILS_BYTES)
        self._spans = _Cache[Spans](
            lambda spans: _SPAN_BYTES if isinstance(spans, ImageError) else _SPAN_BYTES * (1 + len(spans)), _SPANS_BYTES
        )
        self._volumes = Volumes()
        self._members = _Cache[Image](lambda data: 0 if isinstance(data, ImageError) else len(data), _UNPACKED_BYTES)
        self._files = _Cache[Unpacked](
            lambda data: 0 if isinstance(data, ImageError) else len(data), _PACKED_BYTES, one_at_a_time=True
        )
        self._streams = archives.CompressedStreams(lambda uri, version: storage.open_seekable(uri, version=version))

    def __call__(self, read: RangeRead) -> tuple[Image, ...]:
        """The bytes of each image, or the error of a member. Raises `StorageError` where the read fails."""
        if not read.members:
            return (storage.read_once(read.uri, most_bytes=self._most_bytes),)
        kind = _kind(read.uri, read.members[0])
        if kind == "parquet":
            groups = sorted({member.offset for member in read.members})
            tail = self._tails.of(read.uri, read.version, lambda: _read_tail(read.uri, read.version))
            file = _ParquetFile(read.uri, read.version, *tail)
            images = archives.parquet_rows(file, groups, [member.name for member in read.members])
            return tuple(self._limited(image) for image in images)
        if kind is None:
            return self._frames(read)
        if split_member_frame(read.members[0].name) is not None:
            return self._member_frames(read, kind)
        if nifti.split(read.members[0].name) is not None:
            return self._member_slices(read, kind)
        start = read.members[0].offset
        length = _end(read.members) - start
        if kind == "compressed tar":
            data = memoryview(self._unpacked_range(read.uri, read.version, start, length))
        else:
            data = memoryview(storage.read_range(read.uri, start, length, version=read.version) if length else b"")
        return tuple(_unpacked(kind, member, data[member.offset - start :]) for member in read.members)

    def _frames(self, read: RangeRead) -> tuple[Image, ...]:
        """Frames, pages or slices of a file, whose size stands in the place of their stored bytes."""
        size_bytes = read.members[0].stored_bytes
        if place_of(read.members[0].name) is not None:
            names = [member.name for member in read.members]
            return self._volumes.read(read.uri, read.version, size_bytes, _fetch_of(read), names)
        numbers = [member.offset for member in read.members]
        if is_paged(read.uri):
            return self._pages(read.uri, read.version, _fetch_of(read), size_bytes, numbers)
        return read_frames(_fetch_of(read), size_bytes, numbers, *self._keepers(read.uri, read.version))

    def _pages(
        self, uri: str, version: str | None, fetch: Fetch, size_bytes: int, numbers: list[int]
    ) -> tuple[Image, ...]:
        """Pages, from 0, of a file or member that is cached as a whole, or read in ranges where it is large."""
        if size_bytes <= WHOLE_BYTES:
            data = self._members.of(uri, version, lambda: fetch(0, size_bytes))
            if isinstance(data, ImageError):
                return (data,) * len(numbers)
            fetch = within(data)
        return read_pages(fetch, size_bytes, numbers, lambda make: self._spans.of(uri, version, make))

    def _keepers(self, uri: str, version: str | None) -> tuple[Once, Keep]:
        """What caches the places of compressed frames of a file or member, and a packed one."""
        return (
            lambda make: self._spans.of(uri, version, make),
            lambda make: self._files.of(uri, version, make),
        )

    def _member_frames(self, read: RangeRead, kind: archives.Kind) -> tuple[Image, ...]:
        """Frames of a member of an archive, which is unpacked whole and cached; of a plain tar ranges are read."""
        frames = [frame for member in read.members if (frame := split_member_frame(member.name)) is not None]
        name, numbers = frames[0][0], [number - 1 for _, number in frames]
        first, uri = read.members[0], archives.member_uri(read.uri, name)
        once, keep = self._keepers(uri, read.version)
        if is_paged(without_number(name)):
            return self._member_pages(read, kind, name, numbers)
        if kind == "tar":
            return read_frames(_fetch_of(read, first.offset), first.stored_bytes, numbers, once, keep)

        def content() -> Image:
            return self._files.held(uri, read.version) or self._whole_member(read, kind, name)

        return read_member_frames(content, numbers, once, keep)

    def _member_pages(self, read: RangeRead, kind: archives.Kind, name: str, numbers: list[int]) -> tuple[Image, ...]:
        """Pages of a member of an archive, which is unpacked whole; of a plain tar it is read as a file is."""
        first, uri = read.members[0], archives.member_uri(read.uri, name)
        if kind == "tar":
            return self._pages(uri, read.version, _fetch_of(read, first.offset), first.stored_bytes, numbers)
        data = self._whole_member(read, kind, name)
        if isinstance(data, ImageError):
            return (data,) * len(numbers)
        return read_pages(within(data), len(data), numbers, lambda make: self._spans.of(uri, read.version, make))

    def _member_slices(self, read: RangeRead, kind: archives.Kind) -> tuple[Image, ...]:
        """Slices of a member of an archive, which is unpacked whole; of a plain tar ranges are read."""
        first = read.members[0]
        parts = [found for member in read.members if (found := nifti.split(member.name)) is not None]
        name = parts[0][0]

        def content() -> tuple[Fetch, int]:
            if kind == "tar":
                return _fetch_of(read, first.offset), first.stored_bytes
            data = self._whole_member(read, kind, name)
            if isinstance(data, ImageError):
                raise data
            return within(data), len(data)

        places = [member.name[len(name) + 1 :] for member in read.members]
        uri = archives.member_uri(read.uri, name)
        return self._volumes.read_member(uri, read.version, name, content, places)

    def _whole_member(self, read: RangeRead, kind: archives.Kind, name: str) -> Image:
        """The member of this name that holds the frames or slices of a read, unpacked and cached."""
        first = read.members[0]

        def unpack() -> Image:
            if kind == "compressed tar":
                stored = self._unpacked_range(read.uri, read.version, first.offset, first.stored_bytes)
                size_bytes: int | None = first.stored_bytes
            else:
                stored = storage.read_range(read.uri, first.offset, first.stored_bytes, version=read.version)
                size_bytes = None
            return _unpacked(kind, Member(name, first.offset, first.stored_bytes, size_bytes), memoryview(stored))

        return self._members.of(archives.member_uri(read.uri, name), read.version, unpack)

    def _limited(self, image: Image) -> Image:
        """The image, or the error of a row of Parquet that is too large: its size is known only now."""
        refused = None if isinstance(image, ImageError) else refusal_of_size(len(image), self._most_bytes)
        return image if refused is None else archives.split_refusal(refused)

    def _unpacked_range(self, uri: str, version: str | None, start: int, length: int) -> bytes:
        """Bytes of an unpacked stream. It may have been opened long ago, so the version is checked each time."""
        found = storage.stat(uri)
        if found is not None and version is not None and found.version != version:
            raise changed(uri)
        try:
            return self._streams.read(uri, version, start, length)
        except OSError as exc:
            raise StorageError("read_failed", f"{uri}: {exc}") from exc


class _Cache(Generic[Value]):
    """What was found in files, up to `most` bytes as `weigh` tells; the least recently used are dropped.

    With `one_at_a_time` threads wait for each other, also for other files: what is made takes much memory.
    """

    def __init__(self, weigh: Callable[[Value], int], most: int, *, one_at_a_time: bool = False) -> None:
        self._weigh = weigh
        self._most = most
        self._held: OrderedDict[tuple[str, str | None], Value] = OrderedDict()
        self._lock = threading.Lock()  # guards the above
        # So that threads do not read the same twice.
        self._making = [threading.Lock() for _ in range(1 if one_at_a_time else _LOCKS)]

    def held(self, uri: str, version: str | None) -> Value | None:
        """What was found in this version of a file, if it is still there."""
        with self._lock:
            return self._held.get((uri, version))

    def of(self, uri: str, version: str | None, make: Callable[[], Value]) -> Value:
        """What `make` finds in this version of a file."""
        key = (uri, version)
        with self._making[hash(key) % len(self._making)]:
            with self._lock:
                if key in self._held:
                    self._held.move_to_end(key)
                    return self._held[key]
            value = make()
            with self._lock:
                self._held[key] = value
                while len(self._held) > 1 and sum(map(self._weigh, self._held.values())) > self._most:
                    self._held.popitem(last=False)
            return value


def _read_tail(uri: str, version: str | None) -> tuple[bytes, int]:
    data, size_bytes = storage.read_tail(uri, _TAIL_BYTES, version=version)
    footer_bytes = archives.footer_bytes(data)
    if len(data) < footer_bytes <= min(size_bytes, _TAILS_BYTES):
        data = storage.read_range(uri, size_bytes - footer_bytes, footer_bytes, version=version)
    return data, size_bytes


class _ParquetFile:
    """An open Parquet file whose end is in memory; each read before that is one request."""

    def __init__(self, uri: str, version: str | None, tail: bytes, size_bytes: int) -> None:
        self._uri = uri
        self._version = version
        self._tail = tail
        self._size_bytes = size_bytes
        self._at = 0

    def seek(self, offset: int, whence: int, /) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._size_bytes}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int, /) -> bytes:
        start = self._at
        length = max(0, min(size, self._size_bytes - start))
        self._at += length
        in_tail = start - (self._size_bytes - len(self._tail))
        if in_tail >= 0:
            return self._tail[in_tail : in_tail + length]
        return storage.read_range(self._uri, start, length, version=self._version) if length else b""


def _unpacked(kind: archives.Kind, member: Member, stored: memoryview) -> Image:
    try:
        return archives.unpack(kind, member.name, member.size_bytes, bytes(stored[: member.stored_bytes]))
    except ImageError as exc:
        return exc
