"""Makes sure that a job runs in a Python that has brainray's packages. Uses the standard library of any Python 3 only.

A job's `python` is the first one on the PATH of the head. Where Ray was started from an environment that was not
activated, that is another one than Ray's own, which has the packages.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

# What the dependencies in pyproject.toml are imported as; a test compares.
PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "numpy",
    "packaging",
    "PIL",
    "pyarrow",
    "sklearn",
    "scipy",
    "cv2",
    "faiss",
    "duckdb",
    "boto3",
    "obstore",
    "matplotlib",
    "safetensors",
    "jinja2",
    "typer",
    "rich",
)
OLDEST = (3, 11)
_WORKER = b"--python_worker_command="  # in the command line of a raylet: how it starts Python
_LEFT = "BRAINRAY_LEFT_PYTHON"  # the interpreter that this process ran before; so that it changes once
_EXIT_CODE = 2
_NAMED = 4  # packages in a message


def ensure_packages(program: Sequence[str]) -> None:
    """Return where this Python has all packages; else run `program`, its arguments, in the one of the Ray around it.

    Ends the process with code 2 and a line where that one is not found or has no packages either.
    """
    lacks = _lacking()
    left = os.environ.pop(_LEFT, None)
    if not lacks:
        return
    other = ray_python() if left is None else None
    if other is not None and other != sys.executable:
        os.environ[_LEFT] = sys.executable
        try:
            os.execv(other, [other, *program])
        except OSError:
            del os.environ[_LEFT]
    first = f"{left} has not all of brainray's packages, and Ray's own " if left else ""
    print(
        f"brainray: {first}{sys.executable} {lacks}; activate the environment that has brainray's packages before "
        "`ray start`, or before this command",
        file=sys.stderr,
        flush=True,
    )
    sys.exit(_EXIT_CODE)


def ray_python(pid: int | None = None) -> str | None:
    """The Python in which the Ray that this process runs under starts its workers.

    It is in the command line of the raylet, one of the process's ancestors. None where there is none, or no /proc.
    """
    pid = os.getpid() if pid is None else pid
    try:
        while pid > 1:
            for argument in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                if argument.startswith(_WORKER):
                    return shlex.split(os.fsdecode(argument[len(_WORKER) :]))[0] or None
            pid = _parent(pid)
    except (OSError, ValueError, IndexError):
        pass
    return None


def _parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return int(stat.rpartition(")")[2].split()[1])  # the name before it may hold anything


def _lacking() -> str:
    """What this Python lacks, in words; empty where it lacks nothing."""
    if sys.version_info < OLDEST:
        return f"is Python {sys.version.split()[0]}, and {'.'.join(map(str, OLDEST))} or newer is needed"
    missing = [name for name in PACKAGES if find_spec(name) is None]
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return f"has no {', '.join(missing[:_NAMED])}{more}" if missing else ""
