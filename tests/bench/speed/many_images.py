"""What brainray itself costs at any number of images: a whole run with a scorer that does nothing.

    .venv/bin/python tests/bench/speed/many_images.py [--images 1000000] [--workers 1]

The input is a list of made-up objects, of which none is read: a worker opens its shard, makes the rows that a network
would have given, and commits the part. All else is the real thing: listing, manifest, Ray, dispatch, parts,
verification, summary. Each number of images is a run of its own in a fresh process. Printed are the seconds of each
step, on the clock and of all processors, and the peaks of memory; on a busy machine only those of processors count.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import results

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
SLICES, PATIENTS = 100, 500  # of a patient, of a site
LISTED = 100_000  # rows that are written at a time
TICKS = os.sysconf("SC_CLK_TCK")
PROBS = np.array([0.7, 0.2, 0.06, 0.04], np.float32)


def write_list(path: str, images: int) -> None:
    """A Parquet list of objects with sizes, versions and labels, of `LISTED` rows a row group."""
    schema = pa.schema({"uri": pa.string(), "size_bytes": pa.int64(), "etag": pa.string(), "label": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, images, LISTED):
            numbers = range(start, min(start + LISTED, images))
            columns = {
                "uri": [_object(number) for number in numbers],
                "size_bytes": [20_000 + number % 50_000 for number in numbers],
                "etag": [f"{number:032x}" for number in numbers],
                "label": [CLASSES[number % len(CLASSES)] for number in numbers],
            }
            writer.write_table(pa.table(columns, schema=schema))


def _object(number: int) -> str:
    patient, image = divmod(number, SLICES)
    site, patient = divmod(patient, PATIENTS)
    return f"s3://archive/site-{site:03d}/patient-{patient:04d}/slice-{image:03d}.jpg"


def use_nothing() -> None:
    """Let the driver hand its workers a scorer that does nothing."""
    from brainray.cluster import score_workers
    from brainray.scoring.shard import DecodedShard, predict_shard
    from brainray.scoring.shard_task import open_shard

    class NothingScorer(score_workers.ShardScorer):
        """Commits the rows of a shard, as if they had been scored."""

        def __init__(self, job: score_workers.ScoreJob) -> None:
            self._job = job
            self._metrics = score_workers.ScoreMetrics(job.target.run_uri)

        def __call__(self, block: pa.Table) -> pa.Table:
            import pickle

            shard = score_workers._shard(block)
            with score_workers.count_attempt(shard.shard_id, self._job.target.writer):
                task = open_shard(shard, self._job.target)
                decoded = nothing_decoded(len(task.pending), DecodedShard)
                info = predict_shard(task, decoded, lambda images: np.tile(PROBS, (len(images), 1)), self._job.target)
                self._metrics.count(task, decoded, info.work[-1].seconds)
            return pa.table({"part": [pickle.dumps(info)], "remarks": [pickle.dumps([])]})

    score_workers.ShardScorer = NothingScorer


def nothing_decoded(images: int, kind: Callable[..., Any]) -> Any:
    """A `DecodedShard` of images of no pixels."""
    from datetime import UTC, datetime

    from brainray.scoring.prediction_schema import SCAN_COLUMNS, SERIES_COLUMNS
    from brainray.scoring.shard import _DETAILS_SCHEMA

    known = {
        "width": 512,
        "height": 512,
        "brightness": 0.3,
        "contrast": 0.2,
        "format": "JPEG",
        "content_hash": "0" * 64,
    }
    fields = [*_DETAILS_SCHEMA, *SCAN_COLUMNS, *SERIES_COLUMNS]
    columns = [pa.array([known.get(field.name)] * images, field.type) for field in fields]
    return kind(
        images=np.zeros((images, 0, 0), np.uint8),
        squares_M4=np.zeros((images, 4)),
        ok=np.ones(images, bool),
        details=pa.table(columns, schema=pa.schema(fields)),
        started_at=datetime.now(UTC),
        seconds={"read": 0.0, "decode": 0.0},
    )


class Watch:
    """Follows this process and all that it starts: processor seconds, and peaks of memory by kind of process."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self.peak_mb: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def processor_s(self) -> float:
        """Seconds of all processes so far, ended ones included as far as they were seen."""
        self._look()
        return sum(self._seconds.values())

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(0.5):
            self._look()

    def _look(self) -> None:
        for number, name in processes():
            try:
                fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
                memory = memory_mb(number)
            except (OSError, IndexError, TypeError):
                continue  # it has ended
            self._seconds[number] = (int(fields[11]) + int(fields[12])) / TICKS
            self.peak_mb[name] = max(memory, self.peak_mb.get(name, 0.0))


def processes() -> Iterator[tuple[int, str]]:
    """This process and those below it, with what they are."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    yield os.getpid(), "driver"
    below = [os.getpid()]
    while below:
        below = [number for number, parent in parents.items() if parent in below]
        for number in below:
            yield number, _kind(number)


def _kind(number: int) -> str:
    try:
        command = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "other"
    if command.startswith("ray::MapWorker"):
        return "worker"
    if command.startswith("ray::"):
        return "helper"
    return "gcs and raylet" if "/gcs_server" in command or "/raylet/raylet" in command else "other"


def memory_mb(number: int) -> float:
    """What a process holds for itself now: its resident pages without those of the shared store and of files."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{number}/status").read_text(), re.M)
    return int(found[1]) * 1024 / 1e6  # type: ignore[index]


class Steps:
    """The seconds of the steps of a run, by wrapping the functions that carry them out."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began, began_processor = time.perf_counter(), self._watch.processor_s()
        yield
        wall, processor = self.seconds.get(name, (0.0, 0.0))
        self.seconds[name] = (
            wall + time.perf_counter() - began,
            processor + self._watch.processor_s() - began_processor,
        )

    def wrap(self, module: object, name: str, step: str) -> None:
        original = getattr(module, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.step(step):
                return original(*args, **kwargs)

        setattr(module, name, timed)


def drive(images: int, workers: int, folder: str) -> dict[str, Any]:
    """One run in this process, as the command does it; returns its figures."""
    from brainray.machine.hardware import share_freed_memory

    share_freed_memory()
    from brainray.cluster import score as cluster_score
    from brainray.commands import score as command
    from brainray.config import Calibration, ImageSpec, ModelSpec, ScoreOptions
    from brainray.models.bundle import save_bundle
    from brainray.scoring import plan

    watch = Watch()
    steps = Steps(watch)
    save_bundle(
        f"{folder}/model",
        weights=bytes(5_000_000),
        image=ImageSpec(),
        model=ModelSpec(classes=CLASSES),
        calibration=Calibration(),
    )
    steps.wrap(plan, "_list_inputs", "listing")
    steps.wrap(plan, "_merge", "manifest")
    steps.wrap(plan, "_count_pending", "pending")
    for name, step in (
        ("begin_run", "begin"),
        ("verify_and_close", "verification"),
        ("build_summary", "summary"),
        ("publish", "publish"),
    ):
        steps.wrap(command, name, step)
    objects: list[int] = []

    def engine(request: Any, plan: Any, lease: Any) -> Iterator[Any]:
        use_nothing()
        import ray

        put = ray.put
        ray.put = lambda value, **kwargs: (objects.append(1), put(value, **kwargs))[1]
        with steps.step("Ray: start, scoring, end"):
            yield from cluster_score.score_with_ray(request, plan, lease, say=print)

    request = command.read_request(
        [f"{folder}/list.parquet"],
        model=f"{folder}/model",
        output=f"{folder}/run",
        labels=None,
        options=ScoreOptions(workers=workers),
    )
    phases: list[tuple[str, float, float]] = []

    def listen(progress: Any) -> None:
        if not phases or phases[-1][0] != progress.phase:
            phases.append((progress.phase, time.perf_counter(), watch.processor_s()))

    with steps.step("whole run"):
        outcome = command.score(request, listener=listen, say=print, engine=engine)
    watch.end()
    at = {name: (wall, processor) for name, wall, processor in phases}
    steps.seconds["  of it from the first part to the last"] = tuple(
        last - first for first, last in zip(at["scoring"], at["summary"], strict=True)
    )
    size_mb = sum(file.stat().st_size for file in Path(folder, "run").rglob("*") if file.is_file()) / 1e6
    return {
        "images": outcome.summary.figures["totals"]["ok"],
        "shards": len(outcome.plan.shards),
        "objects": len(objects),
        "run_mb": size_mb,
        "peak_mb": watch.peak_mb,
        "seconds": steps.seconds,
    }


def show(row: dict[str, Any]) -> None:
    """Print where the seconds of a run went."""
    made = f"{row['shards']:,} shards, {row['objects']:,} objects put, {row['run_mb']:,.0f} MB on disk"
    print(f"{row['images']:,} images, {made}")
    print(f"    {'':42} {'clock s':>8} {'processor s':>12} {'us an image':>12}")
    for name, (wall_s, processor_s) in row["seconds"].items():
        print(f"    {name:42} {wall_s:8.1f} {processor_s:12.1f} {1e6 * processor_s / row['images']:12.1f}")
    peaks = ", ".join(f"{name} {peak:,.0f} MB" for name, peak in sorted(row["peak_mb"].items()))
    print(f"    peaks: {peaks}", flush=True)


def figures_of(rows: list[dict[str, Any]]) -> Iterator[results.Figure]:
    """The figures that are kept: what the whole run took of processors, and the peaks of memory."""
    for row in rows:
        of = f"{row['images']:,} images in {row['shards']:,} shards"
        yield results.Figure(f"{of}: whole run, of processors", row["seconds"]["whole run"][1], "s")
        yield results.Figure(f"{of}: objects that the driver puts", row["objects"], "")
        for name in ("driver", "worker"):
            yield results.Figure(f"{of}: {name}, its own memory at its peak", row["peak_mb"].get(name, 0), "MB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    parser.add_argument("--workers", type=int, default=0, help="default: as many as processors")
    results.add_option(parser)
    parser.add_argument("--folder", help="on a disk with room for it: some 300 bytes an image (default: TMPDIR)")
    options = parser.parse_args()
    # Ray gives workers the niceness 15, with which they would wait for whatever else runs here.
    environment = os.environ | {"RAY_ADDRESS": "local", "RAY_worker_niceness": "0", "AWS_REGION": "eu-central-1"}
    rows = []
    for images in options.images:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write_list(f"{folder}/list.parquet", images)  # here, so that the run begins in a small process
            command = [sys.executable, __file__, "--drive", str(images), str(options.workers), folder]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        show(rows[-1])
    print("\nimages,shards,objects,driver_mb,worker_mb,run_s,run_processor_s")
    for row in rows:
        peaks = (round(row["peak_mb"].get(name, 0)) for name in ("driver", "worker"))
        seconds = (round(each, 1) for each in row["seconds"]["whole run"])
        print(row["images"], row["shards"], row["objects"], *peaks, *seconds, sep=",")
    results.record(options, "any number", figures_of(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        print(json.dumps(drive(int(sys.argv[2]), int(sys.argv[3]) or None, sys.argv[4])))
    else:
        main()
