"""What `doctor` finds, and how it looks: checks run side by side, each for a limited time, and none spoils the others.

Of machines, clusters and locations only `doctor_machine`, `doctor_torch`, `ray_doctor` and `doctor_locations` know.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import Empty, Queue
from typing import Literal

from brainray.errors import BrainrayError, StorageError

Status = Literal["ok", "warning", "wrong"]
_SKEW_S, _BAD_SKEW_S = 60, 300  # AWS refuses what is 15 minutes off
_LONGEST_TEXT = 300  # characters of a foreign error
_CORRECT = "correct it and run this again"
_LATER = "try again later; if it stays, look at the network, the store or the disk"
_DEFECT = "run it again; if this stays, it is a defect of brainray to be reported"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the answer. A `warning` lets a run begin; what is `wrong` makes it fail."""

    check: str  # what was looked at
    status: Status
    found: str  # with the figure
    remedy: str = ""  # what to do about it; nothing where all is well


def ok(check: str, found: str) -> Finding:
    return Finding(check=check, status="ok", found=found)


def warning(check: str, found: str, remedy: str) -> Finding:
    return Finding(check=check, status="warning", found=found, remedy=remedy)


def wrong(check: str, found: str, remedy: str) -> Finding:
    return Finding(check=check, status="wrong", found=found, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Skew:
    """How far two clocks are apart, of which one was read between two readings of the other."""

    least_s: float  # that ours is ahead; negative: behind
    most_s: float

    @property
    def apart_s(self) -> float:
        """For certain."""
        return max(self.least_s, -self.most_s, 0.0)

    @property
    def within_s(self) -> float:
        return max(abs(self.least_s), abs(self.most_s))

    @property
    def ahead(self) -> bool:
        return self.least_s > 0

    @property
    def harmless(self) -> bool:
        return self.apart_s <= _SKEW_S

    def judge(self, check: str, found: str, remedy: str) -> Finding:
        """For what is not harmless."""
        return (wrong if self.apart_s > _BAD_SKEW_S else warning)(check, found, remedy)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something to look at."""

    name: str  # of findings about the check itself
    look: Callable[[], Iterable[Finding]]
    timeout_s: float = 60.0


def run_checks(checks: Sequence[Check]) -> Iterator[Finding]:
    """All findings in the order of the checks, each as soon as it is its turn.

    What hangs, as a network file system may, is left behind in its thread.
    """
    begun = [(check, _begin(check), time.monotonic() + check.timeout_s) for check in checks]
    for check, findings, deadline_s in begun:
        try:
            while (finding := findings.get(timeout=max(0.0, deadline_s - time.monotonic()))) is not None:
                yield finding
        except Empty:
            yield unanswered(check.name, check.timeout_s)


def _begin(check: Check) -> "Queue[Finding | None]":
    findings: Queue[Finding | None] = Queue()
    threading.Thread(target=_carry_out, args=(check, findings), name=check.name, daemon=True).start()
    return findings


def _carry_out(check: Check, findings: "Queue[Finding | None]") -> None:
    for finding in attempted(check.name, check.look):
        findings.put(finding)
    findings.put(None)


def attempted(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a look finds, with what it raises as the last finding: see `blamed`."""
    try:
        yield from look()
    except BrainrayError as exc:
        yield finding_of_error(check, exc)
    except Exception as exc:  # noqa: BLE001  a check that is broken must not hide what the others find
        yield wrong(check, f"could not be checked ({one_line(f'{type(exc).__name__}: {exc}')})", _DEFECT)


def finding_of_error(check: str, exc: BrainrayError, *, about: str = "", remedy: str = _CORRECT) -> Finding:
    """An error of ours: its message names a thing, what is wrong with it, and mostly after a semicolon what to do.

    The thing is left out where it is what the check, or `about`, names; `remedy` is for messages without one.
    """
    text = one_line(str(exc))
    thing, _, rest = text.partition(": ")
    found, _, advice = (rest if rest and (thing in check or thing == about) else text).partition("; ")
    passing = isinstance(exc, StorageError) and exc.reason == "read_failed"
    return wrong(check, found, advice or (_LATER if passing else remedy))


def unanswered(check: str, timeout_s: float) -> Finding:
    return wrong(check, f"no answer within {timeout_s:g} s", "see whether its network or file system hangs")


def one_line(text: str) -> str:
    """White space folded, and cut where it is very long."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1] + "…"


def counted(number: float, noun: str) -> str:
    """2, "process" -> 2 processes."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,g} {noun}{'es' if noun.endswith('s') else 's'}"


def size_text(size_bytes: float) -> str:
    """23_400_000_000 -> 23.4 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f} {unit}"
    return f"{size_bytes:.0f} bytes"


def findings_of(module: str, check: str, *arguments: str, timeout_s: int, remedy: str) -> Iterator[Finding]:
    """What the program `module` tells by `tell`: it may hang or die, and only its own check is lost."""
    # -P: the working folder is no place to import from, unless it is this process's too.
    command = [sys.executable, "-P", "-m", module, str(timeout_s), *arguments]
    modules = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    environment = os.environ | {"PYTHONPATH": modules}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, env=environment
        )
    except subprocess.TimeoutExpired as exc:
        yield from _told(exc.stdout)
        yield wrong(check, f"no answer within {timeout_s} s", remedy)
        return
    yield from _told(done.stdout)
    if done.returncode:
        last = one_line(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        yield wrong(check, f"died of it ({how})" + (f": {last}" if last else ""), remedy)


def print_findings(look: Callable[..., Iterable[Finding]]) -> None:
    """The main function of a program for `findings_of`: a line each. The kernel ends one that hangs as an orphan."""
    signal.alarm(int(sys.argv[1]) + 1)
    for finding in look(*sys.argv[2:]):
        print(json.dumps(asdict(finding)), flush=True)


def _told(output: bytes | None) -> Iterator[Finding]:
    """Lines that are none of `tell`, as libraries print them, are passed over."""
    for line in (output or b"").splitlines():
        with suppress(ValueError, TypeError):
            yield Finding(**json.loads(line))
