"""Images a second that a worker of `brainray train` learns from, beside the same loop with no Ray around it.

    .venv/bin/python tests/bench/speed/train_vs_plain_loop.py --data FOLDER [--epochs 3] [--rounds 3] [-- OPTIONS]

Both decode before they are timed, and take turns: Ray Train with one worker, then the loop in a fresh process with as
many threads. The first epoch of each is left out, for it warms up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import results


def with_ray(data: str, epochs: int, given: list[str]) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        command = ["--data", data, "--output", f"{folder}/model", "--workers", "1", "--epochs", str(epochs), *given]
        subprocess.run([sys.executable, "-m", "brainray", "train", *command], check=True, timeout=3600)
        return pq.read_table(f"{folder}/model/training/history.parquet")["images_per_s"].to_pylist()[1:]


def plain(data: str, epochs: int, given: list[str]) -> list[float]:
    command = [sys.executable, __file__, "--data", data, "--epochs", str(epochs), "--loop", "--", *given]
    done = subprocess.run(command, check=True, timeout=3600, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])[1:]


def loop(data: str, epochs: int, given: list[str]) -> None:
    """In this process: what `Learner` does in a worker, with plain arrays in memory."""
    import time

    import torch

    sys.path.append(str(Path(__file__).parents[1]))
    from model_trade import train_side
    from typer.main import get_command

    from brainray.cli.app import app
    from brainray.config import TrainOptions
    from brainray.training.trainer import FitSpec, Trainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    command = get_command(app).commands["train"]
    values = command.make_context("train", ["--data", data, "--output", "x", *given]).params
    names = ("model", "weights", "image_px", "batch_size", "lr", "augment")
    options = TrainOptions(**{name: values[name] for name in names if values[name] is not None}, epochs=epochs)
    learn, counts, classes = train_side(data, options)
    fit_spec = FitSpec(options=options, model=options.model_spec(classes), class_counts=counts, init=None)
    learner = Trainer(fit_spec, resume_from=None, device=torch.device("cpu"))
    found = []
    for _ in range(epochs):
        began = time.perf_counter()
        learner.epoch(learn)
        found.append(learner.steps * learner.batch / (time.perf_counter() - began))
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("given", nargs="*")
    results.add_option(parser)
    options = parser.parse_args()
    data = str(Path(options.data).resolve())
    if options.loop:
        loop(data, options.epochs, options.given)
        return
    rates: dict[str, list[float]] = {"with Ray": [], "plain loop": []}
    for _ in range(options.rounds):
        rates["with Ray"] += with_ray(data, options.epochs, options.given)
        rates["plain loop"] += plain(data, options.epochs, options.given)
    ray, alone = (statistics.median(values) for values in rates.values())
    measured = f"medians of {len(rates['with Ray'])} epochs"
    print(f"with Ray {ray:.1f} images/s, plain loop {alone:.1f}, ratio {ray / alone:.3f} ({measured})")
    figures = [
        results.Figure("`brainray train`, its epochs", ray, "images/s"),
        results.Figure("the same loop without Ray", alone, "images/s", ray / alone),
    ]
    results.record(options, "training", figures)


if __name__ == "__main__":
    main()
