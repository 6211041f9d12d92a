"""What is read at once: a whole file, or a stretch of a container in which several images of a shard lie."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from . import containers, storage
from .errors import ImageError

# A stretch is one request, and is held whole: long enough for the latency of a bucket not to count.
PIECE_BYTES = 8 << 20
# Bytes of members that are not wanted: as many are read sooner than another request is answered.
_GAP_BYTES = 256 << 10

Image = bytes | ImageError


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a container, and where; see `containers.INDEX_SCHEMA`."""

    name: str
    offset: int
    stored_bytes: int
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Piece:
    """One read. Without `members` it is a whole file, of whatever version it is by then."""

    uri: str
    size_bytes: int | None  # to be read; None where that is not known
    version: str | None = None
    members: tuple[Member, ...] = ()

    @property
    def images(self) -> int:
        return len(self.members) or 1


def pieces(rows: pa.Table) -> Iterator[Piece]:
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
            yield Piece(uri, size_bytes)
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
    if containers.kind_of(container) == "parquet":
        return member.offset == first.offset  # the same row group
    gap = member.offset - (last.offset + last.stored_bytes)
    return 0 <= gap <= _GAP_BYTES and member.offset + member.stored_bytes - first.offset <= PIECE_BYTES


def _stretch(container: str, version: str, held: list[Member]) -> Iterator[Piece]:
    if held:
        in_parquet = containers.kind_of(container) == "parquet"
        yield Piece(
            container, held[0].stored_bytes if in_parquet else _end(held) - held[0].offset, version, tuple(held)
        )


def _end(members: list[Member] | tuple[Member, ...]) -> int:
    return members[-1].offset + members[-1].stored_bytes


def read_piece(piece: Piece) -> tuple[Image, ...]:
    """The bytes of each image, or why a member has none. Raises `StorageError` where the read fails."""
    if not piece.members:
        return (storage.read_once(piece.uri),)
    kind = containers.kind_of(piece.uri)
    first = piece.members[0]
    if kind == "parquet":
        with storage.open_seekable(piece.uri, version=piece.version) as file:
            return tuple(containers.parquet_rows(file, first.offset, [member.name for member in piece.members]))
    length = _end(piece.members) - first.offset
    read = storage.read_range(piece.uri, first.offset, length, version=piece.version) if length else b""
    stretch = memoryview(read)
    return tuple(_unpacked(kind or "tar", member, stretch[member.offset - first.offset :]) for member in piece.members)


def _unpacked(kind: containers.Kind, member: Member, stretch: memoryview) -> Image:
    try:
        return containers.unpack(kind, member.name, member.size_bytes or 0, bytes(stretch[: member.stored_bytes]))
    except ImageError as exc:
        return exc
