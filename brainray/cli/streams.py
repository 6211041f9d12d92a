"""Standard streams whose failure never ends a command: what they cannot take is dropped, and the first error is kept.

A run of hours must not end because the reader of its messages has gone, a disk with a log is full, or a name cannot be
written in the encoding of the terminal.
"""

import errno
import io
import os
import select
import sys
from typing import Any, TextIO


class _Output(io.FileIO):
    """A file descriptor. What cannot be written to it is dropped; `failure` is the first error."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:  # noqa: ANN401  what has a buffer
        size = memoryview(data).nbytes
        try:
            # None: the descriptor does not block, as a terminal shared with another program, and is full now.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as exc:
            self.failure = self.failure or exc
            return size
        return int(written)


class Streams:
    """Replaces `sys.stdout` and `sys.stderr` for the rest of the process by streams that cannot fail.

    Characters outside the encoding are written as escapes. A stream that the caller has closed discards its text; its
    descriptor is opened on /dev/null, or the next file opened would take its number and get the text.
    """

    def __init__(self) -> None:
        for descriptor in range(3):
            _reserve(descriptor)
        self._output = _Output(1, "w", closefd=False)
        self._stdout = _text(self._output, sys.stdout, line_buffering=self._output.isatty())
        self._stderr = _text(_Output(2, "w", closefd=False), sys.stderr, line_buffering=True)
        sys.stdout, sys.stderr = self._stdout, self._stderr

    def flush(self) -> None:
        self._stdout.flush()
        self._stderr.flush()

    def lost(self) -> str | None:
        """Why part of the standard output is lost, after `flush`. None: it is not, or its reader wanted no more."""
        failure = self._output.failure
        if failure is None or failure.errno == errno.EPIPE:
            return None
        return failure.strerror or str(failure)


def _reserve(descriptor: int) -> None:
    """Open /dev/null on a standard descriptor that is closed."""
    try:
        os.fstat(descriptor)
        return
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
    if opened != descriptor:
        os.dup2(opened, descriptor, inheritable=True)
        os.close(opened)
    else:
        os.set_inheritable(descriptor, True)


def _is_ascii_asked() -> bool:
    """Whether the user asks for ASCII with LC_ALL=C, which Python takes for UTF-8 unless it is told otherwise."""
    told = os.environ.get("PYTHONUTF8") or os.environ.get("PYTHONIOENCODING")
    return os.environ.get("LC_ALL") in ("C", "POSIX") and not told


def _text(output: _Output, replaced: TextIO | None, *, line_buffering: bool) -> io.TextIOWrapper:
    encoding = replaced.encoding if replaced is not None else "utf-8"
    encoding = "ascii" if _is_ascii_asked() else encoding
    return io.TextIOWrapper(
        io.BufferedWriter(output), encoding=encoding, errors="backslashreplace", line_buffering=line_buffering
    )
