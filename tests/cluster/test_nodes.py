"""Clusters of several nodes, all of them on this machine: they come, go, and see other files."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress

import psutil
import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.util import get_node_ip_address
from support.cluster.heads import BIN, ENVIRONMENT
from support.machine.ports import free_port
from support.machine.processes import session_processes
from support.machine.waiting import wait_for
from support.models.bundles import CLASSES
from support.scoring.runs import contents

from brainray.scoring.run_folder import verify_run
from brainray.storage import Writer
from brainray.storage.shared_paths import NamedPath, shared_paths_of

AUTOSCALER = {
    "RAY_enable_autoscaler_v2": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    # The end of a node is noticed in 2 s instead of up to a minute.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "4",
}


@pytest.fixture
def autoscaler(tmp_path):
    """The address of such a head whose autoscaler starts one worker at a time, and what lists its raylets.

    Ray's fake machines: raylets on this one, of a type that lists no memory, as some clouds' do. They are named as an
    external provider, for the wheel of Ray lacks the defaults of `fake_multinode`.
    """
    address, scratch = f"{get_node_ip_address()}:{free_port()}", tempfile.mkdtemp(prefix="ray-")  # short, for sockets
    config, log = tmp_path / "autoscaler.json", tmp_path / "head.log"
    config.write_text(json.dumps(autoscaling(address)))
    command = [BIN / "ray", "start", "--head", f"--port={address.rpartition(':')[2]}", "--num-cpus=0", "--block"]
    command += ["--include-dashboard=false", f"--autoscaling-config={config}", "--disable-usage-stats"]
    command += [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
    environment = ENVIRONMENT | AUTOSCALER | {"RAY_TMPDIR": scratch}
    with log.open("wb") as out:
        head = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        wait_for(lambda: "runtime started" in log.read_text() or head.poll() is not None, "the head is there")
        assert head.poll() is None, log.read_text()
        yield (
            address,
            lambda: [p for p in session_processes(head.pid) if p.name() == "raylet" and "--head" not in p.cmdline()],
        )
    finally:
        while left := session_processes(head.pid):
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            head.poll()
        head.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def autoscaling(address):
    worker = {"resources": {"CPU": 1, "object_store_memory": 1_000_000_000}, "node_config": {}, "max_workers": 1}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "fake",
        "max_workers": 1,
        "provider": provider,
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, "worker": worker | {"min_workers": 0}},
        "file_mounts": {},
        "cluster_synced_files": [],
    } | {f"{name}_commands": [] for name in commands}


def score(address, *arguments, cwd, environment=os.environ):
    return subprocess.Popen(
        [sys.executable, "-m", "brainray", "score", *map(str, arguments)],
        env=environment | {"RAY_ADDRESS": address},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def parts(run):
    return len(os.listdir(run / "predictions")) if (run / "predictions").exists() else 0


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_run_asks_an_autoscaler_for_nodes_and_outlives_one(autoscaler, archive, bundle, tmp_path):
    """Else a cluster that has shrunk to its head would score nothing, and its last Spot machine's end be the run's."""
    address, workers = autoscaler
    images, run = len(CLASSES) * 80, tmp_path / "run"
    archive("in", images=80)
    command = score(
        address,
        "--input",
        "in",
        "--model",
        bundle.uri,
        "--output",
        run,
        "--shard-size",
        4,
        cwd=tmp_path,
        environment=ENVIRONMENT,
    )
    told = [command.stderr.readline()]
    while "waiting up to" not in told[-1]:
        assert told[-1], (told, command.wait(120))
        told.append(command.stderr.readline())
    # Until the first, a machine, two workers and torch have to start.
    wait_for(lambda: parts(run) >= 4 or command.poll() is not None, "four parts")
    at_loss = parts(run)
    workers()[0].kill()
    _, err = command.communicate(timeout=400)
    assert command.returncode == 0, err
    assert "another one is asked for" in err
    assert at_loss < images / 4, "the run was over before the node was lost"
    assert len(contents(run)) == images
    account = verify_run(str(run))
    assert (account.rows, account.problems) == (images, ())


def test_a_path_that_other_nodes_do_not_see_is_refused_before_anything_is_scored(cluster, archive, bundle, tmp_path):
    """Else each node would leave its parts on a disk of its own."""
    cluster.add_node(num_cpus=1)
    archive(images=2)
    # Every process sees another folder here, as every machine does below /tmp.
    run = "/proc/self/cwd/run"
    command = score(
        cluster.address, "--input", tmp_path / "archive", "--model", bundle.uri, "--output", run, cwd=tmp_path
    )
    _, err = command.communicate(timeout=250)
    assert command.returncode == 2, err
    last = err.splitlines()[-1]
    assert last.startswith(f"brainray: --output {run} is not the same on node ")
    assert "s3://" in last
    assert parts(tmp_path / "run") == 0


def test_another_file_at_the_same_place_is_not_the_same(tmp_path):
    image = tmp_path / "in" / "1.jpg"
    image.parent.mkdir()
    image.write_bytes(b"x")
    os.utime(image, ns=(1, 1))
    writer = Writer(staging=str(tmp_path / "staging"))
    (tmp_path / "staging").mkdir()
    named = [NamedPath("--input", str(tmp_path / "in")), NamedPath("--input", str(image), "1")]
    named += [NamedPath("--model", "s3://models/1"), NamedPath("--model", "shipped")]
    shared_paths = shared_paths_of(named, output=str(tmp_path / "run"), writer=writer)
    assert shared_paths.unseen() is None
    os.utime(image, ns=(2, 2))
    assert str(shared_paths.unseen()) == f"--input {image}"
    image.unlink()
    assert str(shared_paths.unseen()) == f"--input {image}"
    os.unlink(shared_paths.mark)
    assert str(shared_paths.unseen()) == f"--output {tmp_path / 'run'}"
