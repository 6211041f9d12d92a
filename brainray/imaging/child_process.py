"""A process that works on bytes apart from this one, which outlives whatever they do to it.

Plain `subprocess`, for `multiprocessing` would import the main module, in a Ray worker Ray. The child's end of the
connection is its standard input; when the parent dies, however it dies, the child reads the end of it and ends.
"""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from brainray.errors import BrainrayError

from .normalise import importing_opencv

_READY = b"ready"
_START_S = 120.0  # limit for the start on an overloaded machine; normally 0.15 s
_EXIT_S = 5.0  # limit for a child to exit by itself; normally 0.05 s


class ChildProcess:
    """A running child, a module whose `main` calls `serve`, and the connection to it.

    Raises `BrainrayError` where it does not start.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._connection, theirs = Pipe()
        # -P: the working folder is no place to import from, unless it is the parent's too.
        command = [sys.executable, "-P", "-m", module, *arguments]
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

    def ask(self, content: bytes) -> object | None:
        """What the child answers; None where it died."""
        with suppress(EOFError, OSError):
            self._connection.send_bytes(content)
            answer: object = self._connection.recv()
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
    with importing_opencv:  # its folder is on `sys.path` meanwhile, whose `typing` hides Python's
        modules = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    # One thread: numpy would start one a processor, for linear algebra that decoding has none of.
    return os.environ | {"PYTHONPATH": modules, "OMP_NUM_THREADS": "1"}


def serve(answer: Callable[[bytes], object], *, timeout_s: float, most_bytes: int) -> None:
    """In the child: answer what the parent sends until it closes the connection.

    The child dies of SIGALRM after `timeout_s` with one of them, and gets no more than `most_bytes` of memory.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; only the parent decides on it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what a thread of the parent blocks, its child inherits
    _limit_memory(most_bytes)
    connection = Connection(os.dup(sys.stdin.fileno()))
    with suppress(EOFError, ConnectionError):
        connection.send_bytes(_READY)
        while True:
            content = connection.recv_bytes()
            # The kernel's timer ends a decoder that hangs, also in C code, and also when the parent is gone.
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            told = answer(content)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(told)


def _limit_memory(most_bytes: int) -> None:
    # Data, not address space, of which threads and their allocators reserve gigabytes that they never touch.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
