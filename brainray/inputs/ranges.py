"""What is read at once: a whole file, or a stretch of a container in which several images of a shard lie."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from brainray import storage
from brainray.errors import ImageError

from . import archives

# A stretch is one request, and is held whole: long enough for the latency of a bucket not to count.
RANGE_BYTES = 8 << 20
# Bytes of members that are not wanted: as many are read sooner than another request is answered.
_GAP_BYTES = 256 << 10
# Of a Parquet file, read for its footer: that has 100 to 300 bytes a column and row group. A longer one costs one more.
_TAIL_BYTES = 256 << 10
_TAILS_BYTES = 64 << 20  # of a worker, which remembers them
_LOCKS = 64

Image = bytes | ImageError


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a container, and where; see `containers.INDEX_SCHEMA`."""

    name: str
    offset: int
    stored_bytes: int
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class RangeRead:
    """One read. Without `members` it is a whole file, of whatever version it is by then."""

    uri: str
    size_bytes: int | None  # to be read; None where that is not known
    version: str | None = None
    members: tuple[Member, ...] = ()

    @property
    def images(self) -> int:
        return len(self.members) or 1


def plan_reads(rows: pa.Table) -> Iterator[RangeRead]:
    """The reads for manifest rows, whose images they give in order."""
    names = ("uri", "size_bytes", "version", "container", "offset", "stored_bytes")
    held: list[Member] = []
    container, version = "", ""
    for uri, size_bytes, own_version, own_container, offset, stored_bytes in zip(
        *(rows[name].to_pylist() for name in names), strict=True
    ):
        if own_container is None:
            yield from _stretch(container, version, held)
            held = []
            yield RangeRead(uri, size_bytes)
            continue
        member = Member(uri[len(own_container) + 1 :], offset, stored_bytes, size_bytes)
        if held and not ((container, version) == (own_container, own_version) and _joins(container, held, member)):
            yield from _stretch(container, version, held)
            held = []
        container, version = own_container, own_version
        held.append(member)
    yield from _stretch(container, version, held)


def _joins(container: str, held: list[Member], member: Member) -> bool:
    """Whether a member lies so close behind others that one read takes them all."""
    first, last = held[0], held[-1]
    if archives.kind_of(container) == "parquet":
        follows = member.offset == last.offset + 1  # the next row group
        return member.offset == last.offset or (follows and _group_bytes(held) + member.stored_bytes <= RANGE_BYTES)
    gap = member.offset - (last.offset + last.stored_bytes)
    return 0 <= gap <= _GAP_BYTES and member.offset + member.stored_bytes - first.offset <= RANGE_BYTES


def _group_bytes(members: list[Member]) -> int:
    """Of the row groups in which they lie, by what these say of themselves: all columns, unpacked."""
    return sum({member.offset: member.stored_bytes for member in members}.values())


def _stretch(container: str, version: str, held: list[Member]) -> Iterator[RangeRead]:
    if held:
        in_parquet = archives.kind_of(container) == "parquet"
        size_bytes = _group_bytes(held) if in_parquet else _end(held) - held[0].offset
        yield RangeRead(container, size_bytes, version, tuple(held))


def _end(members: list[Member] | tuple[Member, ...]) -> int:
    return members[-1].offset + members[-1].stored_bytes


class RangeReader:
    """Reads pieces, each by one request that is not tried again: `reading` counts and paces its tries.

    A Parquet file costs one more, for its footer, which is remembered. Every thread may call it.
    """

    def __init__(self) -> None:
        self._tails = _Tails()

    def __call__(self, piece: RangeRead) -> tuple[Image, ...]:
        """The bytes of each image, or why a member has none. Raises `StorageError` where the read fails."""
        if not piece.members:
            return (storage.read_once(piece.uri),)
        kind = archives.kind_of(piece.uri)
        if kind == "parquet":
            groups = sorted({member.offset for member in piece.members})
            file = _ParquetFile(piece.uri, piece.version, *self._tails.of(piece.uri, piece.version))
            return tuple(archives.parquet_rows(file, groups, [member.name for member in piece.members]))
        start = piece.members[0].offset
        length = _end(piece.members) - start
        read = storage.read_range(piece.uri, start, length, version=piece.version) if length else b""
        stretch = memoryview(read)
        return tuple(_unpacked(kind or "tar", member, stretch[member.offset - start :]) for member in piece.members)


class _Tails:
    """The ends of the Parquet files that were read last, with their footers."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str | None], tuple[bytes, int]] = OrderedDict()
        self._lock = threading.Lock()  # guards the above
        self._one_at_a_time = [threading.Lock() for _ in range(_LOCKS)]  # else each thread of a shard would ask for it

    def of(self, uri: str, version: str | None) -> tuple[bytes, int]:
        """The end of a file, and the file's size."""
        key = (uri, version)
        with self._one_at_a_time[hash(key) % _LOCKS]:
            with self._lock:
                if key in self._held:
                    self._held.move_to_end(key)
                    return self._held[key]
            tail = _read_tail(uri, version)
            with self._lock:
                self._held[key] = tail
                while len(self._held) > 1 and sum(len(data) for data, _ in self._held.values()) > _TAILS_BYTES:
                    self._held.popitem(last=False)
            return tail


def _read_tail(uri: str, version: str | None) -> tuple[bytes, int]:
    data, size_bytes = storage.read_tail(uri, _TAIL_BYTES, version=version)
    footer_bytes = archives.footer_bytes(data)
    if len(data) < footer_bytes <= min(size_bytes, _TAILS_BYTES):
        data = storage.read_range(uri, size_bytes - footer_bytes, footer_bytes, version=version)
    return data, size_bytes


class _ParquetFile:
    """A file whose end is known already; each read of what comes before it is one request."""

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


def _unpacked(kind: archives.Kind, member: Member, stretch: memoryview) -> Image:
    try:
        return archives.unpack(kind, member.name, member.size_bytes or 0, bytes(stretch[: member.stored_bytes]))
    except ImageError as exc:
        return exc
