"""The process beside a run: no process of the run's Ray survives, and no end of the run is silent. Without any Ray."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import pytest
from support.machine.waiting import until

from brainray.cluster.guard import Guard

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
RUN = f"""
import os, subprocess, sys
from brainray.cluster.guard import Guard
Guard.as_json = {{as_json}}
with Guard() as guard:
    with guard.marked():
        print(subprocess.Popen({SLEEP!r}, start_new_session=True).pid, flush=True)
    {{then}}
"""


KILLED = "os.kill(os.getpid(), 9)"
SPILLED = "spilled \n\udcff"  # below `spilling` or `killed spilling`


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Scripts that were run to their end: exit code, standard error, and the id of what each started.

    Side by side, for a guard gives what a killed run leaves behind a second to end by itself.
    """
    home = tmp_path_factory.mktemp("guarded")
    thens = {
        "well": "pass",
        "without a word": "os._exit(1)",
        "told": f"guard.tell('no shard\\nwas finished'); {KILLED}",
    }
    for name, then in (("spilling", "pass"), ("killed spilling", KILLED)):
        for folder in (SPILLED, "logs"):
            (home / name / folder).mkdir(parents=True)
            (home / name / folder / "0").write_bytes(b"pixels")
        spilled = f"{str(home / name / 'spilled ') + chr(10)!r} + chr(0xdcff)"
        thens[name] = f"guard.remove_at_end({spilled}); {then}"

    def run(name):
        script = RUN.format(then=thens[name], as_json=name == "told")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr, int(done.stdout)

    with ThreadPoolExecutor(len(thens)) as pool:
        return SimpleNamespace(home=home, **dict(zip(thens, pool.map(run, thens), strict=True)))


def is_gone(number):
    return not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def test_an_end_without_a_word_is_told_and_its_processes_are_killed(ended):
    code, err, number = vars(ended)["without a word"]
    assert code == 1
    assert err.count("\n") == 1 and err.startswith("brainray: the process was killed")
    assert is_gone(number)


def test_the_error_that_ended_a_run_is_told_where_the_run_could_not(ended):
    _, err, _ = ended.told
    told = json.loads(err)
    assert (told["event"], told["text"]) == ("error", "no shard was finished")


@pytest.mark.parametrize("name", ["spilling", "killed spilling"])
def test_what_ray_has_put_on_the_disk_is_removed(ended, name):
    """Pixels of images are among it: killed, a run would leave them in a folder for temporary files."""
    assert is_gone(vars(ended)[name][2])
    assert until(lambda: os.listdir(ended.home / name) == ["logs"])


def test_a_run_that_ends_well_says_nothing_and_leaves_nothing(ended):
    code, err, number = ended.well
    assert (code, err) == (0, "")
    assert is_gone(number)


def test_a_start_that_is_cut_short_leaves_nothing_at_once():
    started = []

    def start_and_stop():
        started.append(subprocess.Popen(SLEEP))
        raise KeyboardInterrupt

    other = subprocess.Popen(SLEEP)
    with Guard() as guard:
        with pytest.raises(KeyboardInterrupt), guard.marked():
            start_and_stop()
        assert started[0].wait(30) == -9
    assert other.poll() is None
    other.kill()
    other.wait()


def test_an_agent_that_has_overwritten_its_environment_is_known_by_the_log_of_its_raylet(tmp_path):
    logs = tmp_path / f"session_2026-01-31_00-00-00_000000_{os.getpid()}" / "logs"
    logs.mkdir(parents=True)
    with Guard():
        with open(logs / "raylet.out", "wb") as log:
            agent = subprocess.Popen(SLEEP, stdout=log, env={})
        with open(logs / "raylet.out", "rb") as log:
            reader = subprocess.Popen(SLEEP, stdin=log, env={})
    assert agent.wait(30) == -9
    assert reader.poll() is None
    reader.kill()
    reader.wait()


def test_an_earlier_ray_of_the_same_process_id_is_left_alone(tmp_path):
    """It is another one of this process, or a cluster that a process with this number has started."""
    logs = tmp_path / f"session_2026-01-31_00-00-00_000000_{os.getpid()}" / "logs"
    logs.mkdir(parents=True)
    with open(logs / "raylet.out", "wb") as log:
        earlier = subprocess.Popen(SLEEP, stdout=log, env={})
    time.sleep(0.05)  # starts are counted in hundredths of a second
    with Guard() as guard, pytest.raises(KeyboardInterrupt), guard.marked():
        raise KeyboardInterrupt
    assert earlier.poll() is None
    earlier.kill()
    earlier.wait()


def test_a_guard_that_was_killed_does_not_end_a_run():
    with Guard() as guard:
        guard._process.kill()
        until(lambda: guard._process.poll() is not None)
        guard.tell("anything")
