"""Reads compressed tars as the stream of bytes that they unpack to, from the start on. Nothing is unpacked to a disk.

A position is one in the unpacked stream. `CompressedStreams` keeps streams open, so that one shard goes on where
another one ended.
"""

import bz2
import gzip
import io
import lzma
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, cast

import pyarrow as pa

from brainray.errors import ImageError

from .member import BinaryFile, read_at, size_of

_MAGIC_BYTES = 4
_SOURCE_BYTES = 4 << 20  # one request to a bucket
_PIECE_BYTES = 64 << 10  # unpacked at a time: where a file is damaged, at most so much before it may be lost
_KEPT_BYTES = 8 << 20  # of a stream that were unpacked last: reads that begin out of order find theirs there
_UNKNOWN_BYTES = 1 << 62  # stands for the length of a stream whose end has not been met
# A stream that unpacks to more is a bomb: images hardly shrink, and empty ones a hundredfold.
_MOST_RATIO = 1_000
_ALWAYS_ALLOWED_BYTES = 64 << 20
_NEAR_BYTES = 1 << 20  # two reads of one shard seldom lie further apart; those of another shard do
_MOST_STREAMS = 16  # as many as a worker has threads, which read a shard each
# What unpacking damaged bytes raises: zlib, bz2, lzma and Arrow have no error in common.
_DAMAGE = (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error, pa.ArrowException)


class _Source(io.RawIOBase):
    """The compressed file, read in long pieces. Keeps the error of a read, to tell it from damage."""

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self._at = 0
        self._start = 0
        self._data = b""
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        begin = self._at - self._start
        if begin >= len(self._data):
            try:
                self._start, self._data = self._at, read_at(self._file, self._at, _SOURCE_BYTES)
            except OSError as exc:
                self.error = exc
                raise
            begin = 0
        piece = self._data[begin : begin + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _unpacking(file: BinaryFile, source: _Source) -> IO[bytes]:
    magic = read_at(file, 0, _MAGIC_BYTES)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=io.BufferedReader(source)))
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(io.BufferedReader(source))
    if magic == b"\xfd7zX":
        return lzma.LZMAFile(io.BufferedReader(source))
    if magic == b"\x28\xb5\x2f\xfd":
        return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(io.BufferedReader(source), mode="r"), "zstd"))
    return cast("IO[bytes]", io.BufferedReader(source))  # a plain tar under such a name


class UnpackedFile:
    """The unpacked stream of an open file, as a `BinaryFile`: seeking goes forward, and back by 8 MiB at most.

    A read is short at the end of the stream, and where it is damaged; then `damage` says how.
    """

    def __init__(self, file: BinaryFile) -> None:
        self._source = _Source(file)
        # `read` would lose what it has unpacked already where it meets damage, such as bytes behind the end of a gzip.
        stream = _unpacking(file, self._source)
        self._read_some: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
        self._most_bytes = _MOST_RATIO * size_of(file) + _ALWAYS_ALLOWED_BYTES
        self._kept: deque[bytes] = deque()
        self._kept_from = 0
        self._unpacked = 0
        self._at = 0
        self._ended = False
        self.damage: ImageError | None = None

    @property
    def unpacked(self) -> int:
        """The number of bytes that have been unpacked."""
        return self._unpacked

    def reaches(self, offset: int) -> bool:
        """Whether the position can still be read."""
        return offset >= self._kept_from

    def seek(self, offset: int, whence: int, /) -> int:
        self._at = offset if whence == 0 else _UNKNOWN_BYTES + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int, /) -> bytes:
        """Read at the position, which `reaches` must allow. Raises `OSError` where the file itself cannot be read."""
        end = self._at + size
        while self._unpacked < self._at and self._advance():
            pass
        parts = [self._from_kept(size)]
        while self._unpacked < end and self._advance():
            parts.append(self._kept[-1][: end - self._unpacked + len(self._kept[-1])])
        data = b"".join(parts)
        self._at += len(data)
        return data

    def _from_kept(self, size: int) -> bytes:
        parts, start = [], self._kept_from
        for piece in self._kept:
            low, high = max(self._at - start, 0), self._at + size - start
            if high > 0 and low < len(piece):
                parts.append(piece[low:high])
            start += len(piece)
        return b"".join(parts)

    def _advance(self) -> bool:
        """Unpack a piece; False at the end, or at damage."""
        if self._ended:
            return False
        try:
            piece = self._read_some(_PIECE_BYTES)
        except _DAMAGE as exc:
            if self._source.error is not None:
                raise self._source.error from None
            self.damage = ImageError("truncated", f"damaged or cut off after {self._unpacked:,} unpacked bytes ({exc})")
            piece = b""
        if self._unpacked + len(piece) > self._most_bytes:
            self.damage = ImageError("too_large", f"unpacks to more than {_MOST_RATIO:,} times its size")
            piece = b""
        if not piece:
            self._ended = True
            return False
        self._kept.append(piece)
        self._unpacked += len(piece)
        while self._unpacked - self._kept_from - len(self._kept[0]) >= _KEPT_BYTES:
            self._kept_from += len(self._kept.popleft())
        return True


class _Stream:
    """An open file with its unpacked stream, and who may use it."""

    def __init__(self, key: tuple[str, str | None]) -> None:
        self.key = key
        self.raw: pa.NativeFile | None = None
        self.file: UnpackedFile | None = None
        self.busy = True
        self.used = 0

    def distance(self, key: tuple[str, str | None], start: int) -> int | None:
        """The bytes to unpack before `start`; None where this stream does not lead there."""
        if self.busy or self.key != key or self.file is None or not self.file.reaches(start):
            return None
        return max(0, start - self.file.unpacked)

    def close(self) -> None:
        if self.raw is not None:
            with suppress(OSError):
                self.raw.close()


class CompressedStreams:
    """The open streams of a worker, at most 16. Safe to share between threads: the earliest position goes first."""

    def __init__(self, open_file: Callable[[str, str | None], pa.NativeFile]) -> None:
        self._open = open_file
        self._streams: list[_Stream] = []
        self._waiting: list[tuple[tuple[str, str | None], int]] = []
        self._changed = threading.Condition()  # guards the above
        self._reads = 0

    def read(self, uri: str, version: str | None, start: int, length: int) -> bytes:
        """Unpacked bytes from `start`; fewer where the stream is damaged. Raises what opening and reading raise."""
        with self._taken((uri, version), start) as stream:
            if stream.file is None:
                stream.raw = self._open(uri, version)
                stream.file = UnpackedFile(stream.raw)
            return read_at(stream.file, start, length)

    @contextmanager
    def _taken(self, key: tuple[str, str | None], start: int) -> Iterator[_Stream]:
        stream = self._take(key, start)
        try:
            yield stream
        except BaseException:
            with self._changed:
                self._streams.remove(stream)
            stream.close()
            raise
        finally:
            with self._changed:
                stream.busy = False
                self._changed.notify_all()

    def _take(self, key: tuple[str, str | None], start: int) -> _Stream:
        with self._changed:
            ticket = (key, start)
            self._waiting.append(ticket)
            try:
                while (stream := self._chosen(key, start)) is None:
                    self._changed.wait()
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            self._reads += 1
            stream.busy, stream.used = True, self._reads
            return stream

    def _chosen(self, key: tuple[str, str | None], start: int) -> _Stream | None:
        """A stream for the read; None while it has to wait."""
        if any(other == key and earlier < start for other, earlier in self._waiting):
            return None
        led = [(gap, stream) for stream in self._streams if (gap := stream.distance(key, start)) is not None]
        near = min(led, key=lambda one: one[0], default=None)
        if near is not None and near[0] <= _NEAR_BYTES:
            return near[1]
        if any(stream.busy and stream.key == key for stream in self._streams):
            return None  # it may have unpacked these bytes last, or come near
        if near is not None:
            return near[1]
        if len(self._streams) >= _MOST_STREAMS:
            free = [stream for stream in self._streams if not stream.busy]
            if not free:
                return None
            oldest = min(free, key=lambda stream: stream.used)
            self._streams.remove(oldest)
            oldest.close()
        return self._added(key)

    def _added(self, key: tuple[str, str | None]) -> _Stream:
        stream = _Stream(key)
        self._streams.append(stream)
        return stream
