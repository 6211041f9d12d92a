"""Training on a cluster whose machines come and go, all of them on this one."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from itertools import groupby

import psutil
import pyarrow.parquet as pq
import pytest
from support.machine.waiting import HANGS_S, wait_for

TRAIN_SOON = """
from brainray.cluster import train
from support.training.hanging import hanging
train._RESIZE_S = 1.0  # instead of half a minute
train.train_worker = hanging(train.train_worker, after=1, until={until!r})
from brainray.cli.app import main
main()
"""


def remove_machine(cluster, node):
    """What runs on a machine goes with it; processes of a node alone would train on until they miss it."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    running = raylet.children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    for process in running:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(running, timeout=HANGS_S)


@pytest.mark.timeout(900)
def test_training_takes_in_a_machine_that_joins_and_outlives_one_that_goes(cluster, archive, tmp_path):
    """The same training: each epoch once, whoever did it. Its workers do an epoch and wait until they are harmed."""
    cluster.add_node(num_cpus=1)
    root, output, epochs = archive(images=12), tmp_path / "model", 4
    arguments = ["--data", root, "--output", output, "--workers", "1-2", "--epochs", epochs, "--patience", epochs]
    script = TRAIN_SOON.format(until=str(tmp_path / "harmed"))
    environment = {
        "RAY_ADDRESS": cluster.address,
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = subprocess.Popen(
        [sys.executable, "-c", script, "train", *map(str, arguments), "--image-px", "32", "--width", "0.25"],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    progress = output / ".training" / "progress.json"

    def workers(count):
        """Whether the last epoch was done by so many."""
        assert command.poll() is None, command.stderr.read()
        with suppress(OSError, ValueError):
            history = json.loads(progress.read_text())["history"]
            return bool(history) and history[-1]["workers"] == count
        return False

    try:
        wait_for(lambda: workers(1), "an epoch of one worker")
        second = cluster.add_node(num_cpus=1)
        wait_for(lambda: workers(2), "an epoch of both")
        remove_machine(cluster, second)
        (tmp_path / "harmed").touch()
        _, err = command.communicate(timeout=300)
    finally:
        command.kill()
    assert command.returncode == 0, err
    assert re.search(r"^a worker failed .* going on after epoch \d of 4$", err, re.MULTILINE), err
    history = pq.read_table(output / "training" / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == list(range(1, epochs + 1))
    assert [count for count, _ in groupby(row["workers"] for row in history)] == [1, 2, 1], err
