"""Reads a NIfTI file from its beginning on, packed by gzip or not, as the bytes that it unpacks to.

A file of up to 32 MiB takes one request, a larger one a request for each 32 MiB up to the last byte that is wanted.
"""

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from brainray.errors import ImageError

from .header import GZIP

REQUEST_BYTES = 32 << 20
MOST_RATIO = 1_100  # deflate packs to a 1,032th at best
_PIECE_BYTES = 64 << 10  # packed bytes that are unpacked at a time

Fetch = Callable[[int, int], bytes]  # start, length -> bytes of the file as it is stored


class Stream:
    """The unpacked bytes of a file in order. Raises `StorageError` as `fetch` does."""

    def __init__(self, fetch: Fetch, size_bytes: int) -> None:
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._fetched_to = 0
        self._held = memoryview(b"")
        self._back = memoryview(b"")  # what was fetched before it, and not used
        self._back = self._piece(_PIECE_BYTES)
        self._unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16) if self._back[:2] == GZIP else None
        self.position = 0  # in the unpacked bytes

    def skip_to(self, position: int) -> None:
        """Go forward. Raises `truncated`."""
        while self.position < position:
            self.take(min(position - self.position, REQUEST_BYTES))

    def take(self, length: int) -> NDArray[np.uint8]:
        """The next bytes. Raises `truncated` where there are fewer, and for a gzip stream that is damaged."""
        taken = self.take_up_to(length)
        if len(taken) < length:
            raise ImageError("truncated", f"it ends after {self.position:,} unpacked bytes")
        return taken

    def take_up_to(self, length: int) -> NDArray[np.uint8]:
        """The next bytes, or those that are left. Raises `truncated` for a gzip stream that is damaged."""
        taken, done = np.empty(length, np.uint8), 0
        while done < length and (piece := self._unpacked(length - done)):
            taken[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
            self.position += len(piece)
        return taken[:done]

    def ends_well(self) -> bool:
        """Whether a file whose last byte was taken has the end of its gzip stream, if it is one.

        Raises `truncated` where the checksum differs.
        """
        return self._unpacker is None or bool(self._unpacked(1)) or self._unpacker.eof

    def _unpacked(self, most: int) -> bytes | memoryview:
        """Some of the next bytes; none at the end."""
        if self._unpacker is None:
            return self._piece(most)
        while True:
            if self._unpacker.eof and not self._next_member():
                return b""
            packed = self._unpacker.unconsumed_tail or self._piece(_PIECE_BYTES)
            if not packed:
                return b""
            try:
                piece = self._unpacker.decompress(packed, most)
            except zlib.error as exc:
                raise ImageError("truncated", f"its gzip stream is damaged near byte {self.position:,}") from exc
            if piece:
                return piece

    def _next_member(self) -> bool:
        """Go on with the next of several gzip streams, as parallel compressors write; False where there is none."""
        rest = self._unpacker.unused_data if self._unpacker else b""
        self._back = memoryview(rest if len(rest) > 1 else rest + self._piece(_PIECE_BYTES))
        if self._back[:2] != GZIP:
            return False
        self._unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        return True

    def _piece(self, most: int) -> memoryview:
        """Stored bytes, at most so many; none at the end of the file."""
        if self._back:
            piece, self._back = self._back[:most], self._back[most:]
            return piece
        if not self._held and self._fetched_to < self._size_bytes:
            length = min(REQUEST_BYTES, self._size_bytes - self._fetched_to)
            self._held = memoryview(self._fetch(self._fetched_to, length))
            self._fetched_to += length
        piece, rest = self._held[:most], self._held[most:]
        self._held = rest or memoryview(b"")  # an empty view of what was fetched would keep it in memory
        return piece
