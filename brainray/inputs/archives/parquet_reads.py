"""How Arrow reads an archive: a read buffer, and the exceptions of the file told from those of damaged data."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from brainray.errors import ImageError, ImageReason

from .member import BinaryFile, read_at, size_of
from .parquet_images import NotAnArchive

MOST_GROUP_BYTES = 2 << 30


class ReadRequested(Exception):
    """A read that `ReadBuffer` was asked for while it records."""

    def __init__(self, offset: int, length: int) -> None:
        super().__init__()
        self.offset = offset
        self.length = length


class ReadBuffer:
    """A file with one range of its bytes in memory. Reads of other bytes go to the file."""

    closed = False

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self._at = 0
        self._start = 0
        self._held = b""
        self._recording = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within, reads raise `ReadRequested` and read nothing."""
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def hold(self, start: int, length: int) -> None:
        self._start, self._held = start, read_at(self._file, start, length)

    def read(self, size: int) -> bytes:
        if self._recording:
            raise ReadRequested(self._at, size)
        if size > MOST_GROUP_BYTES:
            raise ImageError("too_large", f"images of {size:,} bytes in a row group; write smaller row groups")
        within = self._at - self._start
        if within >= 0 and within + size <= len(self._held):
            data = self._held[within : within + size]
        else:
            data = read_at(self._file, self._at, size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: size_of(self._file)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        """Does nothing: the caller that opened the file closes it."""


class Watched:
    """A file that remembers its own exception, because Arrow raises `OSError` for damaged data, too."""

    closed = False

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self.failure: Exception | None = None

    def read(self, size: int) -> bytes:
        with self._failure_noted():
            return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._failure_noted():
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        with self._failure_noted():
            return self._file.tell()

    def close(self) -> None:
        """Does nothing: the caller that opened the file closes it."""

    @contextmanager
    def _failure_noted(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            self.failure = exc
            raise


@contextmanager
def arrow_errors(watched: Watched) -> Iterator[None]:
    """Turn an exception of Arrow about damaged data into `ImageError`; one of the file itself is raised again."""
    try:
        yield
    except (ImageError, NotAnArchive):
        raise
    except Exception as exc:  # damaged files raise nearly every type there is
        if watched.failure is not None:
            raise watched.failure from None
        reason: ImageReason = "unsupported" if isinstance(exc, pa.ArrowNotImplementedError) else "truncated"
        raise ImageError(reason, " ".join(str(exc).split())[:200] or type(exc).__name__) from exc
