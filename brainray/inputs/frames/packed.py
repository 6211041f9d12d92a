"""DICOM files that are packed as a whole: by gzip (`file.dcm.gz`), or by the deflated transfer syntax (PS3.5, A.5).

No part of them can be read without all before it, so a file with frames that are wanted is unpacked once, in memory and
up to a limit, to a file that `reading` takes.
"""

import io
import zlib
from collections.abc import Iterator
from contextlib import suppress

from brainray.config import ImageSpec
from brainray.errors import ImageError

from .header import DEFLATED, HEAD_BYTES, deflated_at, frame_bytes_in, frames_told, may_be_deflated, plain_meta
from .nifti.header import GZIP
from .nifti.stream import Stream
from .sources import Fetch, Frames

MOST_BYTES = 4 * ImageSpec.max_pixels  # that a file unpacks to, as of single images, see `imaging.gzipped`
_STEP = 16 << 20
_PIECE_BYTES = 8 << 20  # of a read of a deflated file
_HEAD_OUT = 4 * HEAD_BYTES  # unpacked bytes in which the number of frames is searched
_HEAD_STEP = 1 << 10  # packed bytes; of a piece that is damaged nothing is unpacked
_SYNTAX_IN = 4096  # bytes in which a transfer syntax is searched when a file is listed; it stands in the first 500
_DAMAGED = "its deflated data set is damaged"


def frames_of_head(head: bytes) -> int:
    """The number of frames by the first bytes of a file, as `frames_in`; also of a packed one."""
    found = frames_told_by(head)
    return 1 if found is None else found


def frames_told_by(head: bytes) -> int | None:
    """As `frames_of_head`; None where the bytes end before they tell, or are damaged."""
    plain = _plain_head(head)
    if plain is None:
        return frames_told(head)
    found = frames_told(plain)
    return None if found is None else Frames(found, packed=True, each_bytes=frame_bytes_in(plain))


def is_packed(head: bytes) -> bool:
    """Whether a file is packed as a whole, by its first bytes."""
    return head.startswith(GZIP) or is_deflated(head)


def is_deflated(head: bytes) -> bool:
    """Whether pydicom would unpack a file, which it does without a limit."""
    return deflated_at(head) is not None or may_be_deflated(head)


def unpack(fetch: Fetch, size_bytes: int) -> bytes:
    """The whole file, not packed; one copy of it is in memory at a time.

    Raises `ImageError`, and `StorageError` as `fetch` does.
    """
    head = fetch(0, min(size_bytes, HEAD_BYTES))
    if head.startswith(GZIP):
        return _unzip(Stream(fetch, size_bytes))
    at = _deflated_at(head)
    return _inflate(_fetched(fetch, at, size_bytes), plain_meta(head, at))


def _deflated_at(head: bytes) -> int:
    at = deflated_at(head)
    if at is None:
        raise ImageError("truncated", "its DICOM header does not say where its deflated data set begins")
    return at


def _plain_head(head: bytes) -> bytes | None:
    """The first bytes of a packed file, unpacked; None for one that is not packed. Those of a damaged one end early."""
    if head.startswith(GZIP):
        unzipped = _begun(zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), head)
        plain = _plain_head(unzipped) if not unzipped.startswith(GZIP) else None
        return unzipped if plain is None else plain
    at = deflated_at(head) if DEFLATED.encode() in head[:_SYNTAX_IN] else None
    if at is None:
        return None
    return plain_meta(head, at) + _begun(zlib.decompressobj(-zlib.MAX_WBITS), head[at:])


def _begun(unpacker: "zlib._Decompress", packed: bytes) -> bytes:
    """The unpacked beginning, also of what is damaged further on."""
    begun = b""
    with suppress(zlib.error):
        for at in range(0, len(packed), _HEAD_STEP):
            begun += unpacker.decompress(packed[at : at + _HEAD_STEP])
            if len(begun) >= _HEAD_OUT:
                break
    return begun[:_HEAD_OUT]


def _unzip(stream: Stream) -> bytes:
    """What is in a gzip file; where that is a deflated file, it is unpacked on the way, and never held itself."""
    head = stream.take_up_to(HEAD_BYTES).tobytes()
    if is_deflated(head):
        at = _deflated_at(head)
        found = _inflate(_rest(stream, head[at:]), plain_meta(head, at))
        for _ in _rest(stream, b""):  # to its checksum
            _check_size(stream.position)
    else:
        unpacked = io.BytesIO()
        for piece in _rest(stream, head):
            unpacked.write(piece)
            _check_size(unpacked.tell())
        found = unpacked.getvalue()
    if not stream.ends_well():
        raise ImageError("truncated", "its gzip file ends too early")
    return found


def _rest(stream: Stream, head: bytes) -> Iterator[bytes | memoryview]:
    """What was taken of a stream, and then the rest of it."""
    yield head
    while len(piece := stream.take_up_to(_STEP)):
        yield piece.data


def _fetched(fetch: Fetch, at: int, size_bytes: int) -> Iterator[bytes]:
    while at < size_bytes and (packed := fetch(at, min(_PIECE_BYTES, size_bytes - at))):
        yield packed
        at += len(packed)


def _inflate(pieces: Iterator[bytes | memoryview], unpacked_meta: bytes) -> bytes:
    """What the pieces of a deflated data set unpack to, behind the first group."""
    unpacker, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
    unpacked.write(unpacked_meta)
    try:
        for packed in pieces:
            piece = packed
            # The last of its bytes may stand for more than a step; what follows the end stays in the tail for ever.
            while not unpacker.eof and (packed or len(piece) == _STEP):
                piece = unpacker.decompress(packed, _STEP)
                unpacked.write(piece)
                _check_size(unpacked.tell())
                packed = unpacker.unconsumed_tail
            if unpacker.eof:
                return unpacked.getvalue()
    except zlib.error as exc:
        raise ImageError("truncated", _DAMAGED) from exc
    raise ImageError("truncated", "its deflated data set ends too early")


def _check_size(size_bytes: int) -> None:
    if size_bytes > MOST_BYTES:
        raise ImageError("too_large", f"it unpacks to more than {MOST_BYTES:,} bytes")
