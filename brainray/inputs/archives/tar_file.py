"""Lists the members of a tar file (also WebDataset shards), with the position of their bytes.

`tarfile` parses single headers only. The loop over them is our own, because that of `tarfile.TarFile` ends silently at
damage, keeps every member in memory, and on damaged or hostile headers may never end (CVE-2025-8194) or take quadratic
time and memory.
"""

import io
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from brainray.errors import ImageError
from brainray.inputs.frames import nifti
from brainray.inputs.frames.header import HEAD_BYTES
from brainray.inputs.frames.nifti.header import HEAD_BYTES as NIFTI_HEAD_BYTES
from brainray.inputs.frames.packed import frames_of_head
from brainray.inputs.frames.pages import is_paged, pages_in
from brainray.inputs.frames.sampling import may_be_dicom

from .compressed import UnpackedFile
from .member import (
    MOST_MEMBER_BYTES,
    BinaryFile,
    Member,
    read_at,
    row_name,
    size_of,
    too_large,
    too_many,
    with_frames,
    with_volume,
)
from .sample_labels import may_hold_label, with_labels

_BLOCK = tarfile.BLOCKSIZE
# Bytes per read: small where members are large and skipped, growing where headers follow one another.
_LEAST_READ = 64 << 10
_MOST_READ = 4 << 20
_MOST_HEADER_BYTES = 16 << 20  # of a long name or pax header; those with extended attributes hold a few MB
_MOST_PADDING = 1 << 20  # zeros after the end: GNU tar pads to 10 KiB as `tarfile` does, to 1 MiB with -b 2048
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
# Records that are kept. Any other that begins with GNU.sparse. is kept under that prefix.
_PAX_KEYS = (b"path", b"size", b"GNU.sparse.name")
_SPARSE = b"GNU.sparse."
_LONG_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_NO_FILES = (b"V", b"D")  # types of GNU tar that are no files: volume label, listing of a folder


class _Entry(NamedTuple):
    type: bytes
    name: str
    offset: int  # of the data
    size_bytes: int
    sparse: bool


def list_tar(file: BinaryFile, most: int, *, ask_pages: bool = True) -> Iterator[Member]:
    """Members in the order of the file. Raises `ImageError` where the rest cannot be listed.

    Without `ask_pages` files of several pages count as one image.
    """
    window = _Window(file)
    for magic, what in _COMPRESSED.items():
        if window.read(0, len(magic)) == magic:
            raise ImageError(
                "unsupported",
                f"is compressed with {what}; name it .tar.gz, .tar.bz2, .tar.xz or .tar.zst, or unpack it",
            )
    yield from with_labels(_members(window, most, ask_pages=ask_pages))


def list_compressed_tar(file: BinaryFile, most: int, *, ask_pages: bool = True) -> Iterator[Member]:
    """As `list_tar`, for a tar with gzip, bzip2, xz or zstd around it. Offsets are those in the unpacked stream.

    That the last member is cut off is found when it is read.
    """
    stream = UnpackedFile(file)
    try:
        yield from with_labels(_members(_Window(stream), most, ask_pages=ask_pages))
    except ImageError as exc:
        raise stream.damage or exc from exc
    if stream.damage is not None:
        raise stream.damage


def begins_tar(head: bytes) -> bool:
    """Whether a file with these first bytes, compressed or not, is a tar."""
    try:
        tarfile.TarInfo.frombuf(read_at(UnpackedFile(io.BytesIO(head)), 0, _BLOCK), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _members(window: "_Window", most: int, *, ask_pages: bool) -> Iterator[tuple[Member, bytes | None]]:
    """All members, those that may hold labels with their bytes."""
    for count, entry in enumerate(_entries(window), 1):
        if count > most:
            raise too_many(most)
        is_folder = entry.type in (tarfile.DIRTYPE, *_NO_FILES) or (entry.name.endswith("/") and not entry.size_bytes)
        if is_folder:
            continue
        member = _member(entry, window.size_bytes)
        if member.refused is None and may_be_dicom(member.name):
            head = window.read(entry.offset, min(entry.size_bytes, HEAD_BYTES))
            member = with_frames(member, frames_of_head(head))
        elif member.refused is None and ask_pages and is_paged(member.name):
            member = with_frames(member, pages_in(partial(window.read_within, entry), entry.size_bytes))
        elif member.refused is None and nifti.is_nifti(member.name):
            head = window.read(entry.offset, min(entry.size_bytes, NIFTI_HEAD_BYTES))
            member = with_volume(member, head)
        is_read = member.refused is None and may_hold_label(member.name, entry.size_bytes)
        yield member, window.read(entry.offset, entry.size_bytes) if is_read else None


def unpack_tar(size_bytes: int, stored: bytes) -> bytes:
    """The member, which a tar stores unchanged. Raises `ImageError` where bytes are missing."""
    if len(stored) != size_bytes:
        raise ImageError("truncated", f"has {len(stored):,} of {size_bytes:,} bytes")
    return stored


def _member(entry: _Entry, end: int) -> Member:
    name, refused = row_name(entry.name)
    refused = refused or _refusal(entry)
    if refused is None and entry.offset + entry.size_bytes > end:
        refused = str(ImageError("truncated", "the tar ends within it"))
    if refused is not None:
        return Member(name, offset=entry.offset, refused=refused)
    return Member(name, entry.size_bytes, entry.offset, entry.size_bytes)


def _refusal(entry: _Entry) -> str | None:
    if entry.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        return "unsupported: is a link, which is not followed"
    if entry.type in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        return "unsupported: is a device or pipe"
    if entry.sparse:
        return "unsupported: is a sparse file; write the tar without --sparse"
    if entry.type not in tarfile.REGULAR_TYPES:
        return f"unsupported: is an entry of the unknown type {entry.type!r}"
    return too_large(entry.size_bytes) if entry.size_bytes > MOST_MEMBER_BYTES else None


def _entries(window: "_Window") -> Iterator[_Entry]:
    """All entries of the tar, with long names and pax headers applied."""
    end = 0
    shared: dict[bytes, bytes] = {}  # pax records for all following entries
    own: dict[bytes, bytes] = {}  # pax records for the next entry only
    while (start := _next_header(window, end)) is not None:
        header = _header(window, start)
        offset = start + _BLOCK
        if header.type in (*_PAX_TYPES, *_LONG_TYPES):
            body = _body(window, offset, header.size)
            end = offset + _padded(header.size)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                own[b"path"] = body.partition(b"\0")[0]
            elif header.type in _PAX_TYPES:
                (shared if header.type == tarfile.XGLTYPE else own).update(_pax_records(body, offset))
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            offset = _after_sparse_map(window, offset)
        entry = _entry(header, shared | own, offset)
        yield entry
        own = {}
        has_data = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        end = offset + _padded(entry.size_bytes) if has_data else offset
    if own:
        raise ImageError("truncated", "ends after the header of a long name")


def _entry(header: tarfile.TarInfo, records: dict[bytes, bytes], offset: int) -> _Entry:
    stored = records.get(b"GNU.sparse.name") or records.get(b"path")
    size_bytes = header.size
    if size := records.get(b"size"):
        if not size.isdigit() or len(size) > 20:
            raise _damaged(offset, "bad size")
        size_bytes = int(size)
    return _Entry(
        type=header.type,
        name=stored.decode(errors="surrogateescape") if stored else header.name,
        offset=offset,
        size_bytes=size_bytes,
        sparse=header.type == tarfile.GNUTYPE_SPARSE or _SPARSE in records,
    )


def _next_header(window: "_Window", offset: int) -> int | None:
    """Offset of the next header; None at the end. Continues after an end mark, for tars are joined with `cat`."""
    start = offset
    most_padding = _MOST_PADDING if start else tarfile.RECORDSIZE
    while not any(block := window.read(offset, _BLOCK)):
        if len(block) < _BLOCK and offset > start:
            return None
        if len(block) < _BLOCK:
            raise ImageError("truncated", f"ends at byte {window.size_bytes:,} without the end mark of a tar")
        offset += _BLOCK
        if offset - start > most_padding:
            raise ImageError("truncated", f"only zeros from byte {start:,} on, as an interrupted copy leaves them")
    if len(block) < _BLOCK and offset == start:
        raise ImageError("truncated", f"ends within a header at byte {window.size_bytes:,}")
    return offset if len(block) == _BLOCK else None


def _header(window: "_Window", offset: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(window.read(offset, _BLOCK), "utf-8", "surrogateescape")
    except tarfile.HeaderError as exc:
        if offset == 0:
            raise ImageError("not_an_image", "is named .tar but is none") from exc
        raise _damaged(offset, str(exc)) from exc
    if header.size < 0:
        raise _damaged(offset, "negative size")
    return header


def _body(window: "_Window", offset: int, size_bytes: int) -> bytes:
    if size_bytes > _MOST_HEADER_BYTES:
        raise ImageError("unsupported", f"header of {size_bytes:,} bytes at byte {offset:,}; the rest is not listed")
    body = window.read(offset, size_bytes)
    if len(body) < size_bytes:
        raise ImageError("truncated", f"ends within a header at byte {window.size_bytes:,}")
    return body


def _pax_records(body: bytes, offset: int) -> dict[bytes, bytes]:
    """Parse records of the form "length key=value\\n", where the length counts the whole record."""
    records = {}
    at = 0
    while at < len(body) and body[at]:
        digits = body[at : at + 20].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = body[at + len(digits) + 1 : at + length]
        if at + length > len(body) or not record.endswith(b"\n") or b"=" not in record:
            raise _damaged(offset, "bad pax header")
        key, _, value = record[:-1].partition(b"=")
        if key in _PAX_KEYS:
            records[key] = value
        elif key.startswith(_SPARSE):
            records[_SPARSE] = b""
        at += length
    return records


def _after_sparse_map(window: "_Window", offset: int) -> int:
    continued = 482  # offset of the flag that another block follows: 482 in the header, 504 in each block after it
    while len(block := window.read(offset - _BLOCK, _BLOCK)) == _BLOCK and block[continued]:
        continued = 504
        offset += _BLOCK
    return offset


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK) * _BLOCK


def _damaged(offset: int, what: str) -> ImageError:
    return ImageError("truncated", f"damaged at byte {offset:,} ({what}); what follows is not listed")


class _Window:
    """A read buffer over the file, addressed by offset."""

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self._start = 0
        self._data = b""
        self._read_bytes = _LEAST_READ
        self.size_bytes = size_of(file)

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`; fewer only at the end of the file."""
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._data):
            self._fill(offset, length)
            begin = 0
        return self._data[begin : begin + length]

    def read_within(self, entry: _Entry, start: int, length: int) -> bytes:
        """Read a part of an entry; nothing of a compressed tar far before what was read last, which is gone."""
        offset = entry.offset + start
        is_there = offset >= self._start or not isinstance(self._file, UnpackedFile) or self._file.reaches(offset)
        return self.read(offset, max(0, min(length, entry.size_bytes - start))) if is_there else b""

    def _fill(self, offset: int, length: int) -> None:
        skipped = offset - self._start - len(self._data)
        # Reading 4 MiB takes about as long as one more request to a bucket.
        near = skipped <= _MOST_READ
        self._read_bytes = min(2 * self._read_bytes, _MOST_READ) if near else _LEAST_READ
        wanted = max(length, self._read_bytes)
        # What is there stays, for a compressed file is read in one direction; the rest of the old buffer is freed.
        self._start, self._data = offset, self._data[offset - self._start :] if offset >= self._start else b""
        behind = offset + len(self._data)
        if behind < self.size_bytes:
            more = read_at(self._file, behind, wanted)
            self._data += more
            if len(more) < wanted:
                self.size_bytes = behind + len(more)  # a compressed file does not tell it before
