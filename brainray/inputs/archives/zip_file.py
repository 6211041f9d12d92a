"""Lists the members of a zip file, with the position of their bytes, and unpacks them.

Parses the zip's directory itself: `zipfile` keeps 0.7 kB per member, and fails for all of them at one name that it
cannot decode.
"""

import io
import stat
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from brainray.errors import ImageError
from brainray.inputs.frames import nifti
from brainray.inputs.frames.header import HEAD_BYTES
from brainray.inputs.frames.nifti.header import HEAD_BYTES as NIFTI_HEAD_BYTES
from brainray.inputs.frames.packed import frames_of_head, frames_told_by
from brainray.inputs.frames.pages import is_paged, pages_in
from brainray.inputs.frames.sampling import FrameSample, may_be_dicom

from .inflating import Inflating
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

# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7 to 4.3.16 and 4.5.3
_LOCAL = struct.Struct("<4s2xHH4xL8xHH")
_ENTRY = struct.Struct("<4sxB2xHH8xLLHHH4xLL")
_END = struct.Struct("<4sHHHHLLH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL_MAGIC, _ENTRY_MAGIC, _END_MAGIC = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_END64_LOCATOR_MAGIC, _END64_MAGIC, _DESCRIPTOR_MAGIC = b"PK\6\7", b"PK\6\6", b"PK\7\x08"
_ENCRYPTED, _HAS_DESCRIPTOR, _UTF8 = 1, 1 << 3, 1 << 11  # flags
_STORED, _DEFLATED = 0, 8  # compression methods
_UNIX = 3
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # placeholders for a number that stands in a zip64 field
_LOCAL_SIZE_AT = 22  # offset of the unpacked size in the local header
_PIECE_BYTES = 16 << 20  # unpacked at a time
_PACKED_BYTES = 256 << 10  # of which it is made
_FIRST_HEAD_BYTES = 8 << 10  # of a DICOM file: most tell their frames there
_LOCAL_BYTES = 4 << 10  # that the local header of a member takes, with its name
_MOST_DIRECTORY_BYTES = 256 << 20
_MOST_AROUND = _LOCAL.size + 2 * _FULL_16 + 24  # bytes of a member besides its data: header, name, extra, descriptor


class _Directory(NamedTuple):
    entries: bytes
    members: int  # number that the end record declares
    offset: int  # of the directory in the file
    shift: int  # bytes before the zip, such as the program of a self-extracting one


class _Entry(NamedTuple):
    name: str
    flags: int
    method: int
    packed_bytes: int
    size_bytes: int
    offset: int
    mode: int  # of Unix, 0 where unknown
    next: int  # offset of the next entry in the directory


def list_zip(file: BinaryFile, most: int, *, ask_each: bool = True, ask_pages: bool = True) -> Iterator[Member]:
    """Members in the order of the file. Raises `ImageError` where not all can be listed.

    Without `ask_each` a sample of the small DICOM files is asked for frames, and of files with pages. Without
    `ask_pages` none of these is.
    """
    directory = _directory(file, most)
    starts, offsets = array("q"), array("Q")
    damage: ImageError | None = None
    at = 0
    while at < len(directory.entries):
        try:
            entry = _entry(directory, at)
        except ImageError as exc:
            damage = exc
            break
        if len(starts) == most:
            raise too_many(most)
        starts.append(at)
        offsets.append(min(entry.offset, directory.offset))
        at = entry.next
    in_order = np.argsort(offsets, kind="stable")
    ends = np.append(np.asarray(offsets)[in_order], np.uint64(directory.offset))[1:]
    sample = None if ask_each else FrameSample()
    for k, end in zip(in_order, ends, strict=True):
        entry = _entry(directory, starts[k])
        if not (entry.name.endswith(("/", "\\")) and not entry.size_bytes):
            member = _member(entry, int(end))
            has_pages = ask_pages and is_paged(member.name)
            if member.refused is None and (has_pages or may_be_dicom(member.name)):
                ask = partial(_pages if has_pages else _frames, file, entry)
                frames = ask() if sample is None else sample.frames(member.name, entry.size_bytes, ask)
                member = with_frames(member, frames)
            elif member.refused is None and nifti.is_nifti(member.name):
                member = with_volume(member, _head(file, entry, NIFTI_HEAD_BYTES))
            yield member
    if damage is None and (len(starts) - directory.members) % (_FULL_16 + 1):  # zips without zip64 count modulo that
        damage = ImageError("truncated", f"its directory has {len(starts):,} of {directory.members:,} members")
    if damage is not None:
        raise damage


def unpack_zip(name: str, size_bytes: int | None, stored: bytes) -> bytes:
    """Unpack the member of that name, and check its CRC-32. Raises `ImageError`.

    Without `size_bytes` the size is that of the local header, or of the descriptor behind the member.
    """
    if len(stored) < _LOCAL.size or not stored.startswith(_LOCAL_MAGIC):
        raise ImageError("truncated", "no member begins at its place in the zip")
    _, flags, method, crc, name_bytes, extra_bytes = _LOCAL.unpack_from(stored)
    stored_name = row_name(_text(stored[_LOCAL.size : _LOCAL.size + name_bytes], flags))[0]
    if name != stored_name and not _is_repeat(name, stored_name):
        raise ImageError("truncated", f"another member, {stored_name!r}, is at its place in the zip")
    if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
        raise ImageError("unsupported", _unreadable(flags, method))
    start = _LOCAL.size + name_bytes + extra_bytes
    body = memoryview(stored)[start:]
    if size_bytes is None:
        size_bytes = _local_size(stored, flags, start, stored[_LOCAL.size + name_bytes : start], method)
    data, rest = _inflated(body, size_bytes) if method == _DEFLATED else (bytes(body[:size_bytes]), body[size_bytes:])
    if len(data) < size_bytes:
        raise ImageError("truncated", f"unpacks to {len(data):,} of {size_bytes:,} bytes")
    if zlib.crc32(data) not in _checksums(crc, flags, bytes(rest[:8])):
        raise ImageError("truncated", "its checksum does not fit; the zip is damaged")
    return data


def _local_size(stored: bytes, flags: int, start: int, extra: bytes, method: int) -> int:
    """The unpacked size by the local header and its extra field; where those leave it open, by what follows them."""
    (size_bytes,) = struct.unpack_from("<L", stored, _LOCAL_SIZE_AT)
    if not flags & _HAS_DESCRIPTOR:
        size_bytes, *_ = _zip64(extra, (size_bytes, _FULL_32, 0))
        if size_bytes != _FULL_32:
            return int(size_bytes)
    if method == _STORED:
        return _described_size(stored, start)
    return _inflated_size(memoryview(stored)[start:])


def _described_size(stored: bytes, start: int) -> int:
    """The size of a stored member by the descriptor behind it, which has the checksum of all from `start` on.

    The descriptor has a signature, unless it ends what is stored, and sizes of 4 or 8 bytes.
    """
    crc, checked, likely = 0, start, -1
    at = stored.find(_DESCRIPTOR_MAGIC, start)
    while at >= 0:
        if _describes(stored, at + len(_DESCRIPTOR_MAGIC), at - start):
            crc, checked = zlib.crc32(memoryview(stored)[checked:at], crc), at  # each byte once, of however many tries
            if crc.to_bytes(4, "little") == stored[at + 4 : at + 8]:
                return at - start
            likely = at - start  # of a damaged member, which its checksum will tell
        at = stored.find(_DESCRIPTOR_MAGIC, at + 1)
    for length in (4 + 4 + 4, 4 + 8 + 8):
        at = len(stored) - length
        if at >= start and _describes(stored, at, at - start):
            return at - start
    if likely >= 0:
        return likely
    raise ImageError("unsupported", "its size is not beside it; write the zip with deflate")


def _describes(stored: bytes, at: int, size_bytes: int) -> bool:
    """Whether a checksum, the packed and the unpacked size of a stored member are there."""
    return any(stored[at + 4 : at + 4 + 2 * width] == 2 * size_bytes.to_bytes(width, "little") for width in (4, 8))


def _inflated_size(body: memoryview) -> int:
    """The size that a deflated member unpacks to, of which a piece at a time is in memory."""
    return _inflate(body, MOST_MEMBER_BYTES, len).size_bytes


class _Inflated(NamedTuple):
    """What inflating a member gave."""

    size_bytes: int
    is_whole: bool
    rest: memoryview  # the bytes after it


def _inflate(body: memoryview, most: int, take: Callable[[bytes], object]) -> _Inflated:
    """Inflate a member, up to a byte above `most`, and give each piece to `take`. Raises `ImageError`."""
    inflater, size, at = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
    left: bytes | memoryview = b""
    try:
        while not inflater.eof and size <= most:
            if not left:  # in pieces: zlib copies what it has not come to
                left = body[at : at + _PACKED_BYTES]
                at += len(left)
            is_last = not left
            piece = inflater.decompress(left, min(_PIECE_BYTES, most + 1 - size))
            take(piece)
            left, size = inflater.unconsumed_tail, size + len(piece)
            if is_last and not piece:
                break
    except zlib.error as exc:
        raise ImageError("truncated", f"damaged: {exc}") from exc
    return _Inflated(size, inflater.eof, body[at - len(inflater.unused_data) :])


def zip_head(stored: bytes, length: int) -> bytes:
    """The first bytes of a member, from the first of those that are stored; none where they cannot be unpacked."""
    if len(stored) < _LOCAL.size or not stored.startswith(_LOCAL_MAGIC):
        return b""
    _, flags, method, _, name_bytes, extra_bytes = _LOCAL.unpack_from(stored)
    body = stored[_LOCAL.size + name_bytes + extra_bytes :]
    if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
        return b""
    try:
        return body[:length] if method == _STORED else zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, length)
    except zlib.error:
        return b""


def _inflated(body: memoryview, size_bytes: int) -> tuple[bytes, memoryview]:
    """Inflate a member: its data, and the bytes after it."""
    sink = io.BytesIO()  # gives its bytes without a second copy of them
    found = _inflate(body, size_bytes, sink.write)
    if found.size_bytes > size_bytes:
        raise ImageError("unsupported", "unpacks to more than it declares")
    if not found.is_whole:
        raise ImageError("truncated", f"ends after {found.size_bytes:,} of {size_bytes:,} bytes")
    return sink.getvalue(), found.rest


def _checksums(crc: int, flags: int, rest: bytes) -> tuple[int, ...]:
    """The valid CRC-32 values: from the header, or from the descriptor, whose signature is optional."""
    if not flags & _HAS_DESCRIPTOR:
        return (crc,)
    described = rest[4:8] if rest.startswith(_DESCRIPTOR_MAGIC) else rest[:4]
    known = (crc,) if crc else ()
    return (*known, int.from_bytes(described, "little")) if len(described) == 4 else known


def _is_repeat(name: str, stored_name: str) -> bool:
    """Whether `name` is `stored_name` with the number that the listing gives to repeated names."""
    first, _, count = name.rpartition("#")
    return first == stored_name and count.isdigit()


def _frames(file: BinaryFile, entry: _Entry) -> int:
    """The frames of a DICOM file, by few of its bytes where these tell: unpacking takes most of the time."""
    told = frames_told_by(_head(file, entry, _FIRST_HEAD_BYTES))
    return frames_of_head(_head(file, entry, HEAD_BYTES)) if told is None else told


def _pages(file: BinaryFile, entry: _Entry) -> int:
    """The pages of a TIFF or GIF file; of one that is deflated by unpacking it, in pieces, as far as they tell."""
    header = read_at(file, entry.offset, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(_LOCAL_MAGIC):
        return 1
    *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    begin = entry.offset + _LOCAL.size + name_bytes + extra_bytes

    def fetch(start: int, length: int) -> bytes:
        return read_at(file, begin + start, max(0, min(length, entry.packed_bytes - start)))

    return pages_in(fetch if entry.method == _STORED else Inflating(fetch, entry.packed_bytes), entry.size_bytes)


def _head(file: BinaryFile, entry: _Entry, length: int) -> bytes:
    """The first bytes of a member, unpacked."""
    stored = read_at(file, entry.offset, min(length + _LOCAL_BYTES, entry.packed_bytes + _MOST_AROUND))
    return zip_head(stored, length)


def _member(entry: _Entry, end: int) -> Member:
    name, refused = row_name(entry.name)
    refused = refused or _refusal(entry, end)
    if refused is not None:
        return Member(name, offset=entry.offset if entry.offset < end else None, refused=refused)
    stored_bytes = min(end - entry.offset, entry.packed_bytes + _MOST_AROUND)
    return Member(name, entry.size_bytes, entry.offset, stored_bytes)


def _refusal(entry: _Entry, end: int) -> str | None:
    if entry.mode and not stat.S_ISREG(entry.mode):
        return (
            "unsupported: is a link, which is not followed" if stat.S_ISLNK(entry.mode) else "unsupported: is no file"
        )
    if entry.flags & _ENCRYPTED or entry.method not in (_STORED, _DEFLATED):
        return str(ImageError("unsupported", _unreadable(entry.flags, entry.method)))
    if max(entry.size_bytes, entry.packed_bytes) > MOST_MEMBER_BYTES:
        return too_large(max(entry.size_bytes, entry.packed_bytes))
    if entry.offset + _LOCAL.size + entry.packed_bytes > end:
        return "truncated: overlaps another member or the directory"
    return None


def _unreadable(flags: int, method: int) -> str:
    if flags & _ENCRYPTED:
        return "is encrypted"
    return f"is compressed by method {method}; write the zip with deflate"


def _entry(directory: _Directory, at: int) -> _Entry:
    entries = directory.entries
    if len(entries) < at + _ENTRY.size or not entries.startswith(_ENTRY_MAGIC, at):
        raise ImageError("truncated", f"its directory is damaged at byte {directory.offset + at:,}")
    fields = _ENTRY.unpack_from(entries, at)
    _, system, flags, method, packed_bytes, size_bytes, name_bytes, extra_bytes, comment_bytes, mode, offset = fields
    name_end = at + _ENTRY.size + name_bytes
    if _FULL_32 in (packed_bytes, size_bytes, offset):
        extra = entries[name_end : name_end + extra_bytes]
        size_bytes, packed_bytes, offset = _zip64(extra, (size_bytes, packed_bytes, offset))
    return _Entry(
        name=_text(entries[at + _ENTRY.size : name_end], flags),
        flags=flags,
        method=method,
        packed_bytes=packed_bytes,
        size_bytes=size_bytes,
        offset=offset + directory.shift,
        mode=stat.S_IFMT(mode >> 16) if system == _UNIX else 0,
        next=name_end + extra_bytes + comment_bytes,
    )


def _zip64(extra: bytes, numbers: tuple[int, int, int]) -> Iterator[int]:
    """Size, packed size and offset. Those that do not fit in 32 bits are in the extra field 1, in this order."""
    values = b""
    while len(extra) >= 4 and not values:
        tag, length = struct.unpack_from("<HH", extra)
        values = extra[4 : 4 + length] if tag == 1 else b""
        extra = extra[4 + length :]
    for number in numbers:
        if number == _FULL_32 and len(values) >= 8:
            yield int.from_bytes(values[:8], "little")
            values = values[8:]
        else:
            yield number


def _text(name: bytes, flags: int) -> str:
    """Decode a name: as UTF-8 even without its flag, which many tools omit, else as code page 437."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode(errors="surrogateescape") if flags & _UTF8 else name.decode("cp437")


def _directory(file: BinaryFile, most: int) -> _Directory:
    """Find and read the directory. Raises `ImageError` for a damaged one, or one above the size limit."""
    size_bytes = size_of(file)
    head = read_at(file, 0, len(_LOCAL_MAGIC))
    tail_offset = max(0, size_bytes - _END.size - _FULL_16)
    tail = read_at(file, tail_offset, size_bytes - tail_offset)
    at = _find_end(tail)
    if at < 0 and head == _LOCAL_MAGIC:
        raise ImageError("truncated", "its directory is missing, as in a copy that was interrupted")
    if at < 0:
        raise ImageError("not_an_image", "is named .zip but is none")
    end, count, directory_bytes, offset = _end64(file, tail_offset + at) or _end(tail, tail_offset, at)
    if count > most:
        raise too_many(most)
    if directory_bytes > _MOST_DIRECTORY_BYTES:
        raise ImageError("too_large", f"directory of {directory_bytes:,} bytes; write several smaller files")
    shift = end - directory_bytes - offset
    # Bytes before the zip may be a program, but not members that are missing in the directory.
    if offset + shift < 0 or shift < 0 or (shift > 0 and head == _LOCAL_MAGIC):
        raise ImageError("truncated", "its directory is not where it should be; cut, or several zips in one file?")
    entries = read_at(file, offset + shift, directory_bytes)
    return _Directory(entries, count, offset + shift, shift)


def _find_end(tail: bytes) -> int:
    """Offset of the end record: the last whose comment ends with the file, else the last one; -1: none."""
    last = at = tail.rfind(_END_MAGIC, 0, max(len(tail) - _END.size + len(_END_MAGIC), 0))
    while at >= 0:
        if at + _END.size + _END.unpack_from(tail, at)[-1] == len(tail):
            return at
        at = tail.rfind(_END_MAGIC, 0, at)
    return last


def _end(tail: bytes, tail_offset: int, at: int) -> tuple[int, int, int, int]:
    """End of the directory, number of members, bytes of the directory, and its offset as declared."""
    _, disk, first_disk, _, count, directory_bytes, offset, _ = _END.unpack_from(tail, at)
    if disk or first_disk:
        raise ImageError("unsupported", "is one part of a zip of several files; join them")
    return tail_offset + at, count, directory_bytes, offset


def _end64(file: BinaryFile, end: int) -> tuple[int, int, int, int] | None:
    """The same values as `_end`, from the records of a zip64; None for another zip."""
    locator = read_at(file, end - _END64_LOCATOR.size, _END64_LOCATOR.size) if end >= _END64_LOCATOR.size else b""
    if not locator.startswith(_END64_LOCATOR_MAGIC):
        return None
    _, disk, declared, disks = _END64_LOCATOR.unpack(locator)
    if disk or disks > 1:
        raise ImageError("unsupported", "is one part of a zip of several files; join them")
    for place in (end - _END64_LOCATOR.size - _END64.size, declared):
        record = read_at(file, place, _END64.size) if 0 <= place < end else b""
        if len(record) == _END64.size and record.startswith(_END64_MAGIC):
            *_, count, directory_bytes, offset = _END64.unpack(record)
            return place, count, directory_bytes, offset
    raise ImageError("truncated", "the zip64 record of its directory is missing")
