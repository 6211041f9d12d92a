"""A private Ray on a machine, or in a container, with less than one processor or too little memory."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.each import each

from brainray.cluster import score, session
from brainray.cluster.guard import Guard
from brainray.doctor.machine import check_memory
from brainray.errors import BadRequest
from brainray.machine.hardware import Machine

GB = 10**9
SMALL = Machine(
    processors=1, usable=0.5, features=frozenset({"avx2"}), memory_bytes=GB // 2, available_bytes=GB * 3 // 10
)


@each(
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


@each("available_bytes", [0, GB // 2, 999_999_999, 1_000_000_000, 15 * GB // 10, 64 * GB])
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
