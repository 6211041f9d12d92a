"""Archives: tar (also compressed, and WebDataset shards), zip, and Parquet with a column of image bytes.

Each archive is listed once, into an index of where the bytes of each member lie. To get a member, its bytes are read
and unpacked here. Opens no file: callers pass open files and bytes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import pyarrow as pa

from brainray.errors import IMAGE_REASONS, ImageError, ImageReason

from .compressed import CompressedStreams
from .member import MOST_MEMBER_BYTES, BinaryFile, Member, size_of
from .parquet_file import footer_bytes, list_parquet, parquet_rows
from .parquet_images import NotAnArchive
from .tar_file import begins_tar, list_compressed_tar, list_tar, unpack_tar
from .zip_file import list_zip, unpack_zip, zip_head

__all__ = [
    "INDEX_SCHEMA",
    "MOST_MEMBERS",
    "MOST_MEMBER_BYTES",
    "SUFFIXES",
    "CompressedStreams",
    "Kind",
    "NotAnArchive",
    "begins_tar",
    "container_kind",
    "footer_bytes",
    "head_of",
    "inner_path",
    "kind_of",
    "list_members",
    "member_uri",
    "parquet_rows",
    "split_refusal",
    "stem",
    "unpack",
]

Kind = Literal["tar", "compressed tar", "zip", "parquet"]
MOST_MEMBERS = 1_000_000
_KINDS: dict[str, Kind] = {
    ".tar": "tar",
    ".zip": "zip",
    ".parquet": "parquet",
    ".pq": "parquet",
    **dict.fromkeys(
        (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst"), "compressed tar"
    ),
}
SUFFIXES = tuple(_KINDS)
_TABLE_ROWS = 16_384

INDEX_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # "": the archive itself, whose damage `refused` describes
        pa.field("size_bytes", pa.int64()),  # unpacked; null for Parquet
        # tar: of the data, as unpacked if compressed; zip: of the local header; Parquet: number of the row group
        pa.field("offset", pa.int64()),
        # tar: the data; zip: local header, data and descriptor; Parquet: the row group's images
        pa.field("stored_bytes", pa.int64()),
        pa.field("label", pa.string()),  # as spelled in Parquet, or in a WebDataset sample
        pa.field("label_key", pa.string()),  # the key in JSON or the column, if it has other uses than labels, too
        pa.field("refused", pa.string()),  # "reason: detail": the member is not read and gets an error row
        pa.field("frames", pa.int64()),  # of a DICOM file that has several
        pa.field("volume", pa.string()),  # of a NIfTI file: what its header says of its slices
        pa.field("label_unread", pa.string()),  # of a file with a label: why it labels nothing
        pa.field("frame_bytes", pa.int64()),  # of frames in a file that is packed as a whole, see `member.Member`
    ]
)


def kind_of(name: str) -> Kind | None:
    """The kind of archive, by the suffix of the name; None for any other file."""
    return next((kind for suffix, kind in _KINDS.items() if name.lower().endswith(suffix)), None)


def container_kind(name: str) -> Kind:
    """The kind of an archive in which images are listed. One whose name tells none is a tar by its first bytes.

    It is read as a compressed one, which a plain one can be, too.
    """
    return kind_of(name) or "compressed tar"


def stem(name: str) -> str:
    """The name of the folder that an archive counts as: its own without the suffix."""
    suffix = next((suffix for suffix in _KINDS if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def member_uri(archive: str, name: str) -> str:
    """The URI of a member; the archive's own for the name ""."""
    return f"{archive}#{name}" if name else archive


def inner_path(archive: str, name: str) -> str:
    """The path of a member within its archive, with `/` between folders: tools of Windows write `\\` into a zip."""
    return name.replace("\\", "/") if kind_of(archive) == "zip" else name


def archive_of(uri: str, *, longer_than: int = 0) -> tuple[str, Kind] | None:
    """The archive that a member's URI names, and its kind; None for any other URI.

    A folder may be named like a member, as `a.zip#1/b.tar#2.jpg` below the folder `a.zip#1`. `longer_than`, the length
    of an archive that there is not, gives the next one.
    """
    at = uri.find("#", longer_than and longer_than + 1)
    while at >= 0:
        kind = kind_of(uri[:at])
        if kind is not None:
            return uri[:at], kind
        at = uri.find("#", at + 1)
    return None


def split_refusal(text: str) -> ImageError:
    """Parse the text of `refused` back into its `ImageError`."""
    reason, _, detail = text.partition(": ")
    return ImageError(cast(ImageReason, reason), detail) if reason in IMAGE_REASONS else ImageError("read_failed", text)


def list_members(
    kind: Kind,
    file: BinaryFile,
    *,
    most: int = MOST_MEMBERS,
    notes: list[str] | None = None,
    ask_each: bool = True,
    ask_pages: bool = True,
) -> Iterator[pa.Table]:
    """List an archive as tables of `INDEX_SCHEMA`, in the order of the file. A last row describes its damage, if any.

    `notes` takes, before the first table, what the user should know of the archive as a whole. Without `ask_each` only
    a sample of the small DICOM files in a zip, and of its files with pages, is asked: in a bucket each is a request.
    Without `ask_pages` a file of several pages is one image.

    Memory does not grow with the members beyond 8-byte hashes of their names and, for a zip, its directory. Raises
    `NotAnArchive` before the first table for Parquet without images, and what reading the file raises.
    """
    names = _Names()
    rows: list[Member] = []
    asked = {"ask_each": ask_each, "ask_pages": ask_pages}
    for member in _members(kind, file, most, [] if notes is None else notes, **asked):
        rows.append(member._replace(name=names.distinct(member.name)) if member.name else member)
        if len(rows) == _TABLE_ROWS:
            yield _table(rows)
            rows = []
    if rows:
        yield _table(rows)


def unpack(kind: Kind, name: str, size_bytes: int | None, stored: bytes) -> bytes:
    """Unpack a member of a tar or zip from the `stored_bytes` at its `offset`. Raises `ImageError`.

    Without `size_bytes` the size is what the archive says beside the member.
    """
    if kind == "parquet":
        raise ValueError("rows of Parquet are read by parquet_rows")
    return unpack_zip(name, size_bytes, stored) if kind == "zip" else unpack_tar(size_bytes or 0, stored)


def head_of(kind: Kind, stored: bytes, length: int) -> bytes:
    """The first bytes of a member of a tar or zip, from the first of the `stored_bytes` at its `offset`."""
    return zip_head(stored, length) if kind == "zip" else stored[:length]


def _members(
    kind: Kind, file: BinaryFile, most: int, notes: list[str], *, ask_each: bool, ask_pages: bool
) -> Iterator[Member]:
    """The members of an archive; damage that ends the listing becomes a last row with the name ""."""
    try:
        if not size_of(file):
            raise ImageError("empty", "the file has no bytes")
        if kind == "parquet":
            yield from list_parquet(file, most, notes)
        elif kind == "zip":
            yield from list_zip(file, most, ask_each=ask_each, ask_pages=ask_pages)
        else:
            yield from (list_tar if kind == "tar" else list_compressed_tar)(file, most, ask_pages=ask_pages)
    except ImageError as exc:
        yield Member("", refused=str(exc))


def _table(rows: Sequence[Member]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, INDEX_SCHEMA, strict=True)], INDEX_SCHEMA
    )


class _Names:
    """Makes repeated names of members distinct: the second x.jpg is x.jpg#2."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._counts: dict[bytes, int] = {}  # how often each repeated name occurred

    def distinct(self, name: str) -> str:
        """The name, with the next free number if it occurred before."""
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
