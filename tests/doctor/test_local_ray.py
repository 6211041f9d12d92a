"""What a Ray on this machine needs before it starts, told by `doctor` and by the command that would start it."""

import os

import pytest
from support.each import each
from support.findings import machine, only

from brainray.doctor import local_ray
from brainray.doctor.local_ray import (
    check_address_space,
    check_loopback,
    check_open_files,
    check_tasks,
    require,
    session_folder,
)
from brainray.errors import BadRequest
from brainray.machine.hardware import tasks_left

LONG = "/tmp/" + 90 * "x"


@each(("limits", "status"), [((1024, 10**6), "ok"), ((1024, 1024), "warning"), ((64, 64), "wrong"), ((-1, -1), "ok")])
def test_open_files(monkeypatch, limits, status):
    monkeypatch.setattr(local_ray.resource, "getrlimit", lambda _: limits)
    assert only(check_open_files()).status == status


@each(("limit", "status"), [(-1, "ok"), (4 << 30, "wrong"), (8 << 30, "warning"), (64 << 30, "ok")])
def test_virtual_memory(monkeypatch, limit, status):
    """Under `ulimit -v 6000000` a run took 42 s to say that Ray does not start."""
    monkeypatch.setattr(local_ray.resource, "getrlimit", lambda _: (limit, limit))
    assert only(check_address_space()).status == status


@each(
    ("left", "processors", "status"),
    [(None, 2, "ok"), (250, 2, "ok"), (249, 2, "wrong"), (300, 8, "warning"), (200, 0.5, "ok"), (-7, 2, "wrong")],
)
def test_processes_and_threads(left, processors, status):
    assert only(check_tasks(left, processors)).status == status


def test_the_tasks_left_are_the_fewest_that_the_user_and_its_groups_leave(tmp_path):
    files = {
        "proc/self/cgroup": "0::/box",
        "proc/7/status": f"Name:\tpython\nUid:\t{os.getuid()}\t0\t0\t0\nThreads:\t30\n",
        "proc/8/status": f"Uid:\t{os.getuid()}1\t0\t0\t0\nThreads:\t1000\n",
        "sys/fs/cgroup/pids.max": "max",
        "sys/fs/cgroup/box/pids.max": "100",
        "sys/fs/cgroup/box/pids.current": "40",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert tasks_left(f"{tmp_path}/", limit=1000) == 60
    assert tasks_left(f"{tmp_path}/", limit=50) == 20
    (tmp_path / "sys/fs/cgroup/box/pids.max").unlink()
    assert tasks_left(f"{tmp_path}/", limit=1000) == 970


def test_the_loopback_network():
    assert only(check_loopback()).status == "ok"
    down = only(check_loopback("192.0.2.1"))  # no address of any machine, as 127.0.0.1 where the loopback is down
    assert down.status == "wrong" and "192.0.2.1" in down.found


def test_shared_memory_that_is_missing_or_read_only_has_no_room(tmp_path, monkeypatch):
    assert local_ray.shared_memory_bytes(str(tmp_path)) > 0
    assert local_ray.shared_memory_bytes(f"{tmp_path}/none") == 0
    monkeypatch.setattr(local_ray, "is_writable", lambda _: False)
    assert local_ray.shared_memory_bytes(str(tmp_path)) == 0


def test_a_command_refuses_in_the_words_of_doctor(monkeypatch):
    require(machine())
    monkeypatch.setattr(local_ray.resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(BadRequest, match=r"^open files: at most 64, too few .*; ulimit -n 65536"):
        require(machine())


@each(
    ("environment", "foreign", "chosen"),
    [
        ({}, (), "/tmp/ray"),
        ({"TMPDIR": "/data"}, (), "/data/ray"),
        ({"TMPDIR": LONG}, (), "/tmp/ray"),
        ({"TMPDIR": LONG, "RAY_TMPDIR": "/data"}, (), "/data/ray"),
        ({}, ("/tmp/ray",), f"/tmp/ray-{os.getuid()}"),
        ({}, ("/tmp/",), "/var/tmp/ray"),
    ],
)
def test_the_folder_is_the_first_that_ray_can_use(monkeypatch, environment, foreign, chosen):
    unwritable = [name for name in foreign if name.endswith("/")]
    monkeypatch.setattr(
        local_ray, "is_writable", lambda folder: folder not in foreign and not folder.startswith(tuple(unwritable))
    )
    assert session_folder(environment) == chosen


@each(
    ("named", "writable", "why"), [(LONG, True, "too long for the sockets"), ("/data", False, "cannot be written to")]
)
def test_a_folder_that_the_user_names_is_not_replaced(monkeypatch, named, writable, why):
    monkeypatch.setattr(local_ray, "is_writable", lambda _: writable)
    with pytest.raises(BadRequest, match=rf"^{named}/ray .*{why}.*; set RAY_TMPDIR"):
        session_folder({"RAY_TMPDIR": named})
