"""How long the workers of `brainray train` take to start.

    .venv/bin/python tests/bench/speed/train_start.py --data FOLDER [--rounds 3] [-- OPTIONS]

From the line that says that training begins, when pictures are decoded, compared and described, to the begin of the
first epoch; medians.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time

import results

_FIRST_EPOCH = re.compile(r"epoch\s+1/.*?(\d+) s$")


def start_s(data: str, given: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "brainray", "train", "--data", data, "--output", f"{folder}/model", *given]
        begun, started = None, None
        with subprocess.Popen([*command, "--epochs", "1"], stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                if line.startswith("training with"):
                    begun = time.perf_counter()
                elif found := _FIRST_EPOCH.search(line.rstrip()):
                    started = time.perf_counter() - int(found[1])
        if process.returncode or begun is None or started is None:
            raise SystemExit(f"the training failed: {process.returncode}")
        return started - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    results.add_option(parser)
    parser.add_argument("given", nargs="*", help="further options of `brainray train`, after --")
    options = parser.parse_args()
    starts = [start_s(options.data, options.given) for _ in range(options.rounds)]
    median = statistics.median(starts)
    print(f"median of {options.rounds}: {median:.1f} s")
    results.record(options, "training", [results.Figure("`brainray train`, start of its workers", median, "s")])


if __name__ == "__main__":
    main()
