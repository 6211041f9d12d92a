"""Training on a cluster whose machines come and go, all of them on this one."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from itertools import groupby

import pyarrow.parquet as pq
import pytest
from support.machine.waiting import wait_for

TRAIN_SOON = """
from brainray.cluster import train
train._RESIZE_S = 2.0  # instead of half a minute
from brainray.cli.app import main
main()
"""

# Ray Train takes in one epoch at each look at its workers, and here there must be some left when a machine has joined.
PACE = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.6"}


@pytest.mark.timeout(900)
def test_training_takes_in_a_machine_that_joins_and_outlives_one_that_goes(cluster, archive, tmp_path):
    """The same training: each epoch once, whoever did it."""
    cluster.add_node(num_cpus=1)
    root, output, epochs = archive(images=12), tmp_path / "model", 45
    arguments = ["--data", root, "--output", output, "--workers", "1-2", "--epochs", epochs, "--patience", epochs]
    command = subprocess.Popen(
        [sys.executable, "-c", TRAIN_SOON, "train", *map(str, arguments), "--image-px", "32", "--width", "0.25"],
        env=os.environ | {"RAY_ADDRESS": cluster.address} | PACE,
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
        cluster.remove_node(second, allow_graceful=False)
        _, err = command.communicate(timeout=300)
    finally:
        command.kill()
    assert command.returncode == 0, err
    history = pq.read_table(output / "training" / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == list(range(1, epochs + 1))
    assert [count for count, _ in groupby(row["workers"] for row in history)] == [1, 2, 1], err
