"""The client of the Jobs API: every way a job can end, where a real cluster is hard to bring there."""

import io
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.cluster.jobs import record, silent, submission
from support.each import each

from brainray.cluster.jobs_client import Job, JobsApi
from brainray.commands import submit
from brainray.errors import BadRequest, BrainrayError, Unreachable


def test_a_long_log_is_asked_for_less_often_for_ray_sends_it_whole():
    now = [0.0]
    log = submit.JobLog(io.StringIO(), lambda: now[0])
    assert log.due
    log.show("x" * 30_000_000)
    now[0] = 29
    assert not log.due
    now[0] = 31
    assert log.due


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


@pytest.fixture
def small_package(monkeypatch) -> str:
    """The name of what is uploaded: one file, for to compress the whole package takes 0.3 s."""
    files = {"brainray/py.typed": b""}
    monkeypatch.setattr(submit, "package_files", lambda: files)
    return submit.pack(files)[0]


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
        with pytest.raises(BrainrayError, match="was restarted and has lost j-1") as caught:
            follow_stub(stub)
        assert caught.value.exit_code == 1

    @each(
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

    def test_a_submission_whose_answer_was_lost_is_not_made_twice(self, stub, small_package):
        job_id = f"{submission().stem}-1"
        stub.says("GET /api/jobs/", [])
        stub.says(f"GET /api/packages/gcs/{small_package}", {})
        stub.says("POST /api/jobs/", None, (500, b"ValueError: already exists", {}))
        stub.says(f"GET /api/jobs/{job_id}", record("PENDING", submission_id=job_id))
        assert submit.place_job(submission(), api_of(stub), say=silent).job_id == job_id
        assert [path for path, _ in stub.seen].count("POST /api/jobs/") == 2

    def test_the_next_number_is_taken_when_the_last_job_has_ended(self, stub, small_package):
        ids = [f"{submission().stem}-{n}" for n in (9, 10, 2)]
        others = [record(submission_id=None), record(submission_id="raysubmit_x"), record(submission_id=f"x-{ids[0]}")]
        stub.says("GET /api/jobs/", [record("FAILED", submission_id=i) for i in ids] + others)
        stub.says(f"GET /api/packages/gcs/{small_package}", {})
        stub.says("POST /api/jobs/", {})
        stub.says(f"GET /api/jobs/{submission().stem}-11", record(submission_id=f"{submission().stem}-11"))
        assert submit.place_job(submission(), api_of(stub), say=silent).job_id == f"{submission().stem}-11"

    def test_a_cluster_that_takes_no_job_says_why(self, stub):
        stub.says("POST /api/jobs/", (500, b"Traceback\nNo available agent to submit job\n", {}))
        with pytest.raises(BrainrayError, match="did not take the job: No available agent"):
            api_of(stub).submit("j-1", entrypoint="x", runtime_env={})
        with pytest.raises(Unreachable):
            JobsApi("http://127.0.0.1:1", headers={}, patience_s=0, say=silent).jobs()
