"""A DICOM file with a deflated data set (PS3.5, A.5), which pydicom reads from its beginning on as any other file.

pydicom by itself unpacks all of it, without a limit, and then copies the pixels out of that.
"""

import io
import zlib

from brainray.errors import ImageError

_BACK = 1 << 20  # bytes that can be read again; pydicom steps back where it looks for an end
_SMALL = 256 << 10  # at least so many bytes are unpacked at a time
_STEP = 16 << 20
_PIECE = 64 << 10  # packed bytes that are unpacked at a time


class InflatedFile:
    """Unpacks as it is read: a value takes its own size in memory, the file takes none beside it."""

    def __init__(self, begin: bytes, packed: memoryview, most_bytes: int) -> None:
        """`begin` are the bytes before the data set, `packed` is the deflated data set."""
        self._held, self._held_from, self._at = begin, 0, 0
        self._packed, self._left = packed, b""
        self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        self._unpacked = 0
        self._most_bytes = most_bytes

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place. Raises `OSError` for one far back, or seen from the end."""
        place = offset + (self._at if whence == 1 else 0)
        if whence == 2 or place < self._held_from:
            raise OSError("such a place of a deflated file is not kept")
        self._at = place
        return place

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, fewer at the end. Raises `ImageError`: `too_large` above the limit, `truncated`."""
        size = self._most_bytes if size < 0 else size
        while self._end < self._at + min(size, _SMALL) and (piece := self._piece(_SMALL)):
            kept = self._held[max(0, min(len(self._held) - _BACK, self._at - self._held_from)) :]
            self._held_from = self._end - len(kept)
            self._held = kept + piece
        found = self._held[self._at - self._held_from :][:size] if self._at <= self._end else b""
        if len(found) < size and self._at + len(found) == self._end:
            found = self._long(found, size)
        self._at += len(found)
        return found

    @property
    def _end(self) -> int:
        return self._held_from + len(self._held)

    def _long(self, begin: bytes, size: int) -> bytes:
        """Bytes of which only the first ones are held; a sink gives its bytes without a second copy of them."""
        sink = io.BytesIO()
        sink.write(begin)
        while sink.tell() < size and (piece := self._piece(min(_STEP, size - sink.tell()))):
            sink.write(piece)
        found = sink.getvalue()
        end = self._at + len(found)
        self._held = (self._held + found[len(begin) :][-_BACK:])[-_BACK:] if len(found) < _BACK else found[-_BACK:]
        self._held_from = end - len(self._held)
        return found

    def _piece(self, most: int) -> bytes:
        """Some of the next unpacked bytes; none at the end."""
        while not self._unpacker.eof:
            if not self._left:
                self._left, self._packed = bytes(self._packed[:_PIECE]), self._packed[_PIECE:]
            at_end = not self._left
            try:
                piece = self._unpacker.decompress(self._left, most)
            except zlib.error as exc:
                raise ImageError("truncated", "its deflated data set is damaged") from exc
            self._left = self._unpacker.unconsumed_tail
            self._unpacked += len(piece)
            if self._unpacked > self._most_bytes:
                raise ImageError("too_large", f"its data set unpacks to more than {self._most_bytes:,} bytes")
            if piece:
                return piece
            if at_end:
                raise ImageError("truncated", "its deflated data set ends too early")
        return b""
