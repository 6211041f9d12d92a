"""A pytest plugin: the same tests, collected on another machine at another time (`-p support.elsewhere`).

The clock is ahead, folders are read in another order, and there are other processors, users and random numbers.
"""

import os
import random
import sys
import time
from typing import Any

import pytest

_AHEAD_S = 400 * 86_400.0 + 3_661.0

_time, _time_ns, _localtime, _gmtime, _listdir = time.time, time.time_ns, time.localtime, time.gmtime, os.listdir


def _listdir_backwards(*folder: Any) -> list[Any]:
    return sorted(_listdir(*folder), reverse=True)


time.time = lambda: _time() + _AHEAD_S
time.time_ns = lambda: _time_ns() + int(_AHEAD_S * 1e9)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
os.listdir = _listdir_backwards
os.cpu_count = lambda: 77
os.sched_getaffinity = lambda _: set(range(77))
os.environ |= {"HOSTNAME": "elsewhere", "USER": "somebody", "LOGNAME": "somebody"}
random.seed(77)


_status: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    _status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End at once: to take all modules apart costs a second."""
    sys.stdout.flush()
    os._exit(_status[0])
