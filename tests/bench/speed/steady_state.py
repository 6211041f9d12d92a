"""Images a second that `brainray score` adds to the tuned loop's, once both run.

    .venv/bin/python tests/bench/speed/steady_state.py --images FOLDER --model BUNDLE [--times 4] [--rounds 1]

Brainray and the tuned loop of `score_vs_plain_loop.py` take turns on the images, and on so many hard links to each of
them. What the links take longer is time in steady state, with no start or end in it. The folder needs to be on the file
system of the links, which lie beside it in a folder that is removed.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import results
from score_vs_plain_loop import image_files, run_brainray, run_loop


def link(folder: str, files: list[str], times: int) -> str:
    """A folder with the files that often."""
    linked = tempfile.mkdtemp(prefix="steady-", dir=Path(folder).resolve().parent)
    for number in range(times):
        for file in files:
            target = Path(linked, str(number), os.path.relpath(file, folder))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(file)
    return linked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    results.add_option(parser)
    options = parser.parse_args()
    files = image_files(options.images)
    contestants = {
        "brainray": lambda folder: run_brainray(folder, options.model),
        "tuned loop": lambda folder: run_loop("tuned", folder, options.model),
    }
    more: dict[str, list[float]] = {name: [] for name in contestants}
    linked = link(options.images, files, options.times)
    try:
        for _ in range(options.rounds):
            for name, run in contestants.items():
                took = {}
                for folder in (options.images, linked):
                    began = time.perf_counter()
                    run(folder)
                    took[folder] = time.perf_counter() - began
                more[name].append(took[linked] - took[options.images])
                print(f"{name:10s} {took[options.images]:6.1f} s, with links {took[linked]:6.1f} s", flush=True)
    finally:
        shutil.rmtree(linked)
    count = len(files) * (options.times - 1)
    rates = {name: count / statistics.median(seconds) for name, seconds in more.items()}
    for name, rate in rates.items():
        print(f"{name:10s} {rate:6.0f} images/s   brainray / {name}: {rates['brainray'] / rate:.2f}")
    what = f"{count:,} images in steady state, {Path(options.model).name}"
    results.record(options, "scoring", results.compared(rates, what))


if __name__ == "__main__":
    main()
