"""Holders of a lease: in another process, on another machine, by a clock of the test's own."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from brainray import storage
from brainray.storage import lease

# Holds argv[1] with a ttl of argv[2] seconds. Each line it is sent makes it write a file and say how that went.
HOLDER = """
import sys, time
from brainray.storage import lease
from brainray.errors import OutputHeld
output = sys.argv[1]
with lease.hold(output, purpose="score", say=print, ttl_s=float(sys.argv[2])) as held:
    print("holds", flush=True)
    for name in sys.stdin:
        try:
            held.writer.write_bytes(f"{output}/{name.strip()}", b"late")
            print("written", flush=True)
        except OutputHeld as exc:
            print("refused:", exc, flush=True)
    while not held.lost:
        time.sleep(0.01)
    print("lost", flush=True)
"""


@contextmanager
def holders(output):
    """Gives what starts another process that holds the output."""
    started = []

    def start(ttl_s=60.0):
        command = [sys.executable, "-c", HOLDER, output, str(ttl_s)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        started.append(process)
        assert process.stdout.readline() == "holds\n"
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            with process:  # closes its pipes and waits
                pass


class Time:
    """A clock that runs only while somebody sleeps; `during[k]` happens in the k-th sleep."""

    def __init__(self, during=None):
        self.now = time.monotonic()
        self.slept = []
        self.said = []
        self.during = during or {}

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        self.during.get(len(self.slept), lambda: None)()

    def hold(self, output, **options):
        return lease.hold(output, purpose="score", say=self.said.append, clock=self.clock, sleep=self.sleep, **options)


def no_wait(seconds):
    raise AssertionError(f"the user would have waited {seconds} s for a holder that is known to be dead or alive")


def hold(output, *, sleep=no_wait, **options):
    return lease.hold(output, purpose="score", say=lambda line: None, sleep=sleep, **options)


def record_uri(output):
    return f"{output}/.lease/{max(storage.list_names(f'{output}/.lease'))}/holder.json"


def rewrite(output, **changes):
    storage.write_json(record_uri(output), storage.read_json(record_uri(output)) | changes)


def leave(output, **changes):
    """A lease that somebody left unreleased."""
    with hold(output):
        pass
    rewrite(output, **({"released": False} | changes))


def leave_elsewhere(output, **changes):
    leave(output, host="host7", pid=4711, boot_id="of another machine", since="2026-11-22T06:10:03+00:00", **changes)


def everything(folder):
    found = [(path, *(f"{path}/{name}" for name in files)) for path, _, files in os.walk(folder)]
    return {path: os.stat(path).st_mtime_ns for paths in found for path in paths}


def state_of(process):
    return storage.read_bytes(f"/proc/{process.pid}/stat").rsplit(b")", 1)[1].split()[0]


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture
def other_run(output):
    """Starts another process that holds the output."""
    with holders(output) as start:
        yield start
