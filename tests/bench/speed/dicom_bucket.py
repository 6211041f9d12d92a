"""What DICOM objects of a bucket cost: driver's processor time and memory to list them, and requests to list and read.

    .venv/bin/python tests/bench/speed/dicom_bucket.py [--objects 1000 100000] [--read 100000] [--record]

Each row of figures is a fresh process that brings a bucket into shards, as `brainray score --plan` does; buckets of up
to `--read` objects are then read as workers read them, without decoding. The objects are made up: a server, which is a
process of its own, writes keys and bytes when asked. They lie 200 in a folder; one of 5,000 has 64 frames of 512 x 512
pixels, all others are one slice. The server counts the requests for each object.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

import results  # noqa: E402
from s3_listing import _ERROR, Bucket, Requests, get, memory_mb, serve  # noqa: E402

PER_FOLDER, EVERY, FRAMES, SIDE, SMALL_SIDE = 200, 5_000, 64, 512, 96
READS = 32


@cache
def content(large: bool) -> bytes:
    from support.imaging.dicoms import dicom, slice_pixels

    if not large:
        return dicom(slice_pixels(SMALL_SIDE), SeriesDescription="t1")
    return dicom(np.zeros((FRAMES, SIDE, SIDE), np.uint16), SeriesDescription="t1")


class DicomBucket(Bucket):
    """Made-up DICOM objects. The name says how many: `dicom-100000`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers = range(int(name.partition("-")[2]))
        self.key = lambda number: f"patient-{number // PER_FOLDER:06d}/1.2.826.{number:09d}.dcm"

    def object(self, number: int) -> tuple[str, str, int]:
        return self.key(number), f"{number:032x}", len(content(is_large(number)))


def is_large(number: int) -> bool:
    return number % EVERY == EVERY - 1


class Connection(Requests):
    """Answers with pages of keys, and objects or ranges of them."""

    pages = 0  # of all connections
    gets: ClassVar[Counter[int]] = Counter()  # by object
    sent_bytes = 0

    def answer(self, head: bytes) -> None:
        _, target, _ = head.split(b" ", 2)
        parts = urlsplit(target.decode())
        bucket, _, key = unquote(parts.path)[1:].partition("/")
        if not bucket:
            small = [count for number, count in Connection.gets.items() if not is_large(number)]
            large = [count for number, count in Connection.gets.items() if is_large(number)]
            told = {"pages": Connection.pages, "gets": sum(small), "most": max(small, default=0), "large": sum(large)}
            body = json.dumps(told | {"bytes": Connection.sent_bytes, "processor_s": time.process_time()}).encode()
            self._send(b"200 OK", body, b"")
        elif not key:
            Connection.pages += 1
            self._send(b"200 OK", DicomBucket(bucket).page(dict(parse_qsl(parts.query))).encode(), b"")
        elif (named := re.fullmatch(r".*\.(\d{9})\.dcm", key)) is not None:
            self._send_object(int(named[1]), head)
        else:
            self._send(b"404 Not Found", _ERROR.format("NoSuchKey").encode(), b"")

    def _send_object(self, number: int, head: bytes) -> None:
        Connection.gets[number] += 1
        data = content(is_large(number))
        fields = b'ETag: "%032x"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n' % number
        wanted = re.search(rb"\r\nrange: bytes=(\d+)-(\d*)", head, re.IGNORECASE)
        if wanted is None:
            self._send(b"200 OK", data, fields)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        place = b"Content-Range: bytes %d-%d/%d\r\n" % (start, end - 1, len(data))
        self._send(b"206 Partial Content", data[start:end], fields + place)

    def _send(self, status: bytes, body: bytes, fields: bytes) -> None:
        Connection.sent_bytes += len(body)
        self._transport.write(b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n" % (status, fields, len(body)) + body)


@contextmanager
def server() -> Iterator[str]:
    """The server's address."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def counts(address: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(get(HTTPConnection(address), "/"))
    return found


def drive(name: str, address: str, *, is_read: bool) -> dict[str, Any]:
    """List a bucket and bring it into shards; then read it, where that is wanted."""
    from brainray.commands.score import read_request
    from brainray.config import Calibration, ImageSpec, ModelSpec, ScoreOptions
    from brainray.models.bundle import save_bundle
    from brainray.scoring.plan import plan_run
    from brainray.scoring.run_folder import check_output

    with tempfile.TemporaryDirectory() as scratch:
        spec = ModelSpec(classes=("glioma", "meningioma", "notumor", "pituitary"))
        save_bundle(f"{scratch}/model", weights=bytes(1000), image=ImageSpec(), model=spec, calibration=Calibration())
        inputs, out = [f"s3://{name}"], f"{scratch}/run"
        request = read_request(inputs, model=f"{scratch}/model", output=out, labels=None, options=ScoreOptions())
        start_mb, began_s = memory_mb("VmRSS"), time.process_time()
        check_output(request)
        plan = plan_run(request, scratch)
        found = {
            "images": plan.images,
            "processor_s": time.process_time() - began_s,
            "start_mb": start_mb,
            "peak_mb": memory_mb("VmHWM"),
            "listing": counts(address),
        }
        if is_read:
            began_s = time.process_time()
            read_all(plan)
            found |= {"read_s": time.process_time() - began_s, "reading": counts(address)}
        return found


def read_all(plan: Any) -> None:
    """Read the images of a plan shard by shard, as a worker does, and decode none."""
    from brainray.inputs.ranges import plan_reads
    from brainray.inputs.reader import BUCKET_READS_IN_FLIGHT, Reader
    from brainray.scoring.manifest import read_shard

    reader, failed = Reader(), 0
    with ThreadPoolExecutor(READS) as pool:
        for shard in plan.shards:
            reads = list(plan_reads(read_shard(shard)))
            for result in reader.read_ahead(reads, pool, ahead=BUCKET_READS_IN_FLIGHT):
                failed += sum(not isinstance(image, bytes) for image in result.images)
    if failed:
        raise SystemExit(f"{failed:,} images could not be read")


def measured(objects: int, *, is_read: bool) -> dict[str, Any]:
    from support.storage.s3_servers import UNSET, s3_environment

    kept = {variable: value for variable, value in os.environ.items() if variable not in UNSET}
    with server() as address:
        command = [sys.executable, __file__, "--drive", f"dicom-{objects}", address, str(int(is_read))]
        environment = kept | s3_environment(f"http://{address}")
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout)
    images = objects + objects // EVERY * (FRAMES - 1)
    if found["images"] != images:
        raise SystemExit(f"{found['images']:,} images are listed of {images:,}")
    return found


def figures_of(objects: int, found: dict[str, Any]) -> Iterator[results.Figure]:
    of, listing = f"{objects:,} DICOM objects", found["listing"]
    yield results.Figure(f"listing {of}", found["processor_s"], "s of processor")
    yield results.Figure(f"driver's peak memory, {of}", found["peak_mb"], "MB")
    yield results.Figure(
        f"requests of the listing, {of}", listing["pages"] + listing["gets"] + listing["large"], "requests"
    )
    if "reading" in found:
        reading, large = found["reading"], objects // EVERY
        small = objects - large
        yield results.Figure(f"reading {of}", found["read_s"], "s of processor")
        yield results.Figure(
            f"requests a slice that is read, {of}", (reading["gets"] - listing["gets"]) / small, "requests"
        )
        if large:
            each = (reading["large"] - listing["large"]) / large
            yield results.Figure(f"requests an object of {FRAMES} frames that is read, {of}", each, "requests")
            sizes = small * len(content(False)) + large * len(content(True))
            share = (reading["bytes"] - listing["bytes"]) / sizes
            yield results.Figure(f"bytes that are read of those stored, {of}", share, "times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--read", type=int, default=100_000, help="buckets of so many objects at most are read, too")
    results.add_option(parser)
    options = parser.parse_args()
    figures: list[results.Figure] = []
    for objects in options.objects:
        found = measured(objects, is_read=objects <= options.read)
        print(found, flush=True)
        figures += figures_of(objects, found)
    results.record(options, "DICOM in buckets", figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Connection)
    elif sys.argv[1:2] == ["--drive"]:
        print(json.dumps(drive(sys.argv[2], sys.argv[3], is_read=sys.argv[4] == "1")))
    else:
        main()
