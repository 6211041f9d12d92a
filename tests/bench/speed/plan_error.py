"""How far `score --plan --probe` is off: expected and true duration of the same command, for archives of several sizes.

    .venv/bin/python tests/bench/speed/plan_error.py --images FOLDER [--rounds 1]

Each case is an untrained model of so many pixels and the folder's images so many times, on disk or in a bucket of a
local rclone server. Printed is expected / true, start and end counted.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from s3_vs_plain_loop import BUCKET, bucket
from support.models.bundles import untrained

from brainray import storage
from brainray.commands.score import plan_with_probe
from brainray.config import ScoreOptions
from brainray.models.bundle import load_bundle
from brainray.scoring.run_folder import ScoreRequest

CASES = [  # pixels, how many times the images, in a bucket
    (160, 1, False),
    (160, 3, False),
    (160, 8, False),
    (64, 3, False),
    (320, 1, False),
    (320, 3, False),
    (160, 1, True),
    (160, 3, True),
]


def expected_s(root: str, model: str, output: str) -> float:
    request = ScoreRequest(
        inputs=(root,), output=output, bundle=load_bundle(model), label_file=None, options=ScoreOptions(max_unread=1.0)
    )
    _, expected = plan_with_probe(request, say=print)
    assert expected is not None
    return expected.seconds


def true_s(root: str, model: str, output: str) -> float:
    began = time.perf_counter()
    command = [sys.executable, "-m", "brainray", "score", "--input", root, "--model", model, "--output", output]
    subprocess.run([*command, "--max-failed", "100%"], check=True, capture_output=True, timeout=3600)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    ratios = []
    for pixels, times, in_bucket in CASES * options.rounds:
        with tempfile.TemporaryDirectory() as folder:
            model = untrained(f"{folder}/model", image_px=pixels).uri
            if in_bucket:
                storage._s3.cache_clear()  # its clients know the last server
                with bucket(options.images, times, 0):
                    root, output = f"s3://{BUCKET}/in", f"{folder}/run"
                    pair = expected_s(root, model, output), true_s(root, model, output)
            else:
                os.makedirs(f"{folder}/in")
                for number in range(times):
                    os.symlink(os.path.abspath(options.images), f"{folder}/in/{number}")
                root, output = f"{folder}/in", f"{folder}/run"
                pair = expected_s(root, model, output), true_s(root, model, output)
        ratios.append(pair[0] / pair[1])
        where = "bucket" if in_bucket else "disk"
        print(
            f"{pixels} px, {times} times, {where}: expected {pair[0]:.1f} s, true {pair[1]:.1f} s, "
            f"ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"ratios from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
