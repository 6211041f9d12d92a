"""What somebody does after the demo: a head, and jobs on it, with no variable set and an environment not activated."""

import os
import secrets
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.cluster.heads import BIN, a_head
from support.machine.interpreters import bare_python

from brainray import storage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plain(tmp_path):
    """An environment with a home folder of its own, no variable of Ray's, and a `python` that has no packages."""
    (tmp_path / "home").mkdir()
    bare = Path(bare_python(tmp_path)).parent
    path = ":".join(folder for folder in os.environ["PATH"].split(":") if Path(folder) != BIN)
    names = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VIRTUAL_ENV"))}
    # The package is there for `brainray`, as if it were installed; jobs get the one that is uploaded.
    return names | {"HOME": str(tmp_path / "home"), "PATH": f"{bare}:{path}"}


def done(environment, *command, cwd=ROOT):
    """A command that must succeed; a head that has just been started may take a while to take jobs."""
    deadline = time.monotonic() + 120
    while True:
        ended = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250, check=False
        )
        if "No available agent" not in ended.stderr or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def assert_scored(run, images):
    assert len(pq.read_table(f"{run}/predictions")) == images
    assert storage.exists(f"{run}/_SUCCESS")


@pytest.mark.ray
@pytest.mark.timeout(800)
def test_jobs_on_a_head_that_is_started_after_a_run_without_one(plain, archive, bundle, tmp_path):
    runs = [f"{tmp_path}/run-{i}" for i in range(3)]
    score = ["--input", str(archive(images=2)), "--model", bundle.uri, "--output"]
    # Only so that no other Ray of this machine is found; it is not set for what follows.
    done({**plain, "RAY_ADDRESS": "local"}, BIN / "brainray", "score", *score, runs[0])
    assert not (tmp_path / "home" / ".ray").exists()
    with a_head(tmp_path, plain) as head:
        done(plain, BIN / "brainray", "submit", "--address", head.dashboard, "score", *score, runs[1])
        job = ["python", "jobs/score.py", *score, runs[2]]
        done(plain, BIN / "ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", *job)
    for run in runs:
        assert_scored(run, 8)


@pytest.mark.ray
@pytest.mark.timeout(800)
def test_a_head_that_asks_gets_the_token_that_lies_in_the_home_folder(plain, archive, bundle, tmp_path):
    runs = [f"{tmp_path}/run-{i}" for i in range(2)]
    score = ["--input", str(archive(images=2)), "--model", bundle.uri, "--output"]
    (tmp_path / "home" / ".ray").mkdir()
    (tmp_path / "home" / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    stranger = plain | {"HOME": str(tmp_path)}
    with a_head(tmp_path, plain) as head:
        submit = [BIN / "brainray", "submit", "--address", head.dashboard, "score", *score]
        refused = subprocess.run(
            [*submit, runs[0]], env=stranger, capture_output=True, text=True, timeout=250, check=False
        )
        assert refused.returncode == 2 and "or got none" in refused.stderr, "it does ask"
        at_desk = [BIN / "brainray", "score", *score, runs[1]]
        refused = subprocess.run(
            at_desk,
            env=stranger | {"RAY_ADDRESS": head.address},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert refused.returncode == 2 and "asks for a token" in refused.stderr, refused.stderr
        done(plain, *submit, runs[0])
        done({**plain, "RAY_ADDRESS": head.address}, *at_desk)
    for run in runs:
        assert_scored(run, 8)
