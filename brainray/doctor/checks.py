"""Runs the checks of `brainray doctor` side by side, each with a time limit, and holds what they find.

A check that hangs, raises or crashes its process becomes a finding and never hides the findings of others. Must not
know any particular check: those are in `machine`, `gpu`, `inputs`, `output`, `nodes` and `brainray.cluster.doctor`.
Functions named `check_*` read or probe something; `assess_*` only turn what was read into findings.
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
from brainray.machine.hardware import has_working_folder

Status = Literal["ok", "warning", "wrong"]
_SKEW_S, _BAD_SKEW_S = 60, 300  # clock differences to warn of, to report as wrong; AWS refuses 900 s
_LONGEST_TEXT = 300  # characters of a foreign error
_CORRECT = "correct it and run this again"
_LATER = "try again later; if it stays, look at the network, the store or the disk"
_DEFECT = "run it again; if this stays, it is a defect of brainray to be reported"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One result of a check. With a `warning` a run can begin; with a `wrong` it will fail."""

    check: str  # name of the check, with the thing it is about
    status: Status
    found: str  # the state, with its figure
    remedy: str = ""  # what the user should do; "" where the status is ok


def ok(check: str, found: str) -> Finding:
    """Make a finding that needs no action."""
    return Finding(check=check, status="ok", found=found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """Make a finding that lets a run begin."""
    return Finding(check=check, status="warning", found=found, remedy=remedy)


def wrong(check: str, found: str, remedy: str) -> Finding:
    """Make a finding that makes a run fail."""
    return Finding(check=check, status="wrong", found=found, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Skew:
    """Difference between this machine's clock and another one, as bounds.

    The other clock was read between two readings of this one, so only bounds are known.
    """

    least_s: float  # seconds by which this clock is ahead at least; negative: behind
    most_s: float  # seconds by which it is ahead at most

    @property
    def apart_s(self) -> float:
        """Smallest possible difference in seconds."""
        return max(self.least_s, -self.most_s, 0.0)

    @property
    def most_apart_s(self) -> float:
        """Largest possible difference in seconds."""
        return max(abs(self.least_s), abs(self.most_s))

    @property
    def ahead(self) -> bool:
        """Whether this clock is certainly ahead."""
        return self.least_s > 0

    @property
    def harmless(self) -> bool:
        """Whether the difference needs no finding."""
        return self.apart_s <= _SKEW_S

    def finding(self, check: str, found: str, remedy: str) -> Finding:
        """Make the finding for a difference that is not harmless: wrong above 300 s, else a warning."""
        return (wrong if self.apart_s > _BAD_SKEW_S else warning)(check, found, remedy)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check to run."""

    name: str  # used for findings about the check itself, such as a timeout
    run: Callable[[], Iterable[Finding]]
    timeout_s: float = 60.0


def run_checks(checks: Sequence[Check]) -> Iterator[Finding]:
    """Run all checks at once; yields their findings in the order of the checks, each as early as that order allows.

    A check that hangs, for example on a network file system, is left behind in its daemon thread.
    """
    started = [(check, _start(check), time.monotonic() + check.timeout_s) for check in checks]
    for check, findings, deadline_s in started:
        try:
            while (finding := findings.get(timeout=max(0.0, deadline_s - time.monotonic()))) is not None:
                yield finding
        except Empty:
            yield unanswered(check.name, check.timeout_s)


def _start(check: Check) -> "Queue[Finding | None]":
    findings: Queue[Finding | None] = Queue()
    threading.Thread(target=_run, args=(check, findings), name=check.name, daemon=True).start()
    return findings


def _run(check: Check, findings: "Queue[Finding | None]") -> None:
    for finding in guarded(check.name, check.run):
        findings.put(finding)
    findings.put(None)


def guarded(check: str, run: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of `run`; an exception becomes the last finding (see `finding_of_error`)."""
    try:
        yield from run()
    except BrainrayError as exc:
        yield finding_of_error(check, exc)
    except Exception as exc:  # noqa: BLE001  a check that is broken must not hide what the others find
        yield wrong(check, f"could not be checked ({one_line(f'{type(exc).__name__}: {exc}')})", _DEFECT)


def finding_of_error(check: str, exc: BrainrayError, *, about: str = "", remedy: str = _CORRECT) -> Finding:
    """Turn an error of brainray, whose message reads "thing: problem; advice", into a finding.

    The thing is left out where the name of the check, or `about`, has it already. `remedy` is used for messages
    without advice.
    """
    text = one_line(str(exc))
    thing, _, rest = text.partition(": ")
    found, _, advice = (rest if rest and (thing in check or thing == about) else text).partition("; ")
    passing = isinstance(exc, StorageError) and exc.reason == "read_failed"
    return wrong(check, found, advice or (_LATER if passing else remedy))


def unanswered(check: str, timeout_s: float) -> Finding:
    """Make the finding for a check that ran into its time limit."""
    return wrong(check, f"no answer within {timeout_s:g} s", "see whether its network or file system hangs")


def one_line(text: str) -> str:
    """Put a text on one line and cut it at 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1] + "…"


def counted(number: float, noun: str) -> str:
    """Format a number with its noun: 2, "process" -> "2 processes"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,g} {noun}{'es' if noun.endswith('s') else 's'}"


def size_text(size_bytes: float) -> str:
    """Format a size: 23_400_000_000 -> "23.4 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f} {unit}"
    return f"{size_bytes:.0f} bytes"


def findings_of(module: str, check: str, *arguments: str, timeout_s: int, remedy: str) -> Iterator[Finding]:
    """Run `python -m module` and yield the findings it prints with `print_findings`.

    The program may hang or crash: that costs only its own check, and becomes a finding with `remedy`.
    """
    # -P: the program must not import from the working folder, unless this process does so too.
    command = [sys.executable, "-P", "-m", module, str(timeout_s), *arguments]
    modules = os.pathsep.join(folder or os.getcwd() for folder in sys.path if folder or has_working_folder())
    environment = os.environ | {"PYTHONPATH": modules}
    try:
        process = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env=environment,
            cwd=None if has_working_folder() else "/",
        )
    except subprocess.TimeoutExpired as exc:
        yield from _parsed(exc.stdout)
        yield wrong(check, f"no answer within {timeout_s} s", remedy)
        return
    yield from _parsed(process.stdout)
    if process.returncode:
        last = one_line(process.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        yield wrong(check, f"died of it ({how})" + (f": {last}" if last else ""), remedy)


def print_findings(run: Callable[..., Iterable[Finding]]) -> None:
    """Main function of a program for `findings_of`: prints each finding as a line of JSON.

    An alarm ends the program if it hangs after its parent has died.
    """
    signal.alarm(int(sys.argv[1]) + 1)
    for finding in run(*sys.argv[2:]):
        print(json.dumps(asdict(finding)), flush=True)


def _parsed(output: bytes | None) -> Iterator[Finding]:
    """Read findings from printed lines; lines that libraries print are skipped."""
    for line in (output or b"").splitlines():
        with suppress(ValueError, TypeError):
            yield Finding(**json.loads(line))
