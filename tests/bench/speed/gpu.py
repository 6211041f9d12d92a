"""What limits scoring and training on a machine with GPUs, in under ten minutes and with nothing but the checkout.

    .venv/bin/python tests/bench/speed/gpu.py [--images 4000] [--output gpu.csv]

Drawn images; the model in the package. Each line of the CSV is a measure with its machine and date: decoding on one
processor, the forward pass alone, the whole chain of `brainray score`, and an epoch of `brainray train` (NCCL where
there are GPUs). Without a GPU all of it runs on processors, to show that the script works.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

FORWARD_IMAGES = 2048


def machine() -> str:
    import torch

    cores = len(os.sched_getaffinity(0))
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{cores} processors, {f'{len(gpus)} x {gpus[0]}' if gpus else 'no GPU'}"


def brainray(*arguments: str) -> float:
    """Run a command; returns its seconds."""
    began = time.perf_counter()
    environment = os.environ | {"RAY_ADDRESS": "local"}
    subprocess.run([sys.executable, "-m", "brainray", *arguments], env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def measures(folder: str, images: int) -> Iterator[tuple[str, float, str]]:
    """Each measure as soon as it is there: its name, value and unit."""
    from brainray.imaging.decode import decode
    from brainray.models.bundle import load_bundle, named
    from brainray.models.predictor import Predictor

    brainray("sample", "--output", f"{folder}/images", "--images", str(images))
    files = sorted(path for path in Path(folder, "images").rglob("*") if path.is_file())
    bundle = load_bundle(named("shipped"))
    contents = [path.read_bytes() for path in files[:500]]
    began = time.perf_counter()
    pixels = [decode(content, bundle.image).pixels for content in contents]
    yield "decode, one processor", len(contents) / (time.perf_counter() - began), "images/s"
    batch = np.stack([pixels[number % len(pixels)] for number in range(FORWARD_IMAGES)])
    predictor = Predictor(bundle)
    predictor(batch)  # the first one chooses kernels
    began = time.perf_counter()
    predictor(batch)
    yield "forward, one process", len(batch) / (time.perf_counter() - began), "images/s"
    seconds = brainray("score", "--input", f"{folder}/images", "--output", f"{folder}/run")
    yield "score, start to end", len(files) / seconds, "images/s"
    import pyarrow.parquet as pq

    brainray("train", "--data", f"{folder}/images", "--output", f"{folder}/model", "--epochs", "3")
    rates = pq.read_table(f"{folder}/model/training/history.parquet")["images_per_s"].to_pylist()
    yield "train, fastest epoch of all workers", max(rates), "images/s"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--output", default="gpu.csv")
    options = parser.parse_args()
    new = not Path(options.output).exists()
    with tempfile.TemporaryDirectory() as folder, open(options.output, "a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["date", "machine", "measure", "value", "unit"])
        for name, value, unit in measures(folder, options.images):
            writer.writerow([datetime.now(UTC).date().isoformat(), machine(), name, f"{value:.1f}", unit])
            file.flush()
            print(f"{name:40} {value:10.1f} {unit}", flush=True)


if __name__ == "__main__":
    main()
