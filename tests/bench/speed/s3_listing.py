"""What it costs the driver to list a bucket and bring it into shards: seconds, processor time and peak memory.

    .venv/bin/python tests/bench/speed/s3_listing.py [--keys 1000000] [--layout tree|flat|both] [--delay-ms 0]

Each row of figures is a fresh process that does what `brainray score --plan` does; afterwards it looks whether every
object has come into the shards, once and in order. A row of 1000 keys shows what a start costs. The objects are made
up: a server, which is a process of its own, writes each page of keys when it is asked for. The seconds are partly its
own; what it takes is shown beside them, and below how many pages a second go to clients that do nothing with them.
`--delay-ms` holds up every answer, as the way to a real store does (20 to 100 ms), and costs no processor.
"""

import argparse
import asyncio
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from brainray.scoring.plan import Plan

TESTS = Path(__file__).resolve().parents[2]
LAYOUTS = ("tree", "flat")
SLICES, PATIENTS, SITES = 100, 500, 100  # of a patient, of a site, of a tree
MOST_KEYS = {"tree": SLICES * PATIENTS * SITES, "flat": 10**8}
FEW_KEYS = 1000
PAGE_KEYS = 1000
CONNECTIONS = (1, 8)  # of the clients that do nothing with what they get
PLAIN_PAGES = 400  # they ask for
WEIGHTS_BYTES = 5_000_000  # as the compact network has; a plan takes their hash and nothing else
_LAST = chr(0x10FFFF)

# As AWS writes them. The keys need no escapes, neither for XML nor for a URL.
_OBJECT = (
    "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{}&quot;</ETag>"
    "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>{}</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>"
)
_FOLDER = "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>"
_PAGE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>{}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>{}</MaxKeys><EncodingType>url</EncodingType>"
    "{}{}</ListBucketResult>"
)
_MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>"
_END = "<IsTruncated>false</IsTruncated>"
_ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{0}</Code><Message>{0}</Message></Error>'


class Bucket:
    """Made-up objects, numbered in the order of their keys. The name says which: `tree-1000000`."""

    def __init__(self, name: str) -> None:
        layout, keys = name.split("-")
        self.name = name
        self.numbers = range(int(keys))
        self.key = {"tree": _key_in_tree, "flat": _key_in_flat}[layout]

    def object(self, number: int) -> tuple[str, str, int]:
        """Key, ETag and size in bytes."""
        key = self.key(number)
        tag = md5(key.encode(), usedforsecurity=False).hexdigest()
        return key, tag, 20_000 + int(tag[:4], 16)

    def page(self, asked: dict[str, str]) -> str:
        """The answer to a ListObjectsV2 with these parameters. A token is the number of the object to go on with."""
        prefix, after, delimiter = (asked.get(name, "") for name in ("prefix", "start-after", "delimiter"))
        number = max(self._first(prefix), bisect_right(self.numbers, after, key=self.key) if after else 0)
        number = int(asked.get("continuation-token", number))
        end, most = self._first(prefix + _LAST), min(int(asked.get("max-keys", PAGE_KEYS)), PAGE_KEYS)
        entries: list[str] = []
        while number < end and len(entries) < most:
            found = self.object(number)
            cut = found[0].find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                entries.append(_OBJECT.format(*found))
                number += 1
            else:
                folder = found[0][: cut + 1]
                entries.append(_FOLDER.format(folder))
                number = self._first(folder + _LAST)
        more = _MORE.format(number) if number < end else _END
        return _PAGE.format(self.name, prefix, len(entries), most, more, "".join(entries))

    def _first(self, text: str) -> int:
        """The first object whose key is no less than a text."""
        return bisect_left(self.numbers, text, key=self.key)


def _key_in_tree(number: int) -> str:
    patient, image = divmod(number, SLICES)
    site, patient = divmod(patient, PATIENTS)
    return f"site-{site:02d}/patient-{patient:04d}/slice-{image:03d}.jpg"


def _key_in_flat(number: int) -> str:
    return f"slice-{number:08d}.jpg"


class Requests(asyncio.Protocol):
    """The requests of one connection, none of which has a body."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self.answer(head)

    def answer(self, head: bytes) -> None:
        """Answer a request."""
        raise NotImplementedError


class Connection(Requests):
    """Answers with pages of a bucket's keys; any object is one that is not there."""

    requests = 0  # of all connections

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self._delay_s = delay_s

    def answer(self, head: bytes) -> None:
        Connection.requests += 1
        method, target, _ = head.decode().split(" ", 2)
        status, text = _answer(method, target)
        body = text.encode()
        fields = f"Content-Type: application/xml\r\nContent-Length: {len(body)}"
        answer = f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, answer)
        else:
            self._transport.write(answer)


def _answer(method: str, target: str) -> tuple[str, str]:
    if method != "GET":  # a plan changes nothing
        return "501 Not Implemented", _ERROR.format("NotImplemented")
    parts = urlsplit(target)
    bucket, _, key = unquote(parts.path)[1:].partition("/")
    if not bucket:
        return "200 OK", json.dumps({"requests": Connection.requests, "processor_s": time.process_time()})
    if key:
        return "404 Not Found", _ERROR.format("NoSuchKey")
    return "200 OK", Bucket(bucket).page(dict(parse_qsl(parts.query)))


def serve(connection: Callable[[], Requests]) -> None:
    """Prints its port, and answers until it is killed."""

    async def answer() -> None:
        server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(answer())


def drive(name: str) -> dict[str, float]:
    """List a bucket and bring it into shards, as `score_job.plan_only` does, but in a folder that can be looked at."""
    from brainray.commands.score import read_request
    from brainray.config import Calibration, ImageSpec, ModelSpec, ScoreOptions
    from brainray.models.bundle import save_bundle
    from brainray.scoring.plan import plan_run
    from brainray.scoring.run_folder import check_output

    with tempfile.TemporaryDirectory() as scratch:
        save_bundle(
            f"{scratch}/model",
            weights=bytes(WEIGHTS_BYTES),
            image=ImageSpec(),
            model=ModelSpec(classes=("glioma", "meningioma", "notumor", "pituitary")),
            calibration=Calibration(),
        )
        request = read_request(
            [f"s3://{name}"], model=f"{scratch}/model", output=f"{scratch}/run", labels=None, options=ScoreOptions()
        )
        start_mb = memory_mb("VmRSS")
        listed: list[float] = []  # wall and processor when the last image was listed
        began, began_processor = time.perf_counter(), time.process_time()

        def hear(_: int) -> None:
            listed[:] = time.perf_counter() - began, time.process_time() - began_processor

        check_output(request)
        plan = plan_run(request, scratch, progress=hear)
        wall_s, processor_s = time.perf_counter() - began, time.process_time() - began_processor
        peak_mb = memory_mb("VmHWM")
        check_plan(plan, Bucket(name))
    return {
        "images": plan.images,
        "shards": len(plan.shards),
        "wall_s": wall_s,
        "listing_wall_s": listed[0],
        "processor_s": processor_s,
        "listing_processor_s": listed[1],
        "start_mb": start_mb,
        "peak_mb": peak_mb,
    }


def memory_mb(field: str) -> float:
    """Resident memory of this process, now (VmRSS) or at its peak (VmHWM).

    getrusage's ru_maxrss is no less than what the parent had when it started this process, however little is used here.
    """
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    if found is None:
        raise SystemExit(f"no {field} in /proc/self/status")
    return int(found[1]) * 1024 / 1e6


def check_plan(plan: "Plan", bucket: Bucket) -> None:
    """The shards hold every object of the bucket once, in order, with its size and version, and nothing else."""
    from brainray.scoring.manifest import read_shard

    keys = len(bucket.numbers)
    counts = (plan.images, plan.listing.images, plan.todo_images, sum(plan.pending.values()))
    names = {shard.shard_id for shard in plan.shards}
    if set(counts) != {keys} or plan.listing.skipped or len(names) < len(plan.shards):
        raise SystemExit(f"{bucket.name}: {counts} images, passed over: {plan.listing.skipped}")
    start = 0
    for shard in plan.shards:
        rows = read_shard(shard)
        found = list(zip(*(rows[name].to_pylist() for name in ("uri", "version", "size_bytes")), strict=True))
        wanted = [bucket.object(number) for number in bucket.numbers[start : start + shard.images]]
        if found != [(f"s3://{bucket.name}/{key}", tag, size) for key, tag, size in wanted]:
            raise SystemExit(f"{bucket.name}: shard {shard.shard_id} does not hold the objects from {start} on")
        start += len(found)
    if start != keys:
        raise SystemExit(f"{bucket.name}: the shards hold {start} images")


@contextmanager
def server(delay_ms: float) -> Iterator[str]:
    """The server's address."""
    command = [sys.executable, __file__, "--serve", str(delay_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def server_figures(address: str) -> dict[str, float]:
    return json.loads(get(http.client.HTTPConnection(address), "/"))


def get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


def plain_pages_per_s(address: str, bucket: Bucket, connections: int) -> float:
    """Pages a second for clients that only receive them."""
    starts = bucket.numbers[::PAGE_KEYS]
    path = f"/{bucket.name}?list-type=2&encoding-type=url&max-keys={PAGE_KEYS}&continuation-token="

    def ask(pages: range) -> None:
        connection = http.client.HTTPConnection(address)
        for page in pages:
            get(connection, f"{path}{starts[page % len(starts)]}")

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(ask, (range(first, PLAIN_PAGES, connections) for first in range(connections))))
    return PLAIN_PAGES / (time.perf_counter() - began)


def driven(name: str, address: str) -> dict[str, float]:
    """The figures of a driver in a fresh process."""
    sys.path.insert(0, str(TESTS))
    from support.storage.s3_servers import UNSET, s3_environment

    kept = {variable: value for variable, value in os.environ.items() if variable not in UNSET}
    done = subprocess.run(
        [sys.executable, __file__, "--drive", name],
        env=kept | s3_environment(f"http://{address}"),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def show(layout: str, keys: int, address: str) -> None:
    """One row: a driver, and what the server did for it."""
    before = server_figures(address)
    row = driven(f"{layout}-{keys}", address)
    after = server_figures(address)
    requests, processor_s = (after[name] - before[name] for name in ("requests", "processor_s"))
    print(
        f"{layout:6} {row['images']:10,} {row['shards']:7,} {row['wall_s']:8.1f} {row['listing_wall_s']:8.1f}"
        f" {row['processor_s']:8.2f} {row['listing_processor_s']:8.2f} {row['start_mb']:9.0f} {row['peak_mb']:8.0f}"
        f" {requests:9,.0f} {processor_s:8.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--layout", choices=[*LAYOUTS, "both"], default="both")
    parser.add_argument("--delay-ms", type=float, default=0)
    options = parser.parse_args()
    layouts = LAYOUTS if options.layout == "both" else (options.layout,)
    most = min(MOST_KEYS[layout] for layout in layouts)
    if not 1 <= options.keys <= most:
        parser.error(f"--keys is {options.keys}; it must be from 1 to {most}")
    with server(options.delay_ms) as address:
        print(f"{len(os.sched_getaffinity(0))} cores; answers held up by {options.delay_ms:g} ms")
        print(f"{'':25} {'wall s':>17} {'processor s':>17} {'memory MB':>18} {'server':>18}")
        print(f"{'layout':6} {'images':>10} {'shards':>7}" + f" {'all':>8} {'listing':>8}" * 2, end="")
        print(f" {'at start':>9} {'peak':>8} {'requests':>9} {'proc. s':>8}", flush=True)
        for layout in layouts:
            for keys in sorted({min(FEW_KEYS, options.keys), options.keys}):
                show(layout, keys, address)
        print()
        for layout in layouts:
            for connections in CONNECTIONS:
                per_s = plain_pages_per_s(address, Bucket(f"{layout}-{options.keys}"), connections)
                print(f"{layout:6} {connections} at once that do nothing with them: {per_s:.0f} pages/s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(partial(Connection, float(sys.argv[2]) / 1000))
    elif sys.argv[1:2] == ["--drive"]:
        print(json.dumps(drive(sys.argv[2])))
    else:
        main()
