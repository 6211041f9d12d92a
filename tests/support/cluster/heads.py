"""Ray heads of the tests' own, on free ports."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.machine.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
# Neither changes what is tested: workers do not starve beside other tests, and none is started without work for it.
FRUGAL = {"RAY_worker_niceness": "0", "RAY_prestart_worker_first_driver": "0"}
# The job's `python` is the one of the tests; no cluster of the user's own is touched, nor is their token.
_INHERITED = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
ENVIRONMENT = {**_INHERITED, **FRUGAL, **_TOKEN, "PATH": f"{BIN}:{os.environ['PATH']}"}
_START_S = 240.0


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head that takes jobs."""

    dashboard: str
    address: str  # host:port, as in RAY_ADDRESS
    pid: int  # and its process group


@contextmanager
def a_head(folder: Path, environment: Mapping[str, str]) -> Iterator[Head]:
    """A head that `ray start` starts in that environment. Only its processes are ended."""
    scratch = tempfile.mkdtemp(prefix="ray-")  # short, for it holds sockets; a head leaves its address behind there
    port, dashboard = free_port(), free_port()
    command = [BIN / "ray", "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    # Ports of its own throughout: with the default ones, the agent of another Ray on the machine is in the way.
    ports = [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
    options = ["--block", "--disable-usage-stats", *ports]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options],
            stdout=log,
            stderr=log,
            env={**environment, "RAY_TMPDIR": scratch},
            start_new_session=True,
        )
        try:
            head = Head(dashboard=f"http://127.0.0.1:{dashboard}", address=f"127.0.0.1:{port}", pid=process.pid)
            _await(f"{head.dashboard}/api/jobs/", process, environment.get("RAY_AUTH_TOKEN"))
            yield head
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(scratch, ignore_errors=True)


def done(environment: Mapping[str, str], *command: str | Path, cwd: Path = ROOT) -> str:
    """What a command prints that must succeed; a head that has just been started may take a while to take jobs."""
    deadline = time.monotonic() + _START_S
    while True:
        ended = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250, check=False
        )
        if "No available agent" not in ended.stderr or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def _await(url: str, process: subprocess.Popen, token: str | None) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60).close()
            return
        except OSError as exc:
            if getattr(exc, "code", None) == 401 and not token:  # it is there, and asks for one
                return
            assert process.poll() is None and time.monotonic() < deadline, "the head does not start"
            time.sleep(0.2)
