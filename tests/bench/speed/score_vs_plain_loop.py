"""Images a second of `brainray score`, from start to end, beside a loop with no engine.

    .venv/bin/python tests/bench/speed/score_vs_plain_loop.py --images FOLDER --model BUNDLE [--rounds 3]

Three contestants take turns, each from a fresh process with its start counted: `brainray score`; a plain loop, one
process a core, as one writes it by hand (Pillow opens, converts and resizes; batches of 64; same weights and precision;
one Parquet file a process); and the same loop with brainray's own decoder and predictor, which is the limit. What is
printed is the median rate of each and its ratio to brainray's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results

BATCH = 64


def image_files(folder: str) -> list[str]:
    return sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def worker(kind: str, folder: str, model: str, output: str, share: int, of: int) -> None:
    """One process of the loop: every `of`-th image."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image, ImageOps

    from brainray.imaging.decode import decode
    from brainray.models.bundle import load_bundle, load_model
    from brainray.models.predictor import Predictor, normalise, use_bf16

    torch.set_num_threads(1)
    bundle = load_bundle(model)
    px = bundle.image.image_px
    files = image_files(folder)[share::of]

    def plain_decode(path: str) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(ImageOps.pad(image.convert("L"), (px, px)))

    def tuned_decode(path: str) -> np.ndarray:
        return decode(Path(path).read_bytes(), bundle.image).pixels

    if kind == "plain":
        network = load_model(bundle).to(memory_format=torch.channels_last)
        bf16 = use_bf16("auto", torch.device("cpu"))
        bias = torch.tensor(bundle.calibration.class_bias or (0.0,))

        def predict(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = network(normalise(torch.from_numpy(images), bundle.image))
            return torch.softmax(logits.float() / bundle.calibration.temperature + bias, 1).numpy()

        read = plain_decode
    else:
        predict = Predictor(bundle)
        read = tuned_decode
    batches = [files[i : i + BATCH] for i in range(0, len(files), BATCH)]
    probs = np.concatenate([predict(np.stack([read(path) for path in batch])) for batch in batches])
    columns = {f"prob_{name}": probs[:, k] for k, name in enumerate(bundle.classes)}
    pq.write_table(pa.table({"uri": files} | columns), f"{output}/{share}.parquet")


def run_loop(kind: str, folder: str, model: str) -> None:
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as output:
        processes = [
            subprocess.Popen([sys.executable, __file__, "--worker", kind, folder, model, output, str(i), str(cores)])
            for i in range(cores)
        ]
        if any(process.wait(timeout=3600) for process in processes):
            raise SystemExit("a process of the loop failed")


def run_brainray(folder: str, model: str) -> None:
    with tempfile.TemporaryDirectory() as output:
        command = [
            sys.executable,
            "-m",
            "brainray",
            "score",
            "--input",
            folder,
            "--model",
            model,
            "--output",
            f"{output}/run",
        ]
        subprocess.run([*command, "--max-failed", "100%"], check=True, capture_output=True, timeout=3600)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    results.add_option(parser)
    options = parser.parse_args()
    images = len(image_files(options.images))
    contestants = {
        "brainray": lambda: run_brainray(options.images, options.model),
        "plain loop": lambda: run_loop("plain", options.images, options.model),
        "tuned loop": lambda: run_loop("tuned", options.images, options.model),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
            print(f"{name:10s} {seconds[name][-1]:6.1f} s  {images / seconds[name][-1]:6.0f} images/s", flush=True)
    rates = {name: images / statistics.median(values) for name, values in seconds.items()}
    print(f"\n{images} images, {len(os.sched_getaffinity(0))} cores, median of {options.rounds}")
    for name, rate in rates.items():
        print(f"{name:10s} {rate:6.0f} images/s   brainray / {name}: {rates['brainray'] / rate:.2f}")
    results.record(options, "scoring", results.compared(rates, f"{images:,} images, {Path(options.model).name}"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        kind, folder, model, output, share, of = sys.argv[2:]
        worker(kind, folder, model, output, int(share), int(of))
    else:
        main()
