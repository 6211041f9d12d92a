"""Reads from the kernel which processors and memory this process may use, and the disk below a folder.

Docker, schedulers and services limit processors and memory by control groups (cgroups, version 1 or 2), which
`os.cpu_count` and `/proc/meminfo` ignore. Changes nothing but how this process allocates memory.
"""

import ctypes
import os
import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_GROUPS = "sys/fs/cgroup"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BLOCK, _KEPT_IN_ALL = 1 << 29, (1 << 31) - 1  # bytes
_ARENAS = 2
_UNLIMITED = 1 << 60  # version 1 writes a number just below 2**63 where there is no limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Processors and memory of a machine, as far as this process may use them."""

    processors: int  # logical processors of the machine
    usable: float  # those that affinity and cgroup quotas leave; may be a fraction
    features: frozenset[str]  # CPU flags, as Linux names them
    memory_bytes: int  # RAM or the cgroup's limit, the smaller; 0: not known
    available_bytes: int  # memory that can be allocated now without swapping

    @property
    def bf16(self) -> bool:
        """Whether its processors score in bf16, see `networks.bf16_supported`."""
        return bool(self.features & {"amx_tile", "avx512_bf16"})


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next allocation; no effect with another C library.

    By default glibc returns blocks of 32 MB and more to the system, which clears the next one page by page. Networks
    whose activations are that large gain from keeping them. Images per second of lite0 at 192 px in batches of 32, on a
    virtual machine: a third more in scoring, a quarter more in training.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_M_MMAP_THRESHOLD, _KEPT_BLOCK)
        change(_M_TRIM_THRESHOLD, _KEPT_IN_ALL)


def share_freed_memory() -> None:
    """Make the threads of this process share what they free, for good; no effect with another C library.

    By default glibc keeps what a thread has freed for a few threads like it, in up to eight arenas a processor. So the
    driver's peak grew with the number of shards, by 15 % from 50,000 images to 500,000, although no more was in use.
    Call it before there are many threads, and in a process of our own.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_M_ARENA_MAX, _ARENAS)


@contextmanager
def arrow_in_malloc() -> Iterator[None]:
    """Let Arrow allocate by malloc for a while.

    Mimalloc, its default, keeps much of what each thread has freed: up to 80 MB more at the peak of a run.
    """
    import pyarrow as pa  # not needed by what else reads the machine

    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def return_freed_memory() -> None:
    """Make glibc return the pages that it keeps for later allocations; no effect with another C library."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def read_machine(root: str = "/", *, affinity: int | None = None) -> Machine:
    """Read this machine, or the one whose `/proc` and `/sys` lie below `root`.

    `affinity` is the number of processors allowed; None: as the scheduler has it.
    """
    info = _text(f"{root}proc/cpuinfo")
    processors = len(re.findall(r"^processor\s*:", info, re.M)) or os.cpu_count() or 1
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", info, re.M)
    allowed = affinity if affinity is not None else _affinity(processors)
    memory = {
        name: 1024 * int(kb) for name, kb in re.findall(r"^(\w+):\s*(\d+) kB", _text(f"{root}proc/meminfo"), re.M)
    }
    limits = [limit for folder in _groups(root, "memory") if (limit := _memory(folder)) is not None]
    total = memory.get("MemTotal", 0)
    return Machine(
        processors=processors,
        usable=min([float(allowed), *filter(None, map(_quota, _groups(root, "cpu")))]),
        features=frozenset(flags[1].split() if flags else ()),
        memory_bytes=min([total, *(limit for limit, _ in limits)]),
        available_bytes=min([memory.get("MemAvailable", total), *(left for _, left in limits)]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """The file system that a folder lies on."""

    kind: str  # as Linux names it: "ext4", "nfs4", "overlay" ...; "": not known
    free_bytes: int  # for users other than root
    total_bytes: int
    free_files: int | None  # inodes left; None: the file system has no such limit


def read_disk(folder: str, *, root: str = "/") -> Disk:
    """Read the file system of a folder. Raises `OSError` where statvfs(2) fails."""
    stat = os.statvfs(folder)
    return Disk(
        kind=_mounted(os.path.realpath(folder), _text(f"{root}proc/self/mountinfo")),
        free_bytes=stat.f_bavail * stat.f_frsize,
        total_bytes=stat.f_blocks * stat.f_frsize,
        free_files=stat.f_favail if stat.f_files else None,
    )


def tasks_left(root: str = "/", *, limit: int | None = None) -> int | None:
    """How many more processes and threads this user and its cgroups may start; None: no limit.

    `limit` is the user's; None: as the kernel has it, for which root is no user with a limit.
    """
    if limit is None and os.getuid():
        soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        limit = None if soft == resource.RLIM_INFINITY else soft
    lefts = [] if limit is None else [limit - _tasks(root, os.getuid())]
    for group in _groups(root, "pids"):
        allowed, used = _number(f"{group}/pids.max"), _number(f"{group}/pids.current")
        if allowed is not None:
            lefts.append(allowed - (used or 0))
    return min(lefts, default=None)


def _tasks(root: str, user: int) -> int:
    """The number of threads of all processes of a user."""
    statuses = (_text(f"{root}proc/{name}/status") for name in os.listdir(f"{root}proc") if name.isdigit())
    return sum(
        int(threads[1])
        for status in statuses
        if re.search(rf"^Uid:\s*{user}\b", status, re.M) and (threads := re.search(r"^Threads:\s*(\d+)", status, re.M))
    )


def has_gpu(root: str = "/") -> bool:
    """Whether Linux shows a GPU of NVIDIA (`/dev/nvidia0`) or AMD (`/dev/kfd`), without asking any library."""
    devices = Path(root) / "dev"
    return any(devices.glob("nvidia[0-9]*")) or (devices / "kfd").exists()


def has_working_folder() -> bool:
    """Whether the working folder exists; a program may run on in one that was deleted, but starts none from it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def is_writable(folder: str) -> bool:
    """Whether this user can make files in a folder, or in what it would be made in. Tries it with a nameless file."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder) or os.curdir
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _mounted(folder: str, mountinfo: str) -> str:
    """The type of the innermost mount above `folder`; of several on one mount point, the last.

    proc_pid_mountinfo(5): field 5 is the mount point, the first after the dash the type.
    """
    kind, longest = "", -1
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        if len(point) >= longest and f"{folder}/".startswith(point.rstrip("/") + "/"):
            kind, longest = after.split()[0], len(point)
    return kind


def _affinity(processors: int) -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else processors


def _groups(root: str, controller: str) -> Iterator[str]:
    """The cgroup folders of this process from the root down, for each of them may set a limit."""
    for line in _text(f"{root}proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        base = f"{root}{_GROUPS}/{names}".rstrip("/")
        parts = [part for part in path.split("/") if part]
        # In Docker the path may be the host's, of which only the last group exists, mounted as the root.
        yield from ("/".join((base, *parts[:depth])) for depth in range(len(parts) + 1))


def _quota(group: str) -> float | None:
    """The CPU quota of a cgroup, in processors; None: no limit."""
    words = _text(f"{group}/cpu.max").split() or [
        *_text(f"{group}/cpu.cfs_quota_us").split(),
        *_text(f"{group}/cpu.cfs_period_us").split(),
    ]
    if len(words) != 2 or not all(word.isdigit() for word in words) or words[1] == "0":
        return None
    return int(words[0]) / int(words[1])


def _memory(group: str) -> tuple[int, int] | None:
    """Memory limit and free memory of a cgroup in bytes; None: no limit. Page cache counts as free."""
    limit = _number(f"{group}/memory.max") or _number(f"{group}/memory.limit_in_bytes")
    if not limit or limit >= _UNLIMITED:
        return None
    used = _number(f"{group}/memory.current") or _number(f"{group}/memory.usage_in_bytes") or 0
    cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _text(f"{group}/memory.stat"), re.M)
    return limit, max(0, limit - used + (int(cached[1]) if cached else 0))


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: str) -> str:
    """The text of a file of the kernel; "" where it cannot be read."""
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""
