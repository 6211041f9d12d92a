"""The scripts that `ray job submit` runs, on a real local head."""

import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from heads import BIN, ENVIRONMENT

from brainray import storage

pytest_plugins = ("head_fixtures",)
ROOT = Path(__file__).resolve().parents[1]


def submit(address, *entrypoint):
    """Run a job to its end; a head that has just been started may take a while to answer."""
    command = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--", *entrypoint]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=150, check=False
        )
        early = "Failed to connect" in done.stderr or "No available agent" in done.stderr
        if not early or time.monotonic() > deadline:
            return done
        time.sleep(1)


@pytest.mark.timeout(280)
def test_a_submitted_job_scores_an_archive(head, archive, bundle, tmp_path):
    run = tmp_path / "run"
    root = archive(images=3)
    arguments = ["--input", str(root), "--model", bundle.uri, "--output", str(run)]
    done = submit(head, "python", "jobs/score.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"predictions and summary are in {run}" in done.stdout
    assert len(pq.read_table(run / "predictions")) == 12
    assert storage.exists(f"{run}/_SUCCESS")


@pytest.mark.timeout(280)
def test_a_wrong_request_fails_the_job_with_its_one_line(head, tmp_path):
    done = submit(head, "python", "jobs/train.py", "--data", "/none", "--output", str(tmp_path / "model"))
    assert done.returncode != 0
    assert "brainray: --data /none: No such file" in done.stdout


@pytest.mark.timeout(280)
def test_what_is_uploaded_is_the_package_and_the_jobs_and_nothing_else(head):
    done = submit(head, "find", ".", "-type", "f")
    uploaded = {line[2:] for line in done.stdout.splitlines() if line.startswith("./")}
    assert {"brainray/cli.py", "jobs/score.py", "jobs/train.py"} <= uploaded
    assert {name.split("/")[0] for name in uploaded} <= {"brainray", "jobs", "pyproject.toml", "README.md"}
    assert not any("__pycache__" in name for name in uploaded)
