"""One run at a time on an output. A numbered folder says whose turn it is, and every write of that run goes through it.

`<output>/.lease/<epoch>/holder.json` names the holder; the highest epoch counts. Who takes over claims the next number,
then removes the folders before it, which are the staging of former holders' writers: those fail from then on, however
long they slept. So a wrong guess about who is alive may cost a run and never a file, and no two clocks are compared.
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

TTL_S = 60.0
BEATS = 6  # renewals in one ttl
_LOOKS = 12  # at a silent holder in one ttl
_FOLDER = ".lease"


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """What holder.json says. A field, once there, stays: versions of brainray must be able to read each other's."""

    host: str
    pid: int
    started_ticks: int | None  # since boot; a time of day would change when the clock is set
    boot_id: str | None
    pid_namespace: str | None
    purpose: str
    since: str  # ISO 8601, UTC; for people only
    renewed_s: float  # by the monotonic clock of that machine and boot
    ttl_s: float
    renewals: int
    released: bool

    def __str__(self) -> str:
        since = self.since[:19].replace("T", " ")
        return f"{self.purpose} on {self.host}, process {self.pid}, since {since} UTC"


class Lease:
    """The right to change an output, until `lost`. `hold` makes it; worker processes are given its `writer`."""

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
        """Another run has taken over, as the last heartbeat saw it: up to a sixth of the ttl late."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise `OutputHeld` where the lease is lost."""
        if self.lost:
            raise OutputHeld(f"{self._output} was taken over by another run while this one was silent, so it stopped")

    def _start(self) -> None:
        """Shut out every former holder, also those that a successor killed halfway did not come to."""
        self._heart.start()  # first, for there may be much to remove
        for epoch in _epochs(self._output):
            if epoch < self.epoch:
                storage.revoke(_folder(self._output, epoch))

    def _beat(self) -> None:
        while not self._ended.wait(self._holder.ttl_s / BEATS):
            try:
                with suppress(StorageError):  # a full disk may have room at the next beat
                    self._renew()
            except OutputHeld:
                self._lost.set()
                return

    def _renew(self) -> None:
        if max(_epochs(self._output, HEARTBEAT_POLICY), default=0) != self.epoch:
            raise OutputHeld(f"{self._output} was taken over by another run")
        self._write(replace(self._holder, renewals=self._holder.renewals + 1, renewed_s=self._clock()))

    def _end(self) -> None:
        if os.getpid() != self._holder.pid:  # a fork that leaves the block gives nothing away
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
    """Hold the output, or raise `OutputHeld`. `purpose` is what others are told the run does: "score", "train".

    Where it cannot be known whether the last holder lives, this says so and watches that one for its ttl.
    """
    lease = _claim(output, purpose, say, ttl_s, clock, sleep)
    try:
        lease._start()
        yield lease
    finally:
        lease._end()


def refuse_if_held(output: str, *, clock: Clock = time.monotonic) -> None:
    """Raise `OutputHeld` where a run that is surely alive holds the output. Neither writes nor waits."""
    epoch, holder = _read_state(output)
    if _judge(epoch, holder, clock) == "held":
        raise _refusal(output, holder)


def _claim(output: str, purpose: str, say: Say, ttl_s: float, clock: Clock, sleep: Sleep) -> Lease:
    """A killed claim leaves a small hidden folder. They stay: one that looks dead may be a claim in the making."""
    while True:
        epoch = _await_turn(output, say, ttl_s, clock, sleep) + 1
        holder = _this_process(purpose, ttl_s, clock)
        if not storage.claim(_folder(output, epoch), _record_of(holder)):
            continue
        if max(_epochs(output), default=0) == epoch:
            return Lease(output, epoch, holder, clock)
        # We slept before the claim; others came and went meanwhile, and the number was free once more.
        storage.revoke(_folder(output, epoch))


def _await_turn(output: str, say: Say, ttl_s: float, clock: Clock, sleep: Sleep) -> int:
    """The epoch to follow. Silence is counted in looks, so that a pause of our own is not held against the holder."""
    watched: tuple[int, Holder | None] | None = None
    looks = 0
    while (verdict := _judge(*(seen := _read_state(output)), clock)) == "doubtful":
        epoch, holder = seen
        if watched and watched[1] and holder and watched != seen:
            raise _refusal(output, holder)
        wait_s = holder.ttl_s if holder else ttl_s
        if watched is None or watched[0] != epoch or (holder and not watched[1]):
            watched, looks = seen, 0
            say(f"{output} is held by {holder or 'an unknown run'}; taken over in {wait_s:.0f} s unless it stirs")
        if looks == _LOOKS:
            return epoch
        looks += 1
        sleep(wait_s / _LOOKS)
    if verdict == "held":
        raise _refusal(output, seen[1])
    return seen[0]


def _refusal(output: str, holder: Holder | None) -> OutputHeld:
    return OutputHeld(f"{output} is held by another run: {holder}; wait for it to end")


def _judge(epoch: int, holder: Holder | None, clock: Clock) -> Literal["free", "held", "doubtful"]:
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
    """Of a process on this machine. One that is stopped is unknown: it may be resumed at any time, or never."""
    found = _process(holder.pid)
    if found is None:  # it has ended, or is another user's and /proc hides those
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
    """State and start of a process, the latter in clock ticks since boot: fields 3 and 22 of proc_pid_stat(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    after_name = stat[stat.rindex(b")") + 2 :].split()
    return after_name[0].decode(), int(after_name[19])


def _machine() -> tuple[str | None, str | None]:
    """Boot and process namespace: where both are the same, process ids and the monotonic clock mean the same."""
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
    """The newest epoch, 0 where there was none yet, and its holder, None where that cannot be read."""
    while True:
        epoch = max(_epochs(output), default=0)
        try:
            record = storage.read_json(storage.claim_file(_folder(output, epoch)))
            return epoch, Holder(**{field.name: record[field.name] for field in fields(Holder)})
        except (StorageError, KeyError):
            if max(_epochs(output), default=0) == epoch:  # else it was followed between the two
                return epoch, None


def _record_of(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), indent=2, ensure_ascii=False) + "\n").encode()


def _folder(output: str, epoch: int) -> str:
    return storage.join(output, _FOLDER, f"{epoch:08d}")


def _epochs(output: str, policy: RetryPolicy | None = None) -> list[int]:
    names = storage.list_names(storage.join(output, _FOLDER), policy=policy)
    return [int(name) for name in names if name.isascii() and name.isdigit()]
