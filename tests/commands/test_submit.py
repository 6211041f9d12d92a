"""`brainray submit`, most of it on a real local head: what is sent, which job it is, its log, every way it can end."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import untrained
from support.heads import BIN, ENVIRONMENT
from support.processes import finished
from support.runs import contents, engine_of, request_for, score_here
from support.waiting import wait_for

from brainray.cli.app import run
from brainray.cli.submit import _check_visible
from brainray.cluster.jobs_client import Job, JobsApi, dashboard_address, found_token, request_headers
from brainray.commands import submit
from brainray.errors import BadRequest, BrainrayError, Unreachable
from brainray.storage.lease import Holder, hold

pytest_plugins = ("support.head_fixtures",)
ROOT = Path(__file__).resolve().parents[2]


def arguments(root="/in", model="/model", output="/out") -> list[str]:
    return ["--input", str(root), "--model", str(model), "--output", str(output)]


def submission(*words: str, output: str = "/out") -> submit.Submission:
    return submit.Submission(command="score", arguments=words, output=output)


def silent(_: str) -> None:
    pass


# What is checked at the desk


@pytest.fixture
def refused(capfd, monkeypatch) -> Callable[..., None]:
    """Expects one line with these words, exit code 2, and no cluster to be asked."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)

    def check(*command: str, words: str) -> None:
        code = run(["submit", *map(str, command)])
        out, err = capfd.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("brainray: ") and words in err, err

    return check


class TestDesk:
    @pytest.mark.parametrize(
        ("command", "words"),
        [
            (["scare", *arguments()], "not scare"),
            (["score", "--input", "/in", "--model", "/m"], "--output"),
            (["score", *arguments(), "--bacth-size", "4"], "--bacth-size"),
            (["score", *arguments(), "--batch-size", "four"], "--batch-size"),
            (["train", "--data", "/data", "--output", "/m", "--epochs", "x"], "--epochs"),
            (["score", *arguments(), "--max-failed", "half"], "--max-failed is 'half'"),
            (["score", *arguments(), "--precision", "fp8"], "--precision is 'fp8'"),
            (["train", "--data", "/data", "--output", "/m", "--folds", "1"], "--folds is 1"),
            (["train", "--data", "/data", "--output", "/m", "--workers", "4-2"], "--workers is 4-2"),
            (["train", "--data", "/data", "--output", "/m", "--preset", "slow"], "--preset is 'slow'"),
        ],
    )
    def test_a_typo_fails_here_and_not_after_the_queue_of_the_cluster(self, refused, command, words):
        refused(*command, words=words)

    @pytest.mark.parametrize("option", ["--input", "--model", "--output"])
    def test_a_relative_path_would_lie_in_a_folder_of_the_cluster_that_is_thrown_away(self, refused, option):
        words = arguments()
        words[words.index(option) + 1] = "here/x"
        refused("score", *words, words=f"{option} here/x is a path relative to this folder")

    def test_the_shipped_model_is_no_path(self, refused):
        """The job brings it along; and a folder of that name is one all the same."""
        refused("score", "--input", "shipped", "--output", "/out", words="--input shipped is a path relative")
        _check_visible("--model", "shipped")
        _check_visible("--init", "shipped")

    @pytest.mark.parametrize("uri", ["s3://user:secret@bucket/x", "s3://b/x?X-Amz-Signature=abc", "s3://tok@bucket"])
    def test_a_secret_in_an_argument_would_be_shown_in_the_dashboard(self, refused, uri):
        refused("score", *arguments(root=uri), words="--input holds a user, password or signature")

    @pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "api_token", "DB_PASSWORD"])
    def test_a_secret_in_the_environment_would_be_shown_in_the_dashboard(self, refused, monkeypatch, name):
        monkeypatch.setenv(name, "x")
        refused("--env", name, "score", *arguments(), words=f"--env {name} looks like a secret")

    def test_a_variable_for_the_job_must_be_set_and_hold_no_password(self, refused, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy")
        refused("--env", "HTTPS_PROXY", "score", *arguments(), words="--env HTTPS_PROXY holds a user, password")
        refused("--env", "NOT_SET_ANYWHERE", "score", *arguments(), words="not set here")

    @pytest.mark.parametrize(
        ("address", "words"),
        [
            ("ray://head:10001", "give --address http://head:8265"),
            ("10.0.0.7:6379", "give --address http://10.0.0.7:8265"),
            ("local", "http://HOST:8265"),
            ("http://head:port", "http://HOST:8265"),
            ("http://user:secret@head:8265", "holds a user or password"),
        ],
    )
    def test_another_kind_of_address_says_which_one_is_wanted(self, refused, monkeypatch, address, words):
        refused("--address", address, "score", *arguments(), words=words)
        monkeypatch.setenv("RAY_ADDRESS", address)
        refused("score", *arguments(), words="RAY_ADDRESS")

    def test_the_option_wins_over_the_environment_which_is_read_as_ray_reads_it(self):
        both = {"RAY_API_SERVER_ADDRESS": "http://api:1", "RAY_ADDRESS": "http://ray:2/"}
        assert dashboard_address("https://given/ray/", both) == "https://given/ray"
        assert dashboard_address(None, both) == "http://api:1"
        assert dashboard_address(None, {"RAY_ADDRESS": "http://ray:2/"}) == "http://ray:2"
        assert dashboard_address(None, {"RAY_ADDRESS": "auto"}) == "http://127.0.0.1:8265"

    def test_help_after_the_command_is_the_commands_own(self, capfd):
        assert run(["submit", "score", "--help"]) == 0
        assert "--max-failed" in capfd.readouterr().out

    def test_a_desk_needs_neither_ray_nor_torch_to_submit(self):
        command = ["submit", "--address", "http://127.0.0.1:1", "--patience", "0", "score", *arguments("s3://b/x")]
        script = f"import sys; from brainray.cli.app import run; code = run({command}); print(code, *sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=True)
        code, *modules = done.stdout.split()
        assert code == "1" and "has not answered" in done.stderr
        assert {name.split(".")[0] for name in modules} & {"ray", "torch", "pandas", "aiohttp"} == set()


# What is sent


def wheel_files(folder):
    """What a wheel of this project holds, less what describes it."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "brainray"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as wheel:
        return {name for name in wheel.namelist() if name.startswith("brainray/")}


class TestUpload:
    def test_it_is_what_an_installed_package_has_and_nothing_else(self, tmp_path):
        uploaded = set(submit.package_files())
        assert uploaded == wheel_files(tmp_path)
        every = {path for path in (ROOT / "brainray").rglob("*") if path.is_file()}
        modules = {str(path.relative_to(ROOT)) for path in every if path.suffix in (".py", ".html")}
        assert modules <= uploaded, "a folder of the package stays at home"

    def test_notes_caches_and_scans_beside_the_modules_stay_at_home(self, tmp_path):
        folder = tmp_path / "brainray"
        for name in ("cli.py", "py.typed", "scan.jpg", ".env", "__pycache__/cli.pyc", "sub/scan.jpg"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        assert submit.package_files(folder) == {"brainray/cli.py": b"cli.py", "brainray/py.typed": b"py.typed"}

    def test_an_absurd_size_is_refused_by_the_name_of_the_largest_file(self, tmp_path):
        (tmp_path / "weights.py").write_bytes(bytes(31_000_000))
        with pytest.raises(BadRequest, match=r"31 MB to upload, more than 30.*weights\.py"):
            submit.package_files(tmp_path)

    def test_the_same_files_have_the_same_name_so_a_cluster_is_sent_them_once(self):
        files = {"brainray/a.py": b"1", "brainray/b.py": b"2"}
        again = dict(reversed(files.items()))
        assert submit.pack(files) == submit.pack(again)
        names = {submit.pack(other)[0] for other in (files, files | {"brainray/a.py": b"12"}, {"brainray/a.py": b"12"})}
        assert len(names) == 3

    def test_arguments_reach_the_command_as_they_were_given(self, tmp_path):
        words = ["--group-by", "a b'c\"$HOME", "--include", "*.jpg; touch x", "--max-failed", "1%", ""]
        (tmp_path / "python").write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
        (tmp_path / "python").chmod(0o755)
        shell = ["/bin/sh", "-c", submission(*words).entrypoint]
        done = subprocess.run(
            shell, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=250, check=True
        )
        assert json.loads(done.stdout) == ["-m", "brainray", "score", *words]

    def test_an_id_belongs_to_a_command_and_an_output(self):
        assert submission("--rescore").stem == submission().stem
        train = submit.Submission(command="train", arguments=(), output="/out")
        assert len({submission().stem, submission(output="/other").stem, train.stem}) == 3

    @pytest.mark.parametrize("source", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME"])
    def test_the_token_is_the_one_that_rays_own_client_would_send(self, tmp_path, monkeypatch, source):
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(" of-the-file\n")
        value = {"RAY_AUTH_TOKEN": " of-the-variable ", "RAY_AUTH_TOKEN_PATH": f"{tmp_path}/.ray/auth_token"}
        monkeypatch.setenv("HOME", str(tmp_path))
        environment = {"RAY_AUTH_MODE": "Token", "HOME": str(tmp_path)}
        environment |= {name: text for name, text in value.items() if name == source}
        script = (
            "from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled as f\n"
            "import json; print(json.dumps(f({})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=250, check=True
        )
        theirs = {name.lower(): text for name, text in json.loads(done.stdout).items()}
        assert {name.lower(): text for name, text in request_headers(environment).items()} == theirs
        assert request_headers(environment | {"RAY_AUTH_MODE": "disabled"}) == {}

        del environment["RAY_AUTH_MODE"]
        assert request_headers(environment) == {}, "nobody gets it who does not ask"
        assert f"Bearer {found_token(environment)}" == theirs["authorization"]
        assert found_token(environment | {"RAY_AUTH_MODE": "disabled"}) is None

    def test_no_token_is_found_where_there_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert found_token({}) is None
        with pytest.raises(BadRequest, match="the token cannot be read"):
            found_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})

    def test_a_token_that_is_not_there_is_one_line(self, tmp_path):
        with pytest.raises(BadRequest, match="the token cannot be read"):
            request_headers({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
        with pytest.raises(BadRequest, match="RAY_JOB_HEADERS"):
            request_headers({"RAY_JOB_HEADERS": "x"})


# How a log is shown


@given(st.lists(st.text(alphabet="ab\n", max_size=8), max_size=12), st.data())
def test_a_log_that_is_asked_for_at_any_moment_is_shown_once_and_whole(pieces, data):
    out = io.StringIO()
    log = submit.JobLog(out, lambda: 0.0)
    text = "".join(pieces)
    for length in sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6))):
        log.show(data.draw(st.sampled_from([text[:length], None, ""])))
        assert text.startswith(out.getvalue()) and out.getvalue()[-1:] in ("", "\n")
    log.show(text, whole=True)
    assert out.getvalue() == text + "\n" * (text[-1:] not in ("", "\n"))


def test_a_long_log_is_asked_for_less_often_for_ray_sends_it_whole():
    now = [0.0]
    log = submit.JobLog(io.StringIO(), lambda: now[0])
    assert log.due
    log.show("x" * 30_000_000)
    now[0] = 29
    assert not log.due
    now[0] = 31
    assert log.due


def test_a_reader_who_leaves_does_not_end_the_watch():
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    log = submit.JobLog(Gone(), lambda: 0.0)
    log.show("a\n")
    log.show("a\nb\n", whole=True)


# How it ends, where a real cluster is hard to bring there


class Stub:
    """A dashboard that gives what it was told: (status, body, headers), or None to hang up, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list] = {}
        self.seen: list[tuple[str, str | None]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stub.seen.append((f"{self.command} {self.path}", self.headers.get("Authorization")))
                queue = stub.answers.get(f"{self.command} {self.path}", [(404, {}, {})])
                answer = queue.pop(0) if len(queue) > 1 else queue[0]
                if answer is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, body, headers = answer
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = handle_one

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def says(self, request: str, *answers) -> None:
        self.answers[request] = [
            answer if answer is None or isinstance(answer, tuple) else (200, answer, {}) for answer in answers
        ]


@pytest.fixture
def stub():
    server = Stub()
    yield server
    server.close()


def api_of(stub, *, said: list[str] | None = None, patience_s=5.0) -> JobsApi:
    """Seconds pass at each wait, and not otherwise."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return JobsApi(
        stub.address,
        headers={"Authorization": "Bearer t"},
        patience_s=patience_s,
        say=silent if said is None else said.append,
        clock=lambda: now[0],
        sleep=sleep,
    )


def record(status="RUNNING", **changes) -> dict:
    values = {"submission_id": "j-1", "entrypoint": submission().entrypoint, "driver_exit_code": None, "message": ""}
    return values | {"status": status} | changes


def follow_stub(stub, *, out=None, **options) -> Job:
    started = Job.from_json(record())
    return submit.follow(started, api_of(stub, **options), out=out or io.StringIO(), say=silent, sleep=lambda _: None)


class TestStub:
    def test_a_log_is_whole_though_answers_break_off_and_servers_fail(self, stub):
        lines = [f"line {i}\n" for i in range(6)]
        ended = record("SUCCEEDED")
        broken = (200, b"{", {"Content-Length": "500"})
        stub.says("GET /api/jobs/j-1", record(), None, broken, record(), (503, {}, {}), record(), record(), ended)
        logs = [{"logs": "".join(lines[:n])} for n in (1, 3, 4, 6)]
        stub.says("GET /api/jobs/j-1/logs", logs[0], None, logs[1], (500, b"", {}), logs[2], (500, b"", {}), logs[3])
        out, said = io.StringIO(), []
        assert follow_stub(stub, out=out, said=said).status == "SUCCEEDED"
        assert out.getvalue() == "".join(lines)
        assert sum("does not answer" in line for line in said) == sum("answers again" in line for line in said) > 0

    def test_a_cluster_that_stays_silent_is_left_with_a_line_that_tells_how_to_come_back(self, stub):
        stub.says("GET /api/jobs/j-1", record(), None)
        with pytest.raises(
            BrainrayError,
            match=r"^j-1 may still run, but .* not answered for 5 s.*same command again, which follows it",
        ) as e:
            follow_stub(stub)
        assert e.value.exit_code == 1

    def test_a_cluster_that_was_started_anew_has_lost_the_job(self, stub):
        stub.says("GET /api/jobs/j-1", record(), (404, b"", {}))
        with pytest.raises(BrainrayError, match="started anew and knows j-1 no more") as caught:
            follow_stub(stub)
        assert caught.value.exit_code == 1

    @pytest.mark.parametrize(
        ("ending", "code", "words"),
        [
            (record("FAILED", driver_exit_code=3), 3, "exit code 3"),
            (record("FAILED", driver_exit_code=130), 130, "exit code 130"),
            (record("FAILED", driver_exit_code=-9), 137, "exit code 137"),
            (record("FAILED", message="Job supervisor actor died:\n  the node is gone\n"), 1, "the node is gone"),
            (record("FAILED"), 1, "does not say why"),
            (record("STOPPED"), 130, "was stopped"),
        ],
    )
    def test_the_exit_code_is_the_jobs_own(self, ending, code, words):
        with pytest.raises(BrainrayError, match=words) as caught:
            submit.check_ending(Job.from_json(ending))
        assert caught.value.exit_code == code

    def test_a_redirect_does_not_take_the_token_elsewhere(self, stub):
        stub.says("GET /api/jobs/", (302, b"", {"Location": f"{stub.address}/login"}))
        with pytest.raises(BadRequest, match="no Ray dashboard"):
            api_of(stub).jobs()
        assert [path for path, _ in stub.seen] == ["GET /api/jobs/"]

    def test_a_token_is_brought_to_a_cluster_that_asks_and_stays_there(self, stub):
        asks = (401, b"Unauthorized: Missing authentication token", {})
        stub.says("GET /api/jobs/", [], asks, [])
        api = JobsApi(stub.address, headers={}, patience_s=0, say=silent, find_token=lambda: "found")
        assert api.jobs() == api.jobs() == api.jobs() == []
        assert [token for _, token in stub.seen] == [None, None, "Bearer found", "Bearer found"]

    @pytest.mark.parametrize(
        ("answer", "headers"),
        [
            ((401, b"Unauthorized: Missing authentication token", {}), {"authorization": "Bearer mine"}),
            ((403, b"Forbidden: Invalid authentication token", {}), {"authorization": "Bearer mine"}),
            ((401, b"log in first", {"WWW-Authenticate": "Basic"}), {}),
            ((302, b"authentication token", {"Location": "http://127.0.0.1:1/"}), {}),
        ],
    )
    def test_nobody_else_gets_the_token(self, stub, answer, headers):
        stub.says("GET /api/jobs/", answer)
        with pytest.raises(BadRequest):
            JobsApi(stub.address, headers=headers, patience_s=0, say=silent, find_token=lambda: "found").jobs()
        assert [token for _, token in stub.seen] == [headers.get("authorization")]

    def test_a_token_that_is_not_the_clusters_is_tried_once(self, stub):
        asks = (401, b"Unauthorized: Missing authentication token", {})
        stub.says("GET /api/jobs/", asks, (403, b"Forbidden: Invalid authentication token", {}))
        with pytest.raises(BadRequest, match=r"refuses the token.*Invalid authentication token"):
            JobsApi(stub.address, headers={}, patience_s=0, say=silent, find_token=lambda: "found").jobs()
        assert len(stub.seen) == 2

    @pytest.mark.parametrize("answer", [(200, b"<html>", {}), (404, b"nothing here", {})])
    def test_another_server_is_told_from_a_dashboard_at_once(self, stub, answer):
        stub.says("GET /api/jobs/", answer)
        with pytest.raises(BadRequest, match="is no Ray dashboard"):
            api_of(stub).jobs()

    def test_a_submission_whose_answer_was_lost_is_not_made_twice(self, stub):
        name, _ = submit.pack(submit.package_files())
        job_id = f"{submission().stem}-1"
        stub.says("GET /api/jobs/", [])
        stub.says(f"GET /api/packages/gcs/{name}", {})
        stub.says("POST /api/jobs/", None, (500, b"ValueError: already exists", {}))
        stub.says(f"GET /api/jobs/{job_id}", record("PENDING", submission_id=job_id))
        assert submit.place_job(submission(), api_of(stub), say=silent).job_id == job_id
        assert [path for path, _ in stub.seen].count("POST /api/jobs/") == 2

    def test_the_next_number_is_taken_when_the_last_job_has_ended(self, stub):
        ids = [f"{submission().stem}-{n}" for n in (9, 10, 2)]
        others = [record(submission_id=None), record(submission_id="raysubmit_x"), record(submission_id=f"x-{ids[0]}")]
        stub.says("GET /api/jobs/", [record("FAILED", submission_id=i) for i in ids] + others)
        stub.says(f"GET /api/packages/gcs/{submit.pack(submit.package_files())[0]}", {})
        stub.says("POST /api/jobs/", {})
        stub.says(f"GET /api/jobs/{submission().stem}-11", record(submission_id=f"{submission().stem}-11"))
        assert submit.place_job(submission(), api_of(stub), say=silent).job_id == f"{submission().stem}-11"

    def test_a_cluster_that_takes_no_job_says_why(self, stub):
        stub.says("POST /api/jobs/", (500, b"Traceback\nNo available agent to submit job\n", {}))
        with pytest.raises(BrainrayError, match="did not take the job: No available agent"):
            api_of(stub).submit("j-1", entrypoint="x", runtime_env={})
        with pytest.raises(Unreachable):
            JobsApi("http://127.0.0.1:1", headers={}, patience_s=0, say=silent).jobs()


# On a real head


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
    root = archive(images=2)
    (root / "glioma" / "broken.jpg").write_bytes(b"no image")
    done, held, other = tmp_path / "done", tmp_path / "held", untrained(tmp_path / "other", seed=1)
    score_here(request_for(root, done, bundle), engine_of(bundle))
    for code in (0, 3, 4):
        shutil.copytree(done, tmp_path / f"done{code}")
    words = {
        code: arguments(root, (other if code == 4 else bundle).uri, tmp_path / f"done{code}") for code in (0, 3, 4)
    }
    asked = {
        0: ["score", *words[0], "--max-failed", "50%"],
        2: ["train", "--data", "/none", "--output", str(tmp_path / "model")],
        3: ["score", *words[3], "--max-failed", "0"],
        4: ["score", *words[4]],
        5: ["score", *arguments(root, bundle.uri, held)],
    }
    with hold(str(held), purpose="score", say=silent), ThreadPoolExecutor(5) as pool:
        answers = dict(zip(asked, pool.map(lambda words: submitted(head, *words), asked.values()), strict=True))
    assert {expected: answer[0] for expected, answer in answers.items()} == {
        code: code for code in range(6) if code != 1
    }
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
    shell = "find . -type f; for i in $(seq 400); do echo line $i; sleep 0.01; done; echo -n end; exit 3"
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
    lines = out.getvalue().splitlines()
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


def test_a_cluster_that_is_gone_ends_the_watch_and_says_that_the_job_may_still_run(
    doomed_head, tmp_path, archive, bundle
):
    head, kill = doomed_head
    output = held_elsewhere(tmp_path / "run")
    words = ["score", *arguments(archive(images=1), bundle.uri, output)]
    process = launch(head, "--patience", "2", *words)
    job_id = f"{submit.Submission(command='score', arguments=(), output=str(output)).stem}-1"
    await_status(head, job_id, "RUNNING")
    kill()
    code, _, err = finish(process)
    assert code == 1
    assert f"{job_id} may still run" in err.splitlines()[-1] and "same command again" in err.splitlines()[-1]
    assert "does not answer" in err


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
    wait_for(
        lambda: not [p for p in psutil.process_iter(["cmdline"]) if str(output) in (p.info["cmdline"] or [])],
        "the driver is gone",
    )
    before = finished(output)
    assert 5 <= len(before) < 120, "killed in the middle"
    code, _, err = submitted(heads.running()[0], *words)
    assert code == 0, err
    assert len(contents(output)) == 240
    assert finished(output).items() >= before.items(), "what was done is not done again"
