"""Files that hold many images: tar (WebDataset, too), zip, and Parquet with a column of image bytes.

One is listed once, into an index that says where the bytes of each member lie; whoever wants a member reads those bytes
and unpacks them here. Opens nothing: files and bytes are given.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import pyarrow as pa

from brainray.errors import IMAGE_REASONS, ImageError, ImageReason

from .member import MOST_MEMBER_BYTES, BinaryFile, Member, size_of
from .parquet_file import NotAContainer, footer_bytes, list_parquet, parquet_rows
from .tar_file import list_tar, unpack_tar
from .zip_file import list_zip, unpack_zip

__all__ = [
    "INDEX_SCHEMA",
    "MOST_MEMBERS",
    "MOST_MEMBER_BYTES",
    "Kind",
    "NotAContainer",
    "footer_bytes",
    "kind_of",
    "list_members",
    "member_uri",
    "parquet_rows",
    "split_refusal",
    "stem",
    "unpack",
]

Kind = Literal["tar", "zip", "parquet"]
MOST_MEMBERS = 1_000_000
_KINDS: dict[str, Kind] = {".tar": "tar", ".zip": "zip", ".parquet": "parquet", ".pq": "parquet"}
_LISTERS = {"tar": list_tar, "zip": list_zip, "parquet": list_parquet}
_TABLE_ROWS = 16_384

INDEX_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # "" is the container itself
        pa.field("size_bytes", pa.int64()),  # unpacked; null for Parquet
        pa.field("offset", pa.int64()),  # tar: of the data; zip: of the local header; Parquet: number of the row group
        # tar: the data; zip: local header, data and descriptor; Parquet: the row group's images
        pa.field("stored_bytes", pa.int64()),
        pa.field("label", pa.string()),  # from Parquet alone
        pa.field("refused", pa.string()),  # "reason: detail": gets an error row instead of being read
    ]
)


def kind_of(name: str) -> Kind | None:
    """The kind of container a file's name tells; None for any other file."""
    return next((kind for suffix, kind in _KINDS.items() if name.lower().endswith(suffix)), None)


def stem(name: str) -> str:
    """The name without the suffix of its kind: a container counts as a folder of that name."""
    return name.rpartition(".")[0] if kind_of(name) else name


def member_uri(container: str, name: str) -> str:
    """Where a member is; the container itself for the name ""."""
    return f"{container}#{name}" if name else container


def archive_of(uri: str) -> tuple[str, Kind] | None:
    """The container that a member's URI names, and its kind; None for any other URI."""
    at = uri.find("#")
    while at >= 0:
        kind = kind_of(uri[:at])
        if kind is not None:
            return uri[:at], kind
        at = uri.find("#", at + 1)
    return None


def split_refusal(text: str) -> ImageError:
    """What `refused` says, as the error that it was."""
    reason, _, detail = text.partition(": ")
    return ImageError(cast(ImageReason, reason), detail) if reason in IMAGE_REASONS else ImageError("read_failed", text)


def list_members(kind: Kind, file: BinaryFile, *, most: int = MOST_MEMBERS) -> Iterator[pa.Table]:
    """Tables of `INDEX_SCHEMA`, in the order of the file; the last row tells what is wrong with the container.

    Memory does not grow with the members beyond 8-byte hashes of their names and, for a zip, its directory. Raises
    `NotAContainer` before the first table for Parquet without images, and what reading the file raises.
    """
    names = _Names()
    rows: list[Member] = []
    for member in _members(kind, file, most):
        rows.append(member._replace(name=names.distinct(member.name)) if member.name else member)
        if len(rows) == _TABLE_ROWS:
            yield _table(rows)
            rows = []
    if rows:
        yield _table(rows)


def unpack(kind: Kind, name: str, size_bytes: int, piece: bytes) -> bytes:
    """A member of a tar or zip, from the `stored_bytes` at its `offset`. Raises `ImageError`."""
    if kind == "parquet":
        raise ValueError("rows of Parquet are read by parquet_rows")
    return unpack_zip(name, size_bytes, piece) if kind == "zip" else unpack_tar(size_bytes, piece)


def _members(kind: Kind, file: BinaryFile, most: int) -> Iterator[Member]:
    """Its members, and why they end early as a row of the container itself."""
    try:
        if not size_of(file):
            raise ImageError("empty", "the file has no bytes")
        yield from _LISTERS[kind](file, most)
    except ImageError as exc:
        yield Member("", refused=str(exc))


def _table(rows: Sequence[Member]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, INDEX_SCHEMA, strict=True)], INDEX_SCHEMA
    )


class _Names:
    """Tells members of the same name apart: the second x.jpg is x.jpg#2."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._counts: dict[bytes, int] = {}  # of names that came again

    def distinct(self, name: str) -> str:
        """The name, or with the next number that makes it one not seen before."""
        first, key = name, _key(name)
        count = self._counts.get(_key(first), 1)
        while key in self._seen:
            count += 1
            name = f"{first}#{count}"
            key = _key(name)
        if name != first:
            self._counts[_key(first)] = count
        self._seen.add(key)
        return name


def _key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
