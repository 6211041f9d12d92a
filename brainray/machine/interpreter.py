"""Makes sure that a job runs in a Python that has brainray's packages. Uses only the standard library of any Python 3.

A job's `python` is the first one on the PATH of the head node. Where Ray was started from an environment that was not
activated, that Python lacks the packages, while the one that Ray itself runs in has them.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

# Import names of the dependencies in pyproject.toml; a test compares the two.
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
    "threadpoolctl",
)
OLDEST = (3, 11)  # the oldest Python that brainray runs in
_WORKER = b"--python_worker_command="  # option of a raylet: the command by which it starts Python workers
_LEFT = "BRAINRAY_LEFT_PYTHON"  # environment variable: the first interpreter of this process; it changes once
_EXIT_CODE = 2
_MOST_NAMED = 4  # packages that a message names


def ensure_mode(program: Sequence[str]) -> None:
    """Replace this process by `program` (arguments) where Python drops docstrings (-OO) or names no files in UTF-8.

    Ray Data cannot be imported without docstrings, and they are the help texts of the commands. In another encoding a
    name has another URI, so that a run started in the C locale would score each such image a second time.
    """
    if sys.flags.optimize < 2 and sys.getfilesystemencoding() == "utf-8":
        return
    # The environment is also that of the workers.
    os.environ["PYTHONOPTIMIZE"] = str(min(sys.flags.optimize, 1) or "")
    os.environ["PYTHONUTF8"] = "1"
    if sys.stdout is not None:  # what the terminal shows
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, *["-O"][: sys.flags.optimize], *program])


def ensure_packages(program: Sequence[str]) -> None:
    """Return if this Python has all packages; else replace this process by `program` (arguments) in Ray's Python.

    Where that Python is not found, or lacks packages too, prints one line and exits with code 2.
    """
    ensure_mode(program)
    lacks = _describe_missing()
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
    """The Python in which Ray starts its workers, if process `pid` (None: this one) runs below a raylet.

    The raylet's command line names it. None where no ancestor is a raylet, or there is no /proc.
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
    return int(
        stat.rpartition(")")[2].split()[1]
    )  # the process's name, in parentheses before it, may hold any characters


def _describe_missing() -> str:
    """Which packages this Python lacks, in words; "" where it has all."""
    if sys.version_info < OLDEST:
        return f"is Python {sys.version.split()[0]}, and {'.'.join(map(str, OLDEST))} or newer is needed"
    missing = [name for name in PACKAGES if find_spec(name) is None]
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    return f"has no {', '.join(missing[:_MOST_NAMED])}{more}" if missing else ""
