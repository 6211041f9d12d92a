"""A private Ray on a machine, or in a container, with less than one processor or too little memory."""

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from brainray.cluster import score, session
from brainray.cluster.guard import Guard
from brainray.doctor.machine import check_memory
from brainray.errors import BadRequest
from brainray.machine.hardware import Machine

GB = 10**9
SMALL = Machine(
    processors=1, usable=0.5, features=frozenset({"avx2"}), memory_bytes=GB // 2, available_bytes=GB * 3 // 10
)
# As Ray counts in a container whose cpu.max is "50000 100000".
HALF_A_PROCESSOR = """
import ray._private.utils
ray._private.utils._get_docker_cpus = lambda *_: 0.5
from brainray.cluster.session import session
with session() as nodes:
    print([node.cpus for node in nodes])
"""


@pytest.mark.ray
def test_a_quota_of_half_a_processor_is_one_slow_processor():
    """Else a run waits ten minutes for a machine that nothing will start."""
    done = subprocess.run(
        [sys.executable, "-c", HALF_A_PROCESSOR],
        env=os.environ | {"RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.stdout == "[1.0]\n", done.stderr


@pytest.mark.parametrize(
    ("gpu", "free", "workers", "foreseen"),
    [
        (False, 100 * GB, None, 8),
        (False, 4 * GB, None, 2),
        (False, 100 * GB, 3, 3),
        (True, 100 * GB, None, 0),
        (False, 0, None, 0),
    ],
)
def test_no_more_workers_start_ahead_than_will_score(monkeypatch, gpu, free, workers, foreseen):
    """Each takes half a GB and three seconds of a processor."""
    eight = replace(SMALL, processors=8, usable=8, memory_bytes=100 * GB, available_bytes=free)
    monkeypatch.setattr(score, "read_machine", lambda: eight)
    monkeypatch.setattr(score, "has_gpu", lambda: gpu)
    request = SimpleNamespace(options=SimpleNamespace(workers=workers))
    assert score._workers_here(request, shards=1000, images=10**6) == foreseen


def test_memory_too_small_for_one_worker_is_said_before_ray_starts(monkeypatch):
    monkeypatch.setattr(session, "read_machine", lambda: SMALL)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(session.ray_internals, "use_own_token", lambda: None)
    with pytest.raises(BadRequest, match=r"0\.30 GB of memory free, 0\.70 GB too little for Ray and one worker"):
        session._connect(None, Guard())


@pytest.mark.parametrize("available_bytes", [0, GB // 2, 999_999_999, 1_000_000_000, 15 * GB // 10, 64 * GB])
def test_doctor_finds_wrong_what_a_run_refuses(available_bytes):
    machine = replace(SMALL, memory_bytes=64 * GB, available_bytes=available_bytes)
    (finding,) = check_memory(machine)
    try:
        session._check_memory(machine)
    except BadRequest:
        assert finding.status == "wrong"
    else:
        assert finding.status != "wrong"


def test_memory_that_is_not_known_refuses_nothing():
    session._check_memory(replace(SMALL, memory_bytes=0, available_bytes=0))
