"""Client of Ray's Jobs REST API for `submit`: every request has a timeout and is repeated while nothing answers.

Must not import Ray. Ray's own client waits for ever on a connection that hangs, lets RAY_ADDRESS override the address
that it is given, and needs the extra `ray[default]` on the user's machine.
https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from brainray import storage
from brainray.callbacks import Clock, Say, Sleep
from brainray.errors import BadRequest, BrainrayError, StorageError, Unreachable

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_TOKEN_PATH = "~/.ray/auth_token"
_TOKEN_REQUIRED = "authentication token"  # part of the dashboard's answer to a request without a token
_TIMEOUT_S = 30.0  # without a byte received
_SLOW_TIMEOUT_S = 120.0  # for uploads, and for submissions, in which Ray waits for an agent
_RETRY_S = 1.0
_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_SHOWN_CHARACTERS = 300  # of a message of Ray, which may be a traceback

FindToken = Callable[[], str | None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submitted job, as Ray describes it."""

    job_id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    entrypoint: str
    exit_code: int | None  # of the command; negative: the signal that ended it; None: it was stopped or never ran
    message: str

    @property
    def ended(self) -> bool:
        return self.status in _ENDED

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Job":
        return cls(
            job_id=record["submission_id"],
            status=record["status"],
            entrypoint=record["entrypoint"],
            exit_code=record.get("driver_exit_code"),
            message=record.get("message") or "",
        )


def dashboard_address(option: str | None, environ: Mapping[str, str]) -> str:
    """Return the dashboard's address: the option, else the variables that `ray job submit` uses.

    Raises `BadRequest` for an address that is no http:// or https:// URL, or holds a password.
    """
    sources = {"--address": option or ""} | {
        name: environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    }
    source, address = next(((s, a) for s, a in sources.items() if a and a != "auto"), ("", DEFAULT_ADDRESS))
    host, is_url = _host_of(address)
    if "@" in address:
        raise BadRequest(f"{source} holds a user or password; leave it out, tokens come from RAY_AUTH_TOKEN_PATH")
    if not is_url:
        raise BadRequest(
            f"{source} is {address}; jobs are submitted to the dashboard of a cluster: give --address http://{host}:8265"
        )
    return address.rstrip("/")


def _host_of(address: str) -> tuple[str, bool]:
    """Return the host of any kind of address, and whether the address is an http:// or https:// URL."""
    scheme, _, rest = address.rpartition("://")
    try:
        parts = urlsplit(f"//{rest}")
        host, _port = parts.hostname, parts.port
    except ValueError:  # a port that is no number, half an IPv6 address
        return "HOST", False
    return "HOST" if address == "local" else host or "HOST", scheme in ("http", "https") and host is not None


def request_headers(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of Ray's own client: RAY_JOB_HEADERS (JSON), and the token where RAY_AUTH_MODE is token.

    Raises `BadRequest` where either cannot be read.
    """
    try:
        headers = json.loads(environ.get("RAY_JOB_HEADERS") or "{}")
        headers = {str(name): str(value) for name, value in headers.items()}
    except (ValueError, AttributeError) as exc:
        raise BadRequest('RAY_JOB_HEADERS is no JSON object of names and values; write {"name": "value"}') from exc
    if environ.get("RAY_AUTH_MODE", "").lower() == "token" and "authorization" not in map(str.lower, headers):
        headers["Authorization"] = f"Bearer {_token(environ)}"
    return headers


def found_token(environ: Mapping[str, str]) -> str | None:
    """Return the user's token from the places that Ray's own tools read; None where there is none.

    Also None where RAY_AUTH_MODE is set, which decides alone: see `request_headers`.
    """
    path = environ.get("RAY_AUTH_TOKEN_PATH")
    if environ.get("RAY_AUTH_MODE"):
        return None
    if not (environ.get("RAY_AUTH_TOKEN", "").strip() or path or storage.exists(storage.normalise(_TOKEN_PATH))):
        return None
    return _token(environ)


def _token(environ: Mapping[str, str]) -> str:
    """Read the token in Ray's order: https://docs.ray.io/en/latest/ray-security/token-auth.html"""
    if token := environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = environ.get("RAY_AUTH_TOKEN_PATH") or _TOKEN_PATH
    try:
        token = storage.read_bytes(storage.normalise(path)).decode().strip()
    except (StorageError, UnicodeDecodeError) as exc:
        raise BadRequest(f"the token cannot be read: {exc}; name a file that holds it as RAY_AUTH_TOKEN_PATH") from exc
    if not token:
        raise BadRequest(f"{path} is empty; put the cluster's token there")
    return token


class _NoRedirect(HTTPRedirectHandler):
    """Refuses redirects, which would send the token to another host."""

    def redirect_request(self, *_: object) -> None:
        return None


class JobsApi:
    """The jobs of one cluster. Methods raise `Unreachable`, and `BadRequest` for a wrong address or token."""

    def __init__(
        self,
        address: str,
        *,
        headers: Mapping[str, str],
        patience_s: float,
        say: Say,
        find_token: FindToken = lambda: None,
        clock: Clock = time.monotonic,
        sleep: Sleep = time.sleep,
    ) -> None:
        """`find_token` is called only when the cluster requires a token and `headers` have none."""
        self.address = address
        self._headers = dict(headers)
        self._patience_s = patience_s
        self._say = say
        self._find_token = find_token
        self._clock = clock
        self._sleep = sleep
        self._opener = build_opener(_NoRedirect)

    def jobs(self) -> list[Job]:
        """List all jobs ever submitted to this cluster."""
        found = self._json(*self._send("GET", "/api/jobs/"))
        return [Job.from_json(record) for record in found if record.get("submission_id")]

    def find(self, job_id: str) -> Job | None:
        """Return a job; None where there is none of this id."""
        status, body = self._send("GET", f"/api/jobs/{job_id}", accepted=(200, 404))
        return None if status == 404 else Job.from_json(self._json(status, body))

    def log(self, job_id: str) -> str | None:
        """Return the whole log so far; None where its node cannot read it now."""
        status, body = self._send("GET", f"/api/jobs/{job_id}/logs", accepted=(200, 404, 500))
        return self._json(status, body)["logs"] if status == 200 else None

    def stop(self, job_id: str) -> None:
        """Request the end of a job, which takes seconds; for one that has not started yet, call again."""
        self._send("POST", f"/api/jobs/{job_id}/stop", accepted=(200, 404, 500))

    def has_package(self, name: str) -> bool:
        """Whether the cluster holds an uploaded package of this name."""
        status, _ = self._send("GET", f"/api/packages/gcs/{name}", accepted=(200, 404))
        return status == 200

    def upload_package(self, name: str, content: bytes) -> None:
        """Upload a package, a zip file whose name has its hash."""
        self._send("PUT", f"/api/packages/gcs/{name}", content, timeout_s=_SLOW_TIMEOUT_S)

    def submit(self, job_id: str, *, entrypoint: str, runtime_env: Mapping[str, Any]) -> bool:
        """Submit a job. Returns False where one of this id exists already, perhaps by an earlier attempt of this call.

        Raises `BrainrayError` where the cluster refuses it.
        """
        body = {"submission_id": job_id, "entrypoint": entrypoint, "runtime_env": runtime_env}
        started = self._clock()
        while True:
            status, answer = self._send("POST", "/api/jobs/", body, accepted=(200, 400, 500), timeout_s=_SLOW_TIMEOUT_S)
            if status == 200:
                return True
            if self.find(job_id):
                return False
            if status == 400 or self._clock() - started >= self._patience_s:
                raise BrainrayError(
                    f"{self.address} did not take the job: {last_line(answer.decode(errors='replace'))}"
                )
            self._sleep(_RETRY_S)  # "No available agent": the head has just been started

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        accepted: tuple[int, ...] = (200,),
        timeout_s: float = _TIMEOUT_S,
    ) -> tuple[int, bytes]:
        """Send a request until the server answers; returns the status, one of `accepted`, and the body.

        Raises `Unreachable` after `patience_s` seconds.
        """
        silent_since: float | None = None
        while True:
            status, answer = self._send_once(method, path, body, timeout_s)
            if status in accepted:
                if silent_since is not None:
                    self._say(f"{self.address} answers again")
                return status, answer
            reason = f"HTTP {status}: {last_line(answer.decode(errors='replace'))}" if status else answer.decode()
            if self._add_required_token(status, answer):
                continue
            self._raise_if_final(status, reason)
            now = self._clock()
            if silent_since is None:
                silent_since = now
                self._say(f"{self.address} does not answer ({reason}); trying for {self._patience_s:.0f} s")
            if now - silent_since >= self._patience_s:
                raise Unreachable(
                    f"{self.address} has not answered for {self._patience_s:.0f} s ({reason}); see that the cluster "
                    "runs and that this is its dashboard, then run the same command again"
                )
            self._sleep(_RETRY_S)

    def _send_once(
        self, method: str, path: str, body: Mapping[str, Any] | bytes | None, timeout_s: float
    ) -> tuple[int, bytes]:
        """Send a request once; returns status and body, or 0 and the reason where there was no answer."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        request = Request(self.address + path, data, self._headers | {"Content-Type": kind}, method=method)
        try:
            with self._opener.open(request, timeout=timeout_s) as response:
                return response.status, response.read()
        except HTTPError as exc:
            with exc:
                return exc.code, exc.read()
        except URLError as exc:
            return 0, str(exc.reason).encode()
        except (OSError, HTTPException) as exc:
            return 0, (str(exc) or type(exc).__name__).encode()

    def _add_required_token(self, status: int, answer: bytes) -> bool:
        """Add the token to all further requests where the cluster requires one; returns whether it was added."""
        is_required = status in (401, 403) and _TOKEN_REQUIRED in answer.decode(errors="replace").lower()
        if not is_required or "authorization" in map(str.lower, self._headers):
            return False
        token = self._find_token()
        if token is None:
            return False
        self._headers["Authorization"] = f"Bearer {token}"
        return True

    def _raise_if_final(self, status: int, reason: str) -> None:
        """Raise `BadRequest` for an answer that a repetition would not change."""
        if status in (401, 403):
            raise BadRequest(
                f"{self.address} refuses the token, or got none ({reason}); set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
            )
        if 0 < status < 500 and status not in (408, 429):
            raise BadRequest(f"{self.address} is no Ray dashboard ({reason}); give --address http://HOST:8265")

    def _json(self, status: int, body: bytes) -> Any:  # noqa: ANN401
        try:
            return json.loads(body)
        except ValueError as exc:
            raise BadRequest(
                f"{self.address} is no Ray dashboard: its answer ({status}) is no JSON; give --address http://HOST:8265"
            ) from exc


def last_line(text: str) -> str:
    """Return the last line of a text, such as a traceback, cut at 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_SHOWN_CHARACTERS] if lines else ""
