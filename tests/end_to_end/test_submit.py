"""`brainray submit` on a real local head: which job it is, its log, its exit code."""

import io
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from support.cluster.heads import BIN, ENVIRONMENT, done
from support.cluster.jobs import arguments, record, silent
from support.machine.processes import finished
from support.machine.waiting import wait_for
from support.models.bundles import untrained
from support.scoring.runs import contents, engine_of, request_for, score_here

from brainray import storage
from brainray.cluster.jobs_client import Job, JobsApi, request_headers
from brainray.commands import submit
from brainray.errors import BrainrayError
from brainray.storage.lease import Holder, hold

pytest_plugins = ("support.cluster.head_fixtures",)


def launch(address: str, *words: str, **environment: str) -> subprocess.Popen:
    """`brainray submit` from a folder that holds nothing."""
    command = [BIN / "brainray", "submit", "--address", address, *words]
    return subprocess.Popen(
        command,
        cwd="/",
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=250)
    return process.returncode, out, err


def submitted(address: str, *words: str, **environment: str) -> tuple[int, str, str]:
    return finish(launch(address, *words, **environment))


def real_api(address: str, say: Callable[[str], None] = silent) -> JobsApi:
    return JobsApi(address, headers=request_headers(ENVIRONMENT), patience_s=120, say=say)


def held_elsewhere(output: Path) -> Path:
    """An output whose holder is on another machine and silent: a run waits long before it takes over."""
    holder = Holder(
        host="elsewhere",
        pid=1,
        started_ticks=1,
        boot_id="another",
        pid_namespace="another",
        purpose="score",
        since="2026-01-01T00:00:00+00:00",
        renewed_s=0.0,
        ttl_s=600.0,
        renewals=0,
        released=False,
    )
    (output / ".lease" / "00000001").mkdir(parents=True)
    (output / ".lease" / "00000001" / "holder.json").write_text(json.dumps(asdict(holder)))
    return output


def await_status(address: str, job_id: str, status: str) -> None:
    def has_it() -> bool:
        job = real_api(address).find(job_id)
        assert job is None or job.status == status or not job.ended, job
        return job is not None and job.status == status

    wait_for(has_it, f"{job_id} is {status}", step_s=0.1)


@pytest.mark.timeout(600)
def test_two_schedulers_that_fire_in_the_same_instant_make_one_job_and_both_get_its_code(
    head, archive, bundle, tmp_path
):
    output = tmp_path / "run"
    words = [*arguments(archive(images=3), bundle.uri, output), "--workers", "1"]
    answers = [finish(process) for process in [launch(head, "score", *words) for _ in range(2)]]
    for code, out, err in answers:
        assert code == 0, err
        assert f"predictions and summary are in {output}" in out
        assert "uploading" not in out and "following" not in out
        assert "submitted" in err or "following it" in err
    assert len(pq.read_table(output / "predictions")) == 12
    stem = submit.Submission(command="score", arguments=(), output=str(output)).stem
    assert [job.job_id for job in real_api(head).jobs() if job.job_id.startswith(stem)] == [f"{stem}-1"]


@pytest.mark.timeout(600)
def test_every_exit_code_of_a_job_is_that_of_the_command_that_submitted_it(head, archive, bundle, tmp_path):
    """But 0, which every other job has that ends well."""
    root = archive(images=2)
    (root / "glioma" / "broken.jpg").write_bytes(b"no image")
    done, held, other = tmp_path / "done", tmp_path / "held", untrained(tmp_path / "other", seed=1)
    score_here(request_for(root, done, bundle), engine_of(bundle))
    for code in (3, 4):
        shutil.copytree(done, tmp_path / f"done{code}")
    words = {code: arguments(root, (other if code == 4 else bundle).uri, tmp_path / f"done{code}") for code in (3, 4)}
    asked = {
        2: ["train", "--data", "/none", "--output", str(tmp_path / "model")],
        3: ["score", *words[3], "--max-failed", "0"],
        4: ["score", *words[4]],
        5: ["score", *arguments(root, bundle.uri, held)],
    }
    with hold(str(held), purpose="score", say=silent), ThreadPoolExecutor(4) as pool:
        answers = dict(zip(asked, pool.map(lambda words: submitted(head, *words), asked.values()), strict=True))
    assert {expected: answer[0] for expected, answer in answers.items()} == {code: code for code in (2, 3, 4, 5)}
    assert "brainray: --data /none: No such file" in answers[2][1]
    for code in (2, 3, 4, 5):
        assert re.search(rf"^brainray: brainray-\w+-\w+-\d+ ended with exit code {code}$", answers[code][2], re.M)


@pytest.mark.timeout(600)
def test_a_job_is_left_found_again_and_stopped(head, tmp_path, archive, bundle):
    output = held_elsewhere(tmp_path / "run")
    words = ["score", *arguments(archive(images=1), bundle.uri, output)]
    code, out, _ = submitted(head, "--detach", "--env", "COLOUR", *words, COLOUR="blue")
    job_id = out.strip()
    assert code == 0 and job_id.endswith("-1")
    await_status(head, job_id, "RUNNING")
    watched, twice = launch(head, *words), launch(head, *words)
    code, _, err = submitted(head, *words, "--batch-size", "4")
    assert code == 5 and f"{job_id}, which was submitted with other arguments" in err
    assert any("held by score on elsewhere" in line for line in watched.stdout)
    watched.send_signal(signal.SIGINT)
    code, _, err = finish(watched)
    assert code == 130 and f"{job_id} goes on without being watched" in err and "Traceback" not in err
    assert real_api(head).find(job_id).status == "RUNNING"
    code, _, err = submitted(head, "--stop", *words)
    assert code == 0 and f"{job_id} has ended: STOPPED" in err
    code, out, err = finish(twice)
    assert code == 130 and f"{job_id} was stopped" in err
    assert submitted(head, "--stop", *words)[0] == 0
    asked = urllib.request.Request(f"{head}/api/jobs/{job_id}", headers=request_headers(ENVIRONMENT))
    with urllib.request.urlopen(asked, timeout=250) as answer:
        assert json.load(answer)["runtime_env"]["env_vars"] == {"COLOUR": "blue"}


def test_a_driver_that_is_killed_has_the_code_of_its_signal(head, tmp_path, archive, bundle):
    output = held_elsewhere(tmp_path / "run")
    process = launch(head, "score", *arguments(archive(images=1), bundle.uri, output))

    def drivers():
        assert process.poll() is None
        return [p for p in psutil.process_iter(["cmdline"]) if is_driver(p, output)]

    wait_for(drivers, "there is a driver", step_s=0.2)[0].kill()
    code, _, err = finish(process)
    assert code == 137 and "ended with exit code 137" in err


def test_of_many_submissions_of_one_id_the_cluster_takes_one(head):
    def try_to(_: int) -> bool:
        return real_api(head).submit("race", entrypoint="true", runtime_env={})

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(try_to, range(6))) == [False] * 5 + [True]


def is_driver(process: psutil.Process, output: Path) -> bool:
    words = process.info["cmdline"] or []
    return str(output) in words and "submit" not in words and "score" in words


class FlakyProxy:
    """A proxy before the head: lets through, breaks answers off, hangs up, refuses."""

    def __init__(self, address: str) -> None:
        self._target = ("127.0.0.1", int(address.rpartition(":")[2]))
        self.allowed: int | None = None  # bytes of an answer; None: all
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self._target) as target:
            threading.Thread(target=self._pump, args=(client, target, None), daemon=True).start()
            self._pump(target, client, self.allowed)
            client.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, allowed: int | None) -> None:
        with suppress(OSError):
            while (allowed is None or allowed > 0) and (block := source.recv(65536)):
                sink.sendall(block[:allowed])
                allowed = None if allowed is None else allowed - len(block)

    def let_through(self) -> None:
        self.allowed = None

    def break_off(self, allowed: int) -> None:
        self.allowed = allowed

    def close(self) -> None:
        self._server.close()


def test_a_broken_stream_costs_no_line_and_shows_none_twice(head):
    """And what is sent arrives whole: the job lists its folder."""
    proxy, api = FlakyProxy(head), real_api(head)
    said: list[str] = []
    folder = submit.upload(api, say=said.append)
    shell = (
        "find . -type f -not -name '*.pyc'; for i in $(seq 400); do echo line $i; sleep 0.01; done; echo -n end; exit 3"
    )
    assert api.submit("flaky", entrypoint=shell, runtime_env={"working_dir": folder})
    out = io.StringIO()
    watched = real_api(proxy.address, said.append)
    proxy.break_off(0)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(
            submit.follow, Job.from_json(record(submission_id="flaky")), watched, out=out, say=said.append
        )
        wait_for(lambda: any("does not answer" in line for line in said), "the watch meets the outage")
        proxy.let_through()
        wait_for(lambda: any("answers again" in line for line in said), "and its end")
        for allowed in (100, 1000, 4000):  # a part of an answer; where that is the whole of it, there is no outage
            time.sleep(0.4)
            proxy.break_off(allowed)
            time.sleep(0.7)
            proxy.let_through()
        ended = job.result(120)
    proxy.close()
    assert out.getvalue() == api.log("flaky") + "\n"
    # Ray writes a line of its own to the same file, wherever the shell's have come to by then.
    lines = out.getvalue().replace(f"Running entrypoint for job flaky: {shell}\n", "").splitlines()
    assert [line for line in lines if line.startswith("line")] == [f"line {i + 1}" for i in range(400)]
    assert {line[2:] for line in lines if line.startswith("./")} == set(submit.package_files())
    with pytest.raises(BrainrayError) as caught:
        submit.check_ending(ended)
    assert caught.value.exit_code == 3
    submit.upload(api, say=said.append)
    assert "has these" in said[-1]


def test_a_job_that_ray_cannot_start_is_one_line_and_code_1(head):
    api = real_api(head)
    assert api.submit("no-folder", entrypoint="true", runtime_env={"working_dir": "gcs://_ray_pkg_none.zip"})
    job = submit.follow(api.find("no-folder"), api, out=io.StringIO(), say=silent)
    with pytest.raises(BrainrayError, match=r"^no-folder failed: .*_ray_pkg_none") as caught:
        submit.check_ending(job)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)


def test_a_wrong_token_and_no_token_are_one_line(head):
    for environment in ({"RAY_AUTH_TOKEN": "wrong"}, {"RAY_AUTH_MODE": "disabled"}):
        code, out, err = submitted(head, "score", *arguments(), **environment)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "refuses the token" in err and ENVIRONMENT["RAY_AUTH_TOKEN"] not in err


@pytest.mark.timeout(800)
def test_a_head_that_asks_gets_the_token_that_lies_in_the_home_folder(head, heads, plain, archive, bundle, tmp_path):
    """Of `submit`, whose job finds nothing new to score, and of a run at the desk."""
    root, submitted_run, run = archive(images=2), tmp_path / "submitted", tmp_path / "run"
    score_here(request_for(root, submitted_run, bundle), engine_of(bundle))
    asked = [BIN / "brainray", "submit", "--address", head, "score", *arguments(root, bundle.uri, submitted_run)]
    at_desk = [BIN / "brainray", "score", *arguments(root, bundle.uri, run), "--workers", "1"]
    here = plain | {"RAY_ADDRESS": heads.running().address}
    refused = [
        subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=250, check=False)
        for command, environment in ((asked, plain), (at_desk, here))
    ]
    assert [each.returncode for each in refused] == [2, 2], "it does ask"
    assert "or got none" in refused[0].stderr and "asks for a token" in refused[1].stderr
    token = Path(plain["HOME"]) / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(ENVIRONMENT["RAY_AUTH_TOKEN"])
    assert "nothing new to score" in done(plain, *asked)
    done(here, *at_desk)
    assert len(contents(run)) == 8 and storage.exists(f"{run}/_SUCCESS")


@pytest.mark.timeout(600)
def test_what_a_lost_head_leaves_undone_the_same_command_does_on_the_next_one(
    doomed_head, heads, tmp_path, archive, bundle
):
    address, kill = doomed_head
    output = tmp_path / "run"
    words = ["score", *arguments(archive(images=60), bundle.uri, output), "--shard-size", "2", "--workers", "1"]
    process = launch(address, "--patience", "2", *words)
    wait_for(lambda: len(finished(output)) >= 5 or process.poll() is not None, "five parts")
    kill()
    code, _, err = finish(process)
    assert code == 1, err
    job_id = f"{submit.Submission(command='score', arguments=(), output=str(output)).stem}-1"
    assert f"{job_id} may still run" in err.splitlines()[-1] and "same command again" in err.splitlines()[-1]
    assert "does not answer" in err
    wait_for(
        lambda: not [p for p in psutil.process_iter(["cmdline"]) if str(output) in (p.info["cmdline"] or [])],
        "the driver is gone",
    )
    before = finished(output)
    assert 5 <= len(before) < 120, "killed in the middle"
    code, _, err = submitted(heads.running().dashboard, *words)
    assert code == 0, err
    assert len(contents(output)) == 240
    assert finished(output).items() >= before.items(), "what was done is not done again"
