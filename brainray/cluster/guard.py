"""A process beside a run that starts Ray: ends and removes what Ray leaves behind, and reports an end without a word.

Ray's C++ code ends the process of a run when its raylet dies, and the kernel does when memory runs out: no code of the
run itself is executed then. When a run is stopped while Ray starts, processes are alive that Ray has no list of yet.
The guard waits until the run has ended. It is this file, run as a program, so it imports the standard library only.
"""

import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Self

_MARK = "BRAINRAY_PRIVATE_RAY"  # environment variable of all processes of a private Ray; its value is unique to a run
_ENDED = "ended"  # the last line that a guard reads of a run whose end was reported, or needs no report
_SILENT = (
    "the process was killed (memory may have run out), or Ray on this machine has died; what was finished is kept, run "
    "the same command to go on"
)
_GRACE_S = 1.0  # for the processes of a Ray that was not shut down, which end by themselves
_KILLING_S = 10.0
_POLL_S = 0.05
_NAMED_BYTES = 1 << 16  # of a message, so that a write to the pipe never waits
_TEXT, _FOLDER = b"t", b"f"  # what a line to the guard begins with: what to report, or a folder to remove, as JSON


class Guard:
    """The guard of a run. A context manager; at its end no process of the run's private Ray is alive."""

    as_json = False  # format of the line that a guard writes, for the whole process: see `--log-format`

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self._began = _ticks()

    def __enter__(self) -> Self:
        arguments = [self._mark, str(os.getpid()), str(self._began), "json" if Guard.as_json else "text"]
        # A session of its own: signals to the process group of the run do not reach it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.tell(_ENDED)
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S + _KILLING_S + 1)

    def tell(self, text: str) -> None:
        """Set what the guard writes if this process ends before `__exit__`."""
        line = " ".join(text.split()).encode(errors="backslashreplace")[:_NAMED_BYTES]
        self._write(_TEXT + line)

    def remove_at_end(self, folder: str) -> None:
        """Have the guard remove a folder once no process of the run's private Ray is alive, however the run ends."""
        self._write(_FOLDER + json.dumps(folder).encode())

    def _write(self, line: bytes) -> None:
        with suppress(OSError):  # the guard was killed
            self._process.stdin.write(line + b"\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Mark the processes started meanwhile, and all that they start. After an error they are killed at once."""
        os.environ[_MARK] = self._mark
        try:
            yield
        except BaseException:
            _kill(self._mark, os.getpid(), self._began)
            raise
        finally:
            del os.environ[_MARK]


def _ticks() -> int:
    """The time since boot in clock ticks, as the starts of processes are given."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _processes(mark: str, owner: int, began: int) -> list[int]:
    """The ids of the processes of the private Ray of `owner`: they have its mark, or write the log of its raylet.

    Agents of the raylet overwrite their environment, which Linux shows as it is in memory, by their titles. Processes
    from before `began` are of another Ray: one that this process had before, or whose starter had the same id.
    """
    wanted = f"{_MARK}={mark}".encode()
    log = re.compile(rf"/session_[-\d]+_[-\d]+_\d+_{owner}/logs/raylet\.(out|err)$")
    found = []
    for number in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(OSError):  # another user's, or gone
            if number == owner or _started(number) < began:
                continue
            if wanted in _environment(number) or any(map(log.search, _written(number))):
                found.append(number)
    return found


def _started(number: int) -> int:
    """The start of a process in clock ticks since boot: field 22 of proc_pid_stat(5)."""
    with open(f"/proc/{number}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _environment(number: int) -> list[bytes]:
    with open(f"/proc/{number}/environ", "rb") as file:
        return file.read().split(b"\0")


def _written(number: int) -> Iterator[str]:
    """Yield the paths of the files that a process has open to write."""
    for name in os.listdir(f"/proc/{number}/fd"):
        link = f"/proc/{number}/fd/{name}"
        with suppress(FileNotFoundError):
            if os.lstat(link).st_mode & stat.S_IWUSR:
                yield os.readlink(link)


def _kill(mark: str, owner: int, began: int, *, grace_s: float = 0.0) -> None:
    """Kill the processes of a private Ray, also those they start meanwhile; before that, let them end for a while."""
    began_s = time.monotonic()
    while (found := _processes(mark, owner, began)) and time.monotonic() < began_s + grace_s + _KILLING_S:
        if time.monotonic() >= began_s + grace_s:
            for number in found:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        time.sleep(_POLL_S)


def _report(text: str, log_format: str) -> None:
    if log_format == "json":
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        shown = json.dumps({"time": now, "level": "error", "event": "error", "text": text}, ensure_ascii=False)
    else:
        shown = f"brainray: {text}"
    with suppress(OSError):
        os.write(2, f"{shown}\n".encode(errors="backslashreplace"))


def _main(mark: str, owner: str, began: str, log_format: str) -> None:
    """Wait until the run closes its end of the pipe, which the kernel does too when it ends the run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    text, folders = _SILENT, []
    for line in sys.stdin.buffer:
        if line.startswith(_FOLDER):
            with suppress(ValueError):  # cut short, as the run was killed
                folders.append(json.loads(line[1:]))
        else:
            text = line[1:].decode(errors="replace").strip()
    if text != _ENDED:
        _report(text, log_format)
    # After `ray.shutdown` only workers are left, which need up to a second to take torch down and have nothing to say.
    _kill(mark, int(owner), int(began), grace_s=0.0 if text == _ENDED else _GRACE_S)
    for folder in folders:  # Ray removes what it has spilled, pixels of images among it, only where it ends by itself
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
