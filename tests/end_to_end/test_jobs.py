"""The scripts that `ray job submit` runs, on a real local head."""

import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.cluster.heads import BIN, ENVIRONMENT

from brainray import storage

pytest_plugins = ("support.cluster.head_fixtures",)
ROOT = Path(__file__).resolve().parents[2]


def submit(address, *entrypoint):
    """Run a job to its end; a head that has just been started may take a while to answer."""
    command = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--", *entrypoint]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=250, check=False
        )
        early = "Failed to connect" in done.stderr or "No available agent" in done.stderr
        if not early or time.monotonic() > deadline:
            return done
        time.sleep(1)


@pytest.mark.timeout(600)
def test_a_submitted_job_scores_an_archive_with_what_was_uploaded(head, archive, bundle, tmp_path):
    """One job tries it all, for each takes its time to start: what came along, a wrong request, a right one."""
    run = tmp_path / "run"
    score = f"python jobs/score.py --input {archive(images=3)} --model {bundle.uri} --output {run}"
    train = f"python jobs/train.py --data /none --output {tmp_path}/model"
    done = submit(head, "sh", "-c", f"find . -type f; {train}; echo code $?; {score}")
    assert done.returncode == 0, done.stdout + done.stderr

    uploaded = {line[2:] for line in done.stdout.splitlines() if line.startswith("./")}
    assert {"brainray/cli/app.py", "jobs/score.py", "jobs/train.py"} <= uploaded
    assert {name.split("/")[0] for name in uploaded} <= {"brainray", "jobs", "pyproject.toml", "README.md"}
    assert not any("__pycache__" in name or name.endswith("/README.md") for name in uploaded)

    assert "brainray: --data /none: No such file" in done.stdout
    assert "code 2" in done.stdout

    assert f"predictions and summary are in {run}" in done.stdout
    assert len(pq.read_table(run / "predictions")) == 12
    assert storage.exists(f"{run}/_SUCCESS")
