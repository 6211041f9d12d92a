"""What it costs the driver to list small DICOM files without suffix: processor time, peak memory, reads.

    .venv/bin/python tests/bench/speed/dicom_listing.py [--files 1000 100000] [--record]

Each row of figures is a fresh process that brings files into shards, as `brainray score --plan` does. The files are
hard links to a few drawn slices, named by UIDs, 200 in a folder, of which each tenth has two frames; reads come from
the memory of the machine, so what a disk or a share adds is not measured. Reads are those of the files' bytes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

import results  # noqa: E402
from s3_listing import memory_mb  # noqa: E402

PER_FOLDER, PER_CONTENT = 200, 20_000  # a file system allows some 65,000 links to a file
SIDE = 96
EVERY = 10  # file has two frames


def draw(folder: Path, files: int) -> int:
    """Make the files below a folder, and give the number of their images."""
    from support.imaging.dicoms import dicom, slice_pixels

    one, two = slice_pixels(SIDE), np.stack([slice_pixels(SIDE, seed) for seed in (1, 2)])
    contents = [dicom(one, SeriesDescription="t1"), dicom(two, SeriesDescription="t1")]
    sources: dict[tuple[int, bool], Path] = {}
    images = 0
    for number in range(files):
        several = number % EVERY == 0
        key = number // PER_CONTENT, several
        if key not in sources:
            sources[key] = folder.with_name(f"content-{key[0]}-{several}")
            sources[key].write_bytes(contents[several])
        place = folder / f"1.2.826.{number // PER_FOLDER}"
        if number % PER_FOLDER == 0:
            place.mkdir(parents=True)
        os.link(sources[key], place / f"1.2.826.{number // PER_FOLDER}.{number}")
        images += 1 + several
    return images


def drive(root: str) -> dict[str, Any]:
    """List a folder and bring it into shards."""
    from brainray import storage
    from brainray.commands.score import read_request
    from brainray.config import Calibration, ImageSpec, ModelSpec, ScoreOptions
    from brainray.models.bundle import save_bundle
    from brainray.scoring.plan import plan_run
    from brainray.scoring.run_folder import check_output

    reads: Counter[str] = Counter()
    lock, read_range = threading.Lock(), storage.read_range

    def counted(uri: str, start: int, length: int, **named: Any) -> bytes:
        data = read_range(uri, start, length, **named)
        with lock:
            reads.update(reads=1, bytes=len(data))
        return data

    storage.read_range = counted
    with tempfile.TemporaryDirectory() as scratch:
        spec = ModelSpec(classes=("glioma", "meningioma", "notumor", "pituitary"))
        save_bundle(f"{scratch}/model", weights=bytes(1000), image=ImageSpec(), model=spec, calibration=Calibration())
        options = ScoreOptions(any_suffix=True)
        request = read_request([root], model=f"{scratch}/model", output=f"{scratch}/run", labels=None, options=options)
        start_mb, began_s = memory_mb("VmRSS"), time.process_time()
        check_output(request)
        plan = plan_run(request, scratch)
        processor_s = time.process_time() - began_s
    return {
        "images": plan.images,
        "shards": len(plan.shards),
        "processor_s": processor_s,
        "start_mb": start_mb,
        "peak_mb": memory_mb("VmHWM"),
        **reads,
    }


def measured(files: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        images = draw(Path(scratch) / "scans", files)
        done = subprocess.run([sys.executable, __file__, "--drive", f"{scratch}/scans"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found: dict[str, Any] = json.loads(done.stdout)
        if found["images"] != images:
            raise SystemExit(f"{found['images']:,} images are listed of {images:,}")
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 100_000])
    results.add_option(parser)
    options = parser.parse_args()
    figures = []
    print(f"{'files':>10} {'images':>10} {'processor s':>12} {'MB at start':>12} {'peak MB':>8} {'reads a file':>13}")
    for files in options.files:
        found = measured(files)
        print(
            f"{files:10,} {found['images']:10,} {found['processor_s']:12.2f} {found['start_mb']:12.0f}"
            f" {found['peak_mb']:8.0f} {found['reads'] / files:13.2f}",
            flush=True,
        )
        of = f"{files:,} DICOM files without suffix"
        figures += [
            results.Figure(f"listing {of}", found["processor_s"], "s of processor"),
            results.Figure(f"driver's peak memory, {of}", found["peak_mb"], "MB"),
            results.Figure(f"reads a file, {of}", found["reads"] / files, "reads"),
        ]
    results.record(options, "listing of DICOM", figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        print(json.dumps(drive(sys.argv[2])))
    else:
        main()
