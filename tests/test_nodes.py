"""Clusters of several nodes, all of them on this machine: they come, go, and see other files."""

import os
import subprocess
import sys
import time

import pytest
from archive import contents
from ray.cluster_utils import Cluster

from brainray.phantom import write_archive
from brainray.run import verify_run
from brainray.sight import Seen, sight_of
from brainray.storage import Writer


@pytest.fixture
def cluster():
    """A head without processors for work, as a cluster launcher starts it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def score(cluster, *arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "brainray", "score", *map(str, arguments)],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(there, *, deadline_s=60):
    deadline = time.monotonic() + deadline_s
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def parts(run):
    return len(os.listdir(run / "predictions")) if (run / "predictions").exists() else 0


@pytest.mark.timeout(200)
def test_a_run_waits_for_nodes_loses_one_and_takes_in_another(cluster, bundle, tmp_path):
    write_archive(str(tmp_path / "in"), images=400, seed=1)
    run = tmp_path / "run"
    command = score(cluster, "--input", "in", "--model", bundle.uri, "--output", run, "--shard-size", 4, cwd=tmp_path)
    told = command.stderr.readline()
    while "waiting up to" not in told:
        assert command.poll() is None and told, told
        told = command.stderr.readline()
    cluster.add_node(num_cpus=1)
    lost = cluster.add_node(num_cpus=1)
    until(lambda: parts(run) >= 4 or command.poll() is not None)
    cluster.remove_node(lost, allow_graceful=False)
    at_loss = parts(run)
    cluster.add_node(num_cpus=1)
    _, err = command.communicate(timeout=120)
    assert command.returncode == 0, err
    assert at_loss < 100, "the run was over before the node was lost"
    assert len(contents(run)) == 400
    account = verify_run(str(run))
    assert (account.rows, account.wrong) == (400, ())


@pytest.mark.timeout(120)
def test_a_path_that_other_nodes_do_not_see_is_refused_before_anything_is_scored(cluster, archive, bundle, tmp_path):
    """Else each node would leave its parts on a disk of its own."""
    cluster.add_node(num_cpus=1)
    archive(images=2)
    # Every process sees another folder here, as every machine does below /tmp.
    run = "/proc/self/cwd/run"
    command = score(cluster, "--input", tmp_path / "archive", "--model", bundle.uri, "--output", run, cwd=tmp_path)
    _, err = command.communicate(timeout=100)
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
    named = [Seen("--input", str(tmp_path / "in")), Seen("--input", str(image), "1"), Seen("--model", "s3://models/1")]
    sight = sight_of(named, output=str(tmp_path / "run"), writer=writer)
    assert sight.unseen() is None
    os.utime(image, ns=(2, 2))
    assert sight.unseen() == f"--input {image}"
    image.unlink()
    assert sight.unseen() == f"--input {image}"
    os.unlink(sight.mark)
    assert sight.unseen() == f"--output {tmp_path / 'run'}"
