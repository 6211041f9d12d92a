"""DICOM files that are packed as a whole: by gzip (`file.dcm.gz`), or by the deflated transfer syntax (PS3.5, A.5).

No part of them can be read without all before it, so a file with frames that are wanted is unpacked once, in memory and
up to a limit, to a file that `reading` takes.
"""

import zlib

from brainray.config import ImageSpec
from brainray.errors import ImageError

from .header import DEFLATED, HEAD_BYTES, deflated_at, frame_bytes_in, frames_told, may_be_deflated, plain_meta
from .nifti.header import GZIP
from .nifti.stream import Stream
from .sources import Fetch, Frames, within

MOST_BYTES = 4 * ImageSpec.max_pixels  # that a file unpacks to, as of single images, see `imaging.gzipped`
_STEP = 16 << 20
_PIECE_BYTES = 8 << 20  # of a read of a deflated file
_HEAD_OUT = 4 * HEAD_BYTES  # unpacked bytes in which the number of frames is searched
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


def unpack(fetch: Fetch, size_bytes: int) -> bytearray:
    """The whole file, not packed. Raises `ImageError`, and `StorageError` as `fetch` does."""
    head = fetch(0, min(size_bytes, HEAD_BYTES))
    if head.startswith(GZIP):
        unzipped = _unzip(fetch, size_bytes)
        return unpack(within(unzipped), len(unzipped)) if is_deflated(bytes(unzipped[:HEAD_BYTES])) else unzipped
    at = deflated_at(head)
    if at is None:
        raise ImageError("truncated", "its DICOM header does not say where its deflated data set begins")
    return _inflate(fetch, size_bytes, at, plain_meta(head, at))


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
    try:
        return unpacker.decompress(packed, _HEAD_OUT)
    except zlib.error:
        return b""


def _unzip(fetch: Fetch, size_bytes: int) -> bytearray:
    stream, unpacked = Stream(fetch, size_bytes), bytearray()
    while len(piece := stream.take_up_to(_STEP)):
        _check_size(len(unpacked) + len(piece))
        unpacked += piece.data
    if not stream.ends_well():
        raise ImageError("truncated", "its gzip file ends too early")
    return unpacked


def _inflate(fetch: Fetch, size_bytes: int, at: int, unpacked_meta: bytes) -> bytearray:
    unpacker, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), bytearray(unpacked_meta)
    try:
        while at < size_bytes and not unpacker.eof:
            packed = fetch(at, min(_PIECE_BYTES, size_bytes - at))
            at += len(packed) or size_bytes
            piece = packed
            # The last of its bytes may stand for more than a step; what follows the end stays in the tail for ever.
            while not unpacker.eof and (packed or len(piece) == _STEP):
                piece = unpacker.decompress(packed, _STEP)
                unpacked += piece
                _check_size(len(unpacked))
                packed = unpacker.unconsumed_tail
    except zlib.error as exc:
        raise ImageError("truncated", _DAMAGED) from exc
    if not unpacker.eof:
        raise ImageError("truncated", "its deflated data set ends too early")
    return unpacked


def _check_size(size_bytes: int) -> None:
    if size_bytes > MOST_BYTES:
        raise ImageError("too_large", f"it unpacks to more than {MOST_BYTES:,} bytes")
