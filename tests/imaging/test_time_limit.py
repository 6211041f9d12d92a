"""An image that hangs ends its process, and a slow one does not where others were quick meanwhile."""

import signal
import subprocess
import sys
import threading

from brainray.imaging.time_limit import TimeLimit

HANGS = """
import re
from brainray.imaging.time_limit import TimeLimit
with TimeLimit(30)():
    pass
with TimeLimit(0.2)():
    re.match("(a+)+b", "a" * 40)  # in C, with Python's lock, for days
"""


def test_a_hang_in_c_code_ends_the_process():
    done = subprocess.run([sys.executable, "-c", HANGS], timeout=60, check=False)
    assert done.returncode == -signal.SIGALRM


def test_the_timer_is_that_of_the_thread_that_ends_first():
    now, timers = [100.0], []
    limit = TimeLimit(10, clock=lambda: now[0], set_timer=timers.append)
    begun, ended = threading.Event(), threading.Event()

    def slow() -> None:
        with limit():
            begun.set()
            ended.wait(60)

    thread = threading.Thread(target=slow)
    thread.start()
    assert begun.wait(60)
    now[0] = 104.0
    with limit():
        now[0] = 105.0
    assert timers == [10.0, 6.0, 5.0], "the slow image keeps its own end"
    ended.set()
    thread.join()
    assert timers[-1] == 0.0, "nothing is timed while nothing is decoded"
