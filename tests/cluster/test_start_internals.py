"""What a private Ray starts with, and what takes the place of its agents. Of Ray itself only names are looked at."""

import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import psutil
import pytest
from support.machine.waiting import wait_for

import brainray
from brainray.cluster import agent_stand_in, start_internals

ROOT = Path(brainray.__file__).parent.parent


RAYLET = ["raylet", "--node_id=ab", "--session_dir=/tmp/a session", "--num_prestart_python_workers=8"]
AGENTS = ["--dashboard_agent_command=python agent.py", "--runtime_env_agent_command=python main.py"]


def test_the_words_that_are_changed_stand_in_the_command_of_the_raylet():
    source = inspect.getsource(import_module("ray._private.services").start_raylet)
    names = (start_internals._PRESTART, start_internals._DASHBOARD_AGENT, start_internals._ENVIRONMENT_AGENT)
    assert all(f'"{name}{{}}".format(' in source for name in names)
    assert 'f"--node_id={node_id}"' in source and 'f"--session_dir={session_dir}"' in source


def test_the_ports_are_those_that_a_raylet_waits_for():
    """It would wait half a minute for one more, and then end."""
    from ray import _raylet

    named = {getattr(_raylet, name) for name in dir(_raylet) if name.endswith("_PORT_NAME")}
    told = {*start_internals._DASHBOARD_PORTS, *start_internals._ENVIRONMENT_PORTS}
    assert told == named - {_raylet.GCS_SERVER_PORT_NAME}
    assert {_raylet.get_port_filename("ab" * 28, name) for name in told} == {f"{name}_{'ab' * 28}" for name in told}


@pytest.mark.parametrize(("environments", "stand_ins"), [(True, 1), (False, 2)])
def test_agents_are_replaced_in_the_command_of_the_raylet_alone(environments, stand_ins):
    """Ray Train gives its workers environment variables, which the agent of environments sets."""
    changed = start_internals._changed([*RAYLET, *AGENTS], 2, environments)
    assert changed[:4] == [*RAYLET[:3], "--num_prestart_python_workers=2"]
    assert sum("agent_stand_in.py" in word for word in changed) == stand_ins
    assert changed[4].endswith('"/tmp/a session/dashboard_agent_listen_port_ab"')
    assert (changed[5] == AGENTS[1]) == environments
    assert start_internals._changed(["gcs_server", "--port=0"], 2, environments) == ["gcs_server", "--port=0"]


@pytest.mark.parametrize("name", ["RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR"])
def test_a_hook_of_the_user_and_a_job_around_the_run_find_the_agent_they_need(name, monkeypatch):
    """Without it the raylet ends itself when a worker is to get environment variables."""
    from ray._private import services

    commands = []
    monkeypatch.setattr(services, "start_ray_process", commands.append)
    monkeypatch.setenv(name, "{}")
    with start_internals.quick_start(prestart=1, environments=False):
        services.start_ray_process([*RAYLET, *AGENTS])
    assert commands[0][5] == AGENTS[1]


def test_a_stand_in_tells_the_ports_and_ends_with_its_raylet(tmp_path):
    port = tmp_path / "metrics_agent_port_ab"
    command = [sys.executable, "-I", "-S", agent_stand_in.__file__, str(port)]
    raylet = f"import subprocess, sys\nprint(subprocess.Popen({command!r}).pid, flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", raylet], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        stand_in = psutil.Process(int(parent.stdout.readline()))
        wait_for(port.exists, "the raylet waits for the port")
        assert port.read_text() == "-1" and [path.name for path in tmp_path.iterdir()] == [port.name]
        assert stand_in.is_running()
        parent.kill()
    wait_for(lambda: has_ended(stand_in), "a process stays behind")


def has_ended(process):
    """Where nobody reaps orphans, as in a container, a zombie stays, or stays for a while."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


SETTINGS = ("RAY_prestart_worker_first_driver", "RAY_preload_python_modules", "PYTHONPATH", "THP_MEM_ALLOC_ENABLE")


@pytest.mark.parametrize(
    ("workers", "given", "meanwhile"),
    [
        (0, {"THP_MEM_ALLOC_ENABLE": "0"}, ("0", None, None, "0")),
        (3, {"PYTHONPATH": "/own"}, ("1", "brainray.cluster.preload", f"{ROOT}:/own", "1")),
        (3, {"RAY_prestart_worker_first_driver": "0"}, ("0", "brainray.cluster.preload", str(ROOT), "1")),
    ],
)
def test_workers_that_start_ahead_import_what_the_driver_runs(monkeypatch, workers, given, meanwhile):
    """Not another brainray that is installed, too. What a user has set stays."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
        if name in given:
            monkeypatch.setenv(name, given[name])
    with start_internals._prestart_settings(workers):
        assert tuple(map(os.environ.get, SETTINGS)) == meanwhile
    assert {name: os.environ[name] for name in SETTINGS if name in os.environ} == given


def test_a_library_that_workers_cannot_load_is_left_to_the_scorer(monkeypatch):
    """Ray starts a worker again and again that fails before it is asked for anything."""

    class Broken:
        def find_spec(self, name, *_):
            if name == "brainray.models.encoder":
                raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    for name in ("brainray.models.encoder", "brainray.cluster.preload"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("brainray.models.encoder", raising=False)
    assert import_module("brainray.cluster.preload")
