"""The same tests, collected on another machine at another time: a pytest plugin (`-p support.elsewhere`).

While this is imported the clock is ahead, folders are read in another order, and there are other processors, users and
random numbers, until `come_back`.
"""

import os
import random
import sys
import time
from typing import Any

import pytest

_AHEAD_S = 400 * 86_400.0 + 3_661.0
_USERS = {"HOSTNAME": "elsewhere", "USER": "somebody", "LOGNAME": "somebody"}

_time, _time_ns, _localtime, _gmtime, _listdir = time.time, time.time_ns, time.localtime, time.gmtime, os.listdir
_cpu_count, _affinity, _random = os.cpu_count, os.sched_getaffinity, random.getstate()
_users = {name: os.environ.get(name) for name in _USERS}


_away = True  # asked at each call, for modules may hold these functions, such as a clock as a default


def _ahead_s() -> float:
    return _AHEAD_S if _away else 0.0


def _listdir_backwards(*folder: Any) -> list[Any]:
    return sorted(_listdir(*folder), reverse=True) if _away else _listdir(*folder)


time.time = lambda: _time() + _ahead_s()
time.time_ns = lambda: _time_ns() + int(_ahead_s() * 1e9)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
os.listdir = _listdir_backwards
os.cpu_count = lambda: 77 if _away else _cpu_count()
os.sched_getaffinity = lambda pid: set(range(77)) if _away else _affinity(pid)
os.environ |= _USERS
random.seed(77)


def come_back() -> None:
    """For a process that has collected its tests elsewhere and is to run them here."""
    global _away
    _away = False
    time.time, time.time_ns, time.localtime, time.gmtime = _time, _time_ns, _localtime, _gmtime
    os.listdir, os.cpu_count, os.sched_getaffinity = _listdir, _cpu_count, _affinity
    for name, value in _users.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value
    random.setstate(_random)


_status: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    _status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End at once: to take all modules apart costs a second."""
    sys.stdout.flush()
    os._exit(_status[0])
