"""What a Ray on this machine needs to start: a folder for its sockets, open files, processes, the loopback network.

`brainray doctor` reports it; a command that starts Ray refuses to where it is missing, instead of waiting for Ray.
"""

import os
import resource
import socket
import sys
from collections.abc import Iterator, Mapping

from brainray.errors import BadRequest
from brainray.machine.hardware import Machine, is_writable, read_disk, tasks_left

from .checks import Finding, ok, size_text, warning, wrong

SHARED_MEMORY = "/dev/shm"
_SESSION = "session_2026-01-31_00-00-00_000000_4194304"  # with the largest process id
_LONGEST_SOCKET = 107  # bytes in the path of a Unix socket
_FEW_FILES, _TOO_FEW_FILES = 4096, 256  # Ray warns below the former; 64 reads at a time need more than the latter
_RAISED_TO = 65536  # soft limit of open files that Ray sets where the hard limit allows
# Threads and processes of a run: 251 on two processors, where it hung with 200.
_TASKS, _TASKS_A_PROCESSOR = 150, 50
# Bytes of virtual memory. Ray's raylet reserves 7 GB and the memory for objects, a worker 2 GB and that; with 6.1 GB
# each Ray gave up after 42 s.
_TOO_LITTLE_ADDRESSES, _FEW_ADDRESSES = 6 << 30, 16 << 30
_ANSWER_S = 5.0


def session_folder(environment: Mapping[str, str] = os.environ) -> str:
    """Choose the folder for logs, sockets and spilled objects of a local Ray: `ray` below RAY_TMPDIR, TMPDIR or /tmp.

    TMPDIR is passed over where Ray could not use it, and a folder `ray` of another user. Raises `BadRequest` where no
    folder remains; one that RAY_TMPDIR names is never passed over.
    """
    named = environment.get("RAY_TMPDIR")
    roots = [named] if named else [environment.get("TMPDIR") or "/tmp", "/tmp", "/var/tmp"]
    problems = []
    for root in map(os.path.abspath, roots):
        for folder in (f"{root}/ray", f"{root}/ray-{os.getuid()}"):
            problem = _unfit(folder)
            if problem is None:
                return folder
            problems.append(problem)
    raise BadRequest(
        f"{problems[0]}; set {'RAY_TMPDIR' if named else 'TMPDIR'} to a short folder that this user may write to"
    )


def _unfit(folder: str) -> str | None:
    """Why Ray cannot use a folder; None where it can."""
    longest = len(os.fsencode(f"{folder}/{_SESSION}/sockets/plasma_store"))
    if longest > _LONGEST_SOCKET:
        return f"{folder} is too long for the sockets in it ({longest} bytes, {_LONGEST_SOCKET} allowed)"
    return None if is_writable(folder) else f"{folder} cannot be written to"


def shared_memory_bytes(folder: str = SHARED_MEMORY) -> int:
    """The free bytes of shared memory for Ray's objects; 0 where none can be used."""
    return read_disk(folder).free_bytes if os.path.isdir(folder) and is_writable(folder) else 0


def check_open_files() -> Iterator[Finding]:
    """Check the limit of open files; Ray raises the soft limit up to 65,536 where the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    limit = max(limit, _RAISED_TO if hard == resource.RLIM_INFINITY else min(hard, _RAISED_TO))
    remedy = f"ulimit -n {_RAISED_TO} before the run, or LimitNOFILE={_RAISED_TO} in its service"
    if limit < _TOO_FEW_FILES:
        yield wrong("open files", f"at most {limit:,}, too few for 64 reads at a time", remedy)
    elif limit < _FEW_FILES:
        yield warning("open files", f"at most {limit:,}; connections may fail", remedy)
    else:
        yield ok("open files", f"at most {limit:,}")


def check_address_space() -> Iterator[Finding]:
    """Check the limit of virtual memory (`ulimit -v`): Ray reserves much more than it uses, and dies for want of it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    remedy = "ulimit -v unlimited before the run (in a queue h_rss in place of h_vmem); limit memory by a cgroup"
    if soft == resource.RLIM_INFINITY:
        yield ok("virtual memory", "no limit")
    elif soft < _TOO_LITTLE_ADDRESSES:
        yield wrong("virtual memory", f"at most {size_text(soft)} a process; Ray reserves more", remedy)
    elif soft < _FEW_ADDRESSES:
        yield warning("virtual memory", f"at most {size_text(soft)} a process; Ray may reserve more", remedy)
    else:
        yield ok("virtual memory", f"at most {size_text(soft)} a process")


def check_tasks(left: int | None, processors: float) -> Iterator[Finding]:
    """Check how many processes and threads may be started, `left`; None: any number. Ray hangs where it lacks some."""
    if left is None:
        yield ok("processes", "no limit")
        return
    wanted, least = (_TASKS + int(_TASKS_A_PROCESSOR * count) for count in (processors, min(processors, 2)))
    remedy = "raise `ulimit -u`, or pids.max of the container (--pids-limit)"
    if left < least:
        yield wrong("processes", f"{left:,} more processes and threads allowed, Ray needs {least:,}", remedy)
    elif left < wanted:
        yield warning("processes", f"{left:,} more processes and threads allowed, Ray may need {wanted:,}", remedy)
    else:
        yield ok("processes", f"{left:,} more processes and threads allowed")


def check_loopback(host: str = "127.0.0.1") -> Iterator[Finding]:
    """Check that processes of this machine reach each other, which Ray waits for without end."""
    try:
        with (
            socket.create_server((host, 0)) as server,
            socket.create_connection(server.getsockname()[:2], timeout=_ANSWER_S),
        ):
            yield ok("loopback network", f"{host} answers")
    except OSError as exc:
        found = f"no connection to {host}, this machine itself ({exc.strerror or exc})"
        yield wrong("loopback network", found, "bring the network of this machine or container up: ip link set lo up")


def require(machine: Machine) -> None:
    """Raise `BadRequest` where a local Ray could not start or work; says what `brainray doctor` says."""
    tasks = check_tasks(tasks_left(), machine.usable)
    for finding in (*check_open_files(), *check_address_space(), *tasks, *check_loopback()):
        if finding.status == "wrong":
            raise BadRequest(f"{finding.check}: {finding.found}; {finding.remedy}")
