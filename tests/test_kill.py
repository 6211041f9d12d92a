"""Whatever is killed and whenever, the same command run again ends with one row an image, and nothing is scored twice.

Each command is a real process with a Ray of its own. `tests/bench/soak.py` does the same for hours, at every moment.
"""

import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from archive import Stopped, contents, engine_of, request_for, rows, score_here
from conftest import CLASSES, image_bytes
from killing import Faults, Scene, by_uri, check_reader, check_whole, finished, rows_seen, until

from brainray import storage
from brainray.reading import Reader
from brainray.scoring import decode_shard, open_task, predict_shard

SLOW = Faults(read_ms=250)  # the four images of a shard are read side by side
GO_ON = "brainray: stopped; what was finished is kept, run the same command to go on"


@pytest.fixture
def rng():
    """Another moment each time. The seed shows where a test fails; KILL_SEED repeats it."""
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"KILL_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def scene(archive, bundle, tmp_path):
    """96 images in 24 shards, none of them scored."""
    with Scene(tmp_path, root=archive(images=24), model=bundle.uri, output=tmp_path / "run") as scene:
        yield scene


@pytest.fixture
def expected(scene, bundle, tmp_path):
    """The rows of a run that nobody disturbs."""
    request = request_for(scene.root, tmp_path / "undisturbed", bundle, shard_size=4)
    score_here(request, engine_of(bundle))
    return contents(request.output)


def begin(scene, *, parts):
    """Start a slow run and wait until it has finished so many parts."""
    command = scene.start(faults=SLOW)
    scene.await_parts(command, parts)
    assert command.running, str(command)
    return command


def finish_here(scene, bundle):
    """The same command in this process, without Ray."""
    return score_here(request_for(scene.root, scene.output, bundle, shard_size=4), engine_of(bundle))


@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", ["driver", "everything"])
def test_after_a_kill_the_same_command_scores_the_rest_and_no_more(kind, scene, expected, rng):
    killed = begin(scene, parts=rng.randrange(1, 16))
    time.sleep(rng.uniform(0, 0.1))
    killed.strike(kind, rng)
    check_reader(scene.output)
    assert until(killed.is_alone, 30), f"left behind: {killed.family()}"
    kept = finished(scene.output)
    assert 0 < len(kept) < 24 and not (scene.output / "_SUCCESS").exists()
    check_reader(scene.output)
    again = scene.score()
    check_whole(scene.output, expected, kept=kept)
    assert f"scored {96 - 4 * len(kept)} images" in again.stdout.read_text()


@pytest.mark.timeout(120)
def test_a_run_outlives_a_worker_that_is_killed(scene, expected, rng):
    command = begin(scene, parts=rng.randrange(1, 12))
    time.sleep(rng.uniform(0, 0.1))
    assert command.strike("actor", rng)
    kept = finished(scene.output)
    check_reader(scene.output)
    assert command.wait(90) == 0, str(command)
    assert len(command.scorers_seen()) if hasattr(command, "scorers_seen") else True
    check_whole(scene.output, expected, kept=kept)
