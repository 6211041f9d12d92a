"""Unpacks an image that is compressed with gzip, in memory and up to a limit."""

import zlib

from brainray.errors import ImageError

_MAGIC = b"\x1f\x8b\x08"
_STEP = 16 << 20
_BYTES_PER_PIXEL = 4  # 16 bits, and as much again for the header


def unzipped(data: bytes, max_pixels: int) -> bytes:
    """The bytes in a gzip file; those of any other file as they are. What is packed twice stays packed once.

    Raises `ImageError`: `too_large` before more is unpacked than an image of `max_pixels` may have.
    """
    if not data.startswith(_MAGIC):
        return data
    most = _BYTES_PER_PIXEL * max_pixels
    unpacked, rest = bytearray(), data
    try:
        while rest.startswith(_MAGIC):  # bgzip and pigz write several members; other bytes after the last are ignored
            member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            while not member.eof:
                unpacked += member.decompress(rest, _STEP)
                if len(unpacked) > most:
                    raise ImageError("too_large", f"its gzip file unpacks to more than {most:,} bytes")
                rest = member.unconsumed_tail
                if not rest and not member.eof:
                    raise ImageError("truncated", "its gzip file ends too early")
            rest = member.unused_data
    except zlib.error as exc:
        raise ImageError("truncated", "its gzip file is damaged") from exc
    return bytes(unpacked)
