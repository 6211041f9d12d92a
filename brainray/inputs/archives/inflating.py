"""Reads parts of a deflated member of a zip while it is listed, without all of it in memory."""

import zlib

from brainray.inputs.frames.sources import Fetch

_PACKED_BYTES = 256 << 10  # that are read at a time
_BACK_BYTES = 1 << 20  # unpacked bytes before a part that stay
_MOST_TURNS = 2  # beginnings of one member: what leads back again and again takes no time without end


class Inflating:
    """Fetches parts of what a member unpacks to. A part far before the last one takes a new beginning.

    A part is short at the end, at damage, and where it would take too many beginnings.
    """

    def __init__(self, fetch: Fetch, packed_bytes: int) -> None:
        """`fetch` has the deflated bytes."""
        self._fetch, self._packed_bytes = fetch, packed_bytes
        self._turns = 0
        self._begin()

    def __call__(self, start: int, length: int) -> bytes:
        if start < self._held_from:
            if self._turns >= _MOST_TURNS:
                return b""
            self._begin()
        while self._held_from + len(self._held) < start + length and (piece := self._piece()):
            kept = max(0, min(start - _BACK_BYTES - self._held_from, len(self._held)))
            del self._held[:kept]
            self._held_from += kept
            self._held += piece
        return bytes(self._held[start - self._held_from :][:length])

    def _begin(self) -> None:
        self._turns += 1
        self._unpacker, self._left, self._at = zlib.decompressobj(-zlib.MAX_WBITS), b"", 0
        self._held, self._held_from = bytearray(), 0

    def _piece(self) -> bytes:
        """Some of the next bytes; none at the end, and at damage."""
        while not self._unpacker.eof:
            if not self._left:
                self._left = self._fetch(self._at, min(_PACKED_BYTES, self._packed_bytes - self._at))
                self._at += len(self._left)
            is_last = not self._left
            try:
                piece = self._unpacker.decompress(self._left, _BACK_BYTES)
            except zlib.error:
                return b""
            self._left = self._unpacker.unconsumed_tail
            if piece or is_last:
                return piece
        return b""
