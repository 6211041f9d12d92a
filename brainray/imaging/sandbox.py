"""Decodes images in a child process, so that an image that kills its decoder is identified and gets a row.

Used for a shard that repeatedly kills its worker, by a crash inside a decoder or for lack of memory. Slower than
`decode` in the same process by 0.15 s for the start and 0.15 ms per image. The child imports no Ray and no torch.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from brainray.config import ImageSpec
from brainray.errors import BrainrayError, ImageError

from .decode import Decoded, Excluded, Header, decode, read_header

# A child may die for another reason than this image: lack of memory on the machine, or damage by the image before.
_TRIES = 2
_READY = b"ready"
_START_S = 120.0  # limit for the start on an overloaded machine; normally 0.15 s
_EXIT_S = 5.0  # limit for a child to exit by itself; normally 0.05 s
# Memory limit of the child, so that an image cannot make the system kill another process, such as the worker. The
# format with the largest need, RGBA WebP, takes 25 bytes per pixel; Python and numpy 0.1 GB, each thread of the AVIF
# decoder 8 MB of stack.
_BYTES_PER_PIXEL = 32
_SPARE_BYTES = 2 << 30


class SandboxedDecoder:
    """`decode` for one thread, with a child process behind it that starts when needed; a context manager ends it."""

    def __init__(self, spec: ImageSpec, *, excluding: tuple[str, ...] = (), timeout_s: float = 60.0) -> None:
        self._spec = spec
        self._excluding = excluding
        self._timeout_s = timeout_s
        self._child: _Child | None = None
        self._killer: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._end_child()

    def __call__(self, content: bytes) -> Decoded:
        """Decode as `decode` does. Raises what it does, or an `ImageError` about how the image killed its decoder.

        Raises `BrainrayError` where the child does not start, for which no image is the cause.
        """
        exit_code = 0
        for _ in range(_TRIES):
            self._child = self._child or _Child(self._spec, self._excluding, self._timeout_s)
            answer = self._child.ask(content)
            if isinstance(answer, ImageError | Excluded):
                raise answer
            if answer is not None:
                return answer
            exit_code = self._end_child()
            if exit_code == -signal.SIGALRM:  # a timeout would only repeat
                break
        self._killer = content
        raise ImageError("unsupported", self._describe_death(exit_code))

    def read_header(self, content: bytes) -> Header:
        """The header of an image that was refused; empty for one that killed a child, as it is read in this process."""
        return Header() if content is self._killer else read_header(content)

    def _describe_death(self, exit_code: int) -> str:
        if exit_code == -signal.SIGALRM:
            return f"its decoder took longer than {self._timeout_s:g} s"
        how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        return f"killed its decoder ({how})"

    def _end_child(self) -> int:
        child, self._child = self._child, None
        return child.end() if child else 0


class _Child:
    """A running decoder process and the connection to it.

    Plain `subprocess`, for `multiprocessing` would import the main module, in a Ray worker Ray. The child's end of the
    connection is its standard input; when the parent dies, however it dies, the child reads the end of it and ends.
    """

    def __init__(self, spec: ImageSpec, excluding: tuple[str, ...], timeout_s: float) -> None:
        self._connection, theirs = Pipe()
        # -P: the working folder is no place to import from, unless it is the parent's too.
        given = [json.dumps(spec.to_json()), json.dumps(excluding), str(timeout_s)]
        command = [sys.executable, "-P", "-m", __name__, *given]
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), env=_environment())
        if not self._ready():
            raise BrainrayError(
                f"the process to decode apart does not start (exit code {self.end()}); see the worker's log"
            )

    def _ready(self) -> bool:
        with suppress(EOFError, OSError):
            return self._connection.poll(_START_S) and self._connection.recv_bytes() == _READY
        return False

    def ask(self, content: bytes) -> Decoded | ImageError | Excluded | None:
        """The decoded image or its error; None where the child died."""
        with suppress(EOFError, OSError):
            self._connection.send_bytes(content)
            answer: Decoded | ImageError | Excluded = self._connection.recv()
            return answer
        return None

    def end(self) -> int:
        """End the child. Returns its exit code, or minus the signal that killed it."""
        self._connection.close()
        try:
            return self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _environment() -> dict[str, str]:
    """The parent's, and its modules: Ray's runtime environments and `python script.py` put folders on `sys.path`."""
    modules = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    # One thread: numpy would start one a processor, for linear algebra that decoding has none of.
    return os.environ | {"PYTHONPATH": modules, "OMP_NUM_THREADS": "1"}


def main() -> None:
    """The child process: decode images until the parent closes the connection."""
    spec, excluding, timeout_s = (
        ImageSpec.from_json(json.loads(sys.argv[1])),
        json.loads(sys.argv[2]),
        float(sys.argv[3]),
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; only the parent decides on it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what a thread of the parent blocks, its child inherits
    _limit_memory(spec)
    try:
        _serve(Connection(os.dup(sys.stdin.fileno())), spec, excluding, timeout_s)
    except (EOFError, ConnectionError):
        return


def _serve(connection: Connection, spec: ImageSpec, excluding: list[str], timeout_s: float) -> None:
    connection.send_bytes(_READY)
    while True:
        content = connection.recv_bytes()
        # The kernel's timer ends a decoder that hangs, also in C code, and also when the parent is gone.
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        answer = _decoded(content, spec, excluding)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(answer)


def _decoded(content: bytes, spec: ImageSpec, excluding: list[str]) -> Decoded | ImageError | Excluded:
    try:
        return decode(content, spec, excluding=excluding)
    except (ImageError, Excluded) as exc:
        return exc
    except MemoryError:
        return ImageError("too_large", "it takes too much memory to decode")


def _limit_memory(spec: ImageSpec) -> None:
    # Data, not address space, of which threads and their allocators reserve gigabytes that they never touch.
    limit = _SPARE_BYTES + _BYTES_PER_PIXEL * spec.max_pixels
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
