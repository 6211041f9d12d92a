"""Another machine at another time, for the collection of tests: their names must not depend on either.

The clock is ahead, folders are read in another order, and there are other processors, users and random numbers. Loaded
as a plugin (`-p support.elsewhere`) it stays so to the end; `left` ends it. Modules may keep the functions that they
found meanwhile, so these give what is true again once it is left.
"""

import os
import random
import sys
import time
from typing import Any

import pytest

_AHEAD_S = 400 * 86_400.0 + 3_661.0
_OTHERS = {"HOSTNAME": "elsewhere", "USER": "somebody", "LOGNAME": "somebody"}

_time, _time_ns, _localtime, _gmtime = time.time, time.time_ns, time.localtime, time.gmtime
_listdir, _cpu_count, _affinity = os.listdir, os.cpu_count, os.sched_getaffinity
_here: list[bool] = []  # holds something once it is left
_before: dict[str, str | None] = {name: os.environ.get(name) for name in _OTHERS}


def _listdir_backwards(*folder: Any) -> list[Any]:
    return _listdir(*folder) if _here else sorted(_listdir(*folder), reverse=True)


def _ahead_s() -> float:
    return 0.0 if _here else _AHEAD_S


time.time = lambda: _time() + _ahead_s()
time.time_ns = lambda: _time_ns() + int(_ahead_s() * 1e9)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
os.listdir = _listdir_backwards
os.cpu_count = lambda: _cpu_count() if _here else 77
os.sched_getaffinity = lambda process: _affinity(process) if _here else set(range(77))
os.environ |= _OTHERS
random.seed(77)


def left() -> None:
    """From now on it is this machine again."""
    _here.append(True)
    time.time, time.time_ns, time.localtime, time.gmtime = _time, _time_ns, _localtime, _gmtime
    os.listdir, os.cpu_count, os.sched_getaffinity = _listdir, _cpu_count, _affinity
    for name, value in _before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    random.seed()


_status: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    _status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End at once: to take all modules apart costs a second."""
    sys.stdout.flush()
    os._exit(_status[0])
