"""The Ray that a command starts for itself: what runs, and what is left behind. In processes of their own."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from brainray.doctor.local_ray import session_folder
from brainray.storage.scratch import held

SCRIPT = """
import glob, json, os, psutil, pyarrow as pa, ray, stat, sys, time
from brainray.cluster import ray_internals
from brainray.cluster.session import session
from brainray.machine.hardware import read_machine

def running():
    return [process.cmdline() for process in psutil.Process().children(recursive=True)]

def idle():
    processes = psutil.Process().children(recursive=True)
    return [process.pid for process in processes if "ray::IDLE" in str(process.cmdline())]

def settings():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}

with session(prestart=1, environments=False):
    until = time.monotonic() + 60
    while not (at_start := idle()) and time.monotonic() < until:
        time.sleep(0.1)
    import ray.data
    from ray._private import state
    from brainray.cluster.session import quiet_data
    quiet_data()

    class Doubler:
        def __call__(self, batch):
            workers = [os.getpid() if "torch" in sys.modules else -1] * 3
            return {"id": 2 * batch["id"], "worker": workers}

    numbers = ray.data.from_blocks([pa.table({"id": range(3)})])
    chain = numbers.map_batches(Doubler, compute=ray.data.ActorPoolStrategy(size=1))
    rows = list(chain.iter_rows())
    lines = running()
    folder = ray_internals.node().get_session_dir_path()
    full = [ray.put(bytes(1 << 24)) for _ in range(8)]  # more than fits into memory
    worker = ray.get(ray.remote(settings).remote())
    told = {
        "at_start": at_start,
        "doubled": [row["id"] for row in rows],
        "workers": sorted({row["worker"] for row in rows}),
        "actors": [actor["ActorClassName"] for actor in state.actors().values()],
        "processes": sorted({os.path.basename(line[0]).strip() for line in lines if line} - {"python"}),
        "guards": sum(any(word.endswith("/cluster/guard.py") for word in line) for line in lines),
        "shown": worker.get("RAY_AUTH_TOKEN", "?") in str(lines),
        "worker": worker,
        "driver": settings(),
        "processors": [ray.cluster_resources()["CPU"], ray_internals.processors(read_machine().usable)],
        "private": ray_internals.is_private(),
        "spilled": {
            name: [stat.filemode(os.stat(name).st_mode), bool({*os.listdir(name)} - {".held"})]
            for name in glob.glob(f"{folder}/*spilled*")
        },
        "dashboard": ray_internals.has_dashboard(),
    }
print(json.dumps(told | {"after": settings()}))
"""


pytestmark = pytest.mark.ray


@pytest.fixture
def started_alone(tmp_path):
    """Runs code with a home folder of its own and no variable of Ray's; gives what it prints, and the home folder.

    But for the niceness of its workers, as in conftest.py.
    """
    home = tmp_path / "home"
    home.mkdir()

    def start(code, **variables):
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = plain | {"HOME": str(home), "RAY_ADDRESS": "local", "RAY_worker_niceness": "0"} | variables
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=250, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, home

    return start


@pytest.fixture
def spilled_before():
    """What two runs that are killed and alive have put on the disk."""
    name = f"session_2026-01-31_00-00-00_000000_{secrets.randbelow(10**9)}"
    session = Path(session_folder({**os.environ, "RAY_TMPDIR": ""}), name)
    dead, alive = (session / f"ray_spilled_objects_{name}" for name in ("dead", "alive"))
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / "0").write_bytes(b"pixels")
    with held(str(dead)):
        pass
    with held(str(alive)):
        yield dead, alive
    shutil.rmtree(session)


def test_a_private_ray_has_no_attendants_and_leaves_nothing_behind(started_alone, spilled_before):
    out, home = started_alone(SCRIPT, RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=str(80 << 20))
    told = json.loads(out)
    assert len(told["at_start"]) == 1, "as many as asked for: a machine may have a hundred processors"
    assert told["workers"] == told["at_start"], "the actor waits for a new process, or for its import of torch"
    assert told["doubled"] == [0, 2, 4]
    assert ["MapWorker" in name for name in told["actors"]] == [True], (
        "none of Ray Data's own, which cost a second each"
    )
    # No dashboard, no autoscaler monitor, no log monitor, and none of the agents, for which the raylet waits.
    assert [name for name in told["processes"] if "Agent" in name or "::" not in name] == ["gcs_server", "raylet"]
    assert told["guards"] == 1
    assert told["private"] and not told["dashboard"]
    assert told["processors"][0] == told["processors"][1]

    token = told["driver"].pop("RAY_AUTH_TOKEN")
    assert told["driver"] == {"RAY_AUTH_MODE": "token"} and len(token) == 64
    assert told["worker"] == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    assert not told["shown"], "everybody on the machine sees a command line"
    assert told["after"] == {}
    assert list(home.iterdir()) == []

    ((folder, (mode, used)),) = told["spilled"].items()
    assert used, "objects that do not fit into memory are pixels of images"
    assert mode == "drwx------", "others of the machine could read them"
    assert not os.path.exists(folder)
    assert [path.exists() for path in spilled_before] == [False, True]


def test_a_token_path_that_leads_nowhere_is_one_line(started_alone, tmp_path):
    code = (
        "from brainray.errors import BrainrayError\nfrom brainray.cluster.session import session\n"
        "try:\n  with session(): pass\nexcept BrainrayError as exc:\n  print(exc)"
    )
    out, home = started_alone(code, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"))
    assert out.count("\n") == 1 and f"{tmp_path}/none" in out
    assert list(home.iterdir()) == []


UNDER_UV = """
import os, sys
from ray._private.runtime_env import uv_runtime_env_hook
uv_runtime_env_hook._get_uv_run_cmdline = lambda: ["uv", "run", "python"]
import ray
from brainray.cluster.session import session
with session(environments=False):
    print(ray.get(ray.remote(lambda: sys.executable).remote()) == sys.executable)
    print(ray.get_runtime_context().runtime_env)
"""


def test_uv_run_sends_no_working_folder_to_workers_of_this_machine(started_alone):
    """Ray packs it, up to half a GB, and refuses more: whoever starts a run beside an archive could not score it."""
    out, _ = started_alone(UNDER_UV)
    assert out.split() == ["True", "{}"]
