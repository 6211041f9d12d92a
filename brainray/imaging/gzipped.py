"""Unpacks an image that is compressed with gzip, in memory, once and up to a limit."""

import io
import zlib

from brainray.errors import ImageError

_MAGIC = b"\x1f\x8b\x08"
_STEP = 16 << 20
_PIECE = 64 << 10  # packed bytes that are unpacked at a time
_BYTES_PER_PIXEL = 4  # 16 bits, and as much again for the header


def unzipped(data: bytes, max_pixels: int) -> bytes:
    """The bytes in a gzip file; those of any other file as they are. What is packed twice stays packed once.

    Raises `ImageError`: `too_large` before more is unpacked than an image of `max_pixels` may have.
    """
    if not data.startswith(_MAGIC):
        return data
    most = _BYTES_PER_PIXEL * max_pixels
    packed, start = memoryview(data), 0
    unpacked = io.BytesIO()  # gives its bytes without a second copy of them
    try:
        while packed[start : start + len(_MAGIC)] == _MAGIC:  # bgzip and pigz write several members
            start = _unpack_member(packed, start, unpacked, most)  # other bytes after the last one are ignored
    except zlib.error as exc:
        raise ImageError("truncated", "its gzip file is damaged") from exc
    return unpacked.getvalue()


def _unpack_member(packed: memoryview, start: int, unpacked: io.BytesIO, most: int) -> int:
    """Unpack the member that begins at `start`, and give its end. Raises `ImageError` and `zlib.error`."""
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    at = start
    left: bytes | memoryview = b""
    while not member.eof:
        if not left:
            # In pieces: zlib copies what follows a member, for each of many small ones all that is left of the file.
            left = packed[at : at + _PIECE]
            at += len(left)
        if not left:
            raise ImageError("truncated", "its gzip file ends too early")
        unpacked.write(member.decompress(left, _STEP))
        if unpacked.tell() > most:
            raise ImageError("too_large", f"its gzip file unpacks to more than {most:,} bytes")
        left = member.unconsumed_tail
    return at - len(member.unused_data)
