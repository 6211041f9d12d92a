"""Lets one run at a time write to an output: a lease with fencing.

`<output>/.lease/<epoch>/holder.json` describes the holder; the highest epoch counts. A successor claims the next epoch,
then removes the older folders, in which former holders stage their writes: those writes fail from then on, however long
the process was stopped. So a wrong guess about a holder that looks dead may end a run, but never damages a file.
Clocks of two machines are never compared.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from brainray import storage
from brainray.callbacks import Clock, Say, Sleep
from brainray.errors import OutputHeld, StorageError

from .retry import HEARTBEAT_POLICY, RetryPolicy

TTL_S = 60.0  # time to live: a holder without a heartbeat for so long may be followed
BEATS = 6  # heartbeats per TTL
_CHECKS = 12  # reads of a silent holder's record per TTL
_FOLDER = ".lease"


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The content of holder.json. No field may be removed: all versions of brainray read each other's files."""

    host: str
    pid: int
    started_ticks: (
        int | None
    )  # start of the process in clock ticks since boot, which does not change when the clock is set
    boot_id: str | None
    pid_namespace: str | None
    purpose: str
    since: str  # ISO 8601, UTC; for messages only
    renewed_s: float  # monotonic clock of that machine, seconds since its boot
    ttl_s: float
    renewals: int
    released: bool

    def __str__(self) -> str:
        since = self.since[:19].replace("T", " ")
        return f"{self.purpose} on {self.host}, process {self.pid}, since {since} UTC"


class Lease:
    """The right to write to an output, until it is `lost`. Made by `hold`; workers write through its `writer`."""

    def __init__(self, output: str, epoch: int, holder: Holder, clock: Clock) -> None:
        self.epoch = epoch
        self.writer = storage.Writer(staging=_folder(output, epoch))
        self._output = output
        self._holder = holder
        self._clock = clock
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease of {output}", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether another run has taken over. Known from the last heartbeat, so up to a sixth of the TTL late."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise `OutputHeld` where the lease is lost."""
        if self.lost:
            raise OutputHeld(f"{self._output} was taken over by another run while this one was silent, so it stopped")

    def _start(self) -> None:
        """Start the heartbeat and revoke all former leases, also those that a killed successor has left."""
        self._heart.start()  # before the removals, which may take long
        for epoch in _epochs(self._output):
            if epoch < self.epoch:
                storage.revoke(_folder(self._output, epoch))

    def _beat(self) -> None:
        while not self._ended.wait(self._holder.ttl_s / BEATS):
            try:
                with suppress(StorageError):  # such as a full disk or a throttled bucket: the next beat tries again
                    self._renew()
            except OutputHeld:
                self._lost.set()
                return

    def _renew(self) -> None:
        if max(_epochs(self._output, HEARTBEAT_POLICY), default=0) != self.epoch:
            raise OutputHeld(f"{self._output} was taken over by another run")
        self._write(replace(self._holder, renewals=self._holder.renewals + 1, renewed_s=self._clock()))

    def _end(self) -> None:
        if os.getpid() != self._holder.pid:  # a forked child that leaves the block must not release the lease
            return
        self._ended.set()
        if self._heart.is_alive():
            self._heart.join(self._holder.ttl_s)
        with suppress(OutputHeld, StorageError):
            self._write(replace(self._holder, released=True))

    def _write(self, holder: Holder) -> None:
        self._holder = holder
        storage.renew(_folder(self._output, self.epoch), _record_of(holder))


@contextmanager
def hold(
    output: str,
    *,
    purpose: str,
    say: Say,
    ttl_s: float = TTL_S,
    clock: Clock = time.monotonic,
    sleep: Sleep = time.sleep,
) -> Iterator[Lease]:
    """Hold the output, or raise `OutputHeld`. `purpose` names the command in messages: "score", "train".

    Where it cannot be known whether the last holder is alive, this prints a line and waits for that holder's TTL.
    """
    lease = _claim(output, purpose, say, ttl_s, clock, sleep)
    try:
        lease._start()
        yield lease
    finally:
        lease._end()


def refuse_if_held(output: str, *, clock: Clock = time.monotonic) -> None:
    """Raise `OutputHeld` where a run that is certainly alive holds the output. Neither writes nor waits."""
    epoch, holder = _read_state(output)
    if _liveness(epoch, holder, clock) == "held":
        raise _refusal(output, holder)


def _claim(output: str, purpose: str, say: Say, ttl_s: float, clock: Clock, sleep: Sleep) -> Lease:
    """Claim the next epoch.

    A killed claim leaves a small hidden folder. It is not removed, for it may belong to a claim in progress.
    """
    while True:
        epoch = _await_turn(output, say, ttl_s, clock, sleep) + 1
        holder = _this_process(purpose, ttl_s, clock)
        if not storage.claim(_folder(output, epoch), _record_of(holder)):
            continue
        if max(_epochs(output), default=0) == epoch:
            return Lease(output, epoch, holder, clock)
        # ABA: between reading the epoch and claiming it, another run claimed and released it. Retry.
        storage.revoke(_folder(output, epoch))


def _await_turn(output: str, say: Say, ttl_s: float, clock: Clock, sleep: Sleep) -> int:
    """Wait until the output is free, and return the epoch to follow. Raises `OutputHeld` where the holder is alive.

    A silent holder has its TTL counted in checks, not in time, so that a pause of this process does not shorten it.
    """
    watched: tuple[int, Holder | None] | None = None
    checks = 0
    while (liveness := _liveness(*(state := _read_state(output)), clock)) == "doubtful":
        epoch, holder = state
        if watched and watched[1] and holder and watched != state:
            raise _refusal(output, holder)
        wait_s = holder.ttl_s if holder else ttl_s
        if watched is None or watched[0] != epoch or (holder and not watched[1]):
            watched, checks = state, 0
            say(f"{output} is held by {holder or 'an unknown run'}; taken over in {wait_s:.0f} s unless it stirs")
        if checks == _CHECKS:
            return epoch
        checks += 1
        sleep(wait_s / _CHECKS)
    if liveness == "held":
        raise _refusal(output, state[1])
    return state[0]


def _refusal(output: str, holder: Holder | None) -> OutputHeld:
    return OutputHeld(f"{output} is held by another run: {holder}; wait for it to end")


def _liveness(epoch: int, holder: Holder | None, clock: Clock) -> Literal["free", "held", "doubtful"]:
    """Whether the holder is alive. Doubtful: a process of another machine, or one that is stopped or silent."""
    if epoch == 0 or (holder and holder.released):
        return "free"
    machine = _machine()
    if holder is None or None in machine or machine != (holder.boot_id, holder.pid_namespace):
        return "doubtful"
    state = _process_state(holder)
    if state == "gone":
        return "free"
    recent = 0 <= clock() - holder.renewed_s <= holder.ttl_s
    return "held" if state == "awake" and recent else "doubtful"


def _process_state(holder: Holder) -> Literal["gone", "awake", "unknown"]:
    """The state of a process of this machine. A stopped one is unknown: it may be resumed at any time, or never."""
    found = _process(holder.pid)
    if found is None:  # the process has ended, or belongs to another user and /proc hides it
        return "unknown" if _exists(holder.pid) else "gone"
    state, started_ticks = found
    if state in "ZXx" or started_ticks != holder.started_ticks:
        return "gone"
    return "unknown" if state in "Tt" else "awake"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _process(pid: int) -> tuple[str, int] | None:
    """State of a process, and its start in clock ticks since boot: fields 3 and 22 of proc_pid_stat(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    after_name = stat[stat.rindex(b")") + 2 :].split()
    return after_name[0].decode(), int(after_name[19])


def _machine() -> tuple[str | None, str | None]:
    """Boot id and process namespace. Where both are equal, process ids and the monotonic clock are comparable."""
    boot_id = namespace = None
    with suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return boot_id, namespace


def _this_process(purpose: str, ttl_s: float, clock: Clock) -> Holder:
    found = _process(os.getpid())
    boot_id, pid_namespace = _machine()
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        started_ticks=found[1] if found else None,
        boot_id=boot_id,
        pid_namespace=pid_namespace,
        purpose=purpose,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        renewed_s=clock(),
        ttl_s=ttl_s,
        renewals=0,
        released=False,
    )


def _read_state(output: str) -> tuple[int, Holder | None]:
    """The newest epoch (0: none yet) and its holder (None: the record cannot be read)."""
    while True:
        epoch = max(_epochs(output), default=0)
        try:
            record = storage.read_json(storage.claim_file(_folder(output, epoch)))
            return epoch, Holder(**{field.name: record[field.name] for field in fields(Holder)})
        except (StorageError, KeyError):
            if max(_epochs(output), default=0) == epoch:  # else a successor came between the two requests
                return epoch, None


def _record_of(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), indent=2, ensure_ascii=False) + "\n").encode()


def _folder(output: str, epoch: int) -> str:
    return storage.join(output, _FOLDER, f"{epoch:08d}")


def _epochs(output: str, policy: RetryPolicy | None = None) -> list[int]:
    names = storage.list_names(storage.join(output, _FOLDER), policy=policy)
    return [int(name) for name in names if name.isascii() and name.isdigit()]
