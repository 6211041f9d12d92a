"""The scripts that `ray job submit` runs, on a real local head."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brainray import storage

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# The job's `python` is the one of the tests; no cluster of the user's own is touched, nor is their token.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head of its own, in a folder of its own, for it leaves its address behind; only its processes are ended."""
    folder = tmp_path_factory.mktemp("head")
    ENVIRONMENT["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")  # short, for it holds sockets
    port, dashboard = free_port(), free_port()
    command = [BIN / "ray", "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    # Ports of its own throughout: with the default ones, the agent of another Ray on the machine is in the way.
    ports = [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
    options = ["--block", "--disable-usage-stats", *ports]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True
        )
        try:
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(ENVIRONMENT["RAY_TMPDIR"], ignore_errors=True)


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
