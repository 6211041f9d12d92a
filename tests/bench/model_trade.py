"""Accuracy against scoring speed of networks, each trained on four folds of a data set and measured on the fifth.

    .venv/bin/python tests/bench/model_trade.py --data FOLDER --output trade.csv [--only compact-160,lite0-192]

Copies of a picture stay on one side and count once, and all networks are measured on the same pictures. Training is
the loop of `brainray train` in this process, without Ray. Scoring is the predictor of `brainray score` on one thread,
networks taking turns, so that the column of rates is good for ratios. A row that is in the file already is kept.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import recall_score

from brainray import fit
from brainray.bundle import load_bundle, save_bundle, weights_bytes
from brainray.config import TrainOptions
from brainray.copies import find_copies, group_copies
from brainray.learner import Learner, Lesson
from brainray.model import cost_of
from brainray.predict import Predictor
from brainray.rows import KeptRows, decode_rows, take_rows
from brainray.signatures import Signatures
from brainray.training_set import choose, list_training_set, picture_counts

_LITE = {"model": "lite0", "weights": "imagenet", "lr": 7e-4, "augment": 1.0, "epochs": 10}
CANDIDATES = {
    "compact-128": TrainOptions(image_px=128, folds=5),
    "compact-160": TrainOptions(image_px=160, folds=5),
    "compact-160-half": TrainOptions(image_px=160, width=0.5, folds=5),
    "lite0-128": TrainOptions(**_LITE, image_px=128, folds=5),
    "lite0-160": TrainOptions(**_LITE, image_px=160, folds=5),
    "lite0-192": TrainOptions(**_LITE, image_px=192, folds=5),
}
SPEED_IMAGES, SPEED_ROUNDS = 256, 5


def sides(data: str, options: TrainOptions) -> tuple[KeptRows, KeptRows, tuple[int, ...], tuple[str, ...]]:
    """(to learn from, to measure on, pictures by class, classes) of the first fold."""
    found = list_training_set(data)
    rows = decode_rows(found.table, options.image_spec)
    signatures = Signatures.from_columns(rows)
    groups = group_copies(signatures, find_copies(signatures))
    chosen = choose(
        found,
        groups,
        signatures.digest.astype(str),
        rows["error"],
        barred=np.zeros(len(groups), bool),
        options=options,
    )
    split = chosen.splits[0]
    sides = [
        KeptRows([take_rows(rows, chosen.side(places), chosen.pictures[places])])
        for places in (split.train, split.validation)
    ]
    counts = picture_counts(chosen, split.train, len(found.classes))
    return sides[0], sides[1], tuple(counts.tolist()), found.classes


def measure(name: str, data: str, folder: Path) -> dict[str, object]:
    """Train, judge and keep one network."""
    options = CANDIDATES[name]
    learn, judge, counts, classes = sides(data, options)
    model = options.model_spec(classes)
    learner = Learner(
        Lesson(options=options, model=model, class_counts=counts, init=None), begun=None, device=torch.device("cpu")
    )
    began = time.perf_counter()
    for epoch in range(options.epochs):
        loss = learner.epoch(learn)
        print(f"{name}: epoch {epoch + 1}/{options.epochs}, loss {loss:.3f}", flush=True)
    seconds = time.perf_counter() - began
    logits_NK = learner.evaluate(judge)
    predicted = logits_NK.argmax(1)
    cost = cost_of(model, options.image_spec)
    recall = recall_score(judge.label, predicted, average=None)
    save_bundle(
        str(folder / name),
        weights=weights_bytes(learner.judged.state_dict()),
        image=options.image_spec,
        model=model,
        temperature=fit.fit_temperature(logits_NK, judge.label),
        metrics={},
        reference=None,
        provenance={},
    )
    return {
        "network": name,
        "image_px": options.image_px,
        "parameters": cost.parameters,
        "gmac": round(cost.gmac, 3),
        "epochs": options.epochs,
        "train_minutes": round(seconds / 60, 1),
        "pictures": len(judge.label),
        "accuracy": round(float((predicted == judge.label).mean()), 4),
        **{f"recall_{label}": round(float(value), 4) for label, value in zip(classes, recall, strict=True)},
    }


def rates(names: list[str], folder: Path) -> dict[str, float]:
    """Images a second on one thread, the median of rounds in which the networks take turns."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in names}
    predictors = {name: Predictor(load_bundle(str(folder / name))) for name in names}
    images = {
        name: rng.integers(0, 256, (SPEED_IMAGES, *[CANDIDATES[name].image_px] * 2), dtype=np.uint8) for name in names
    }
    for turn in range(SPEED_ROUNDS + 1):  # the first one warms up
        for name in names:
            began = time.perf_counter()
            predictors[name](images[name])
            if turn:
                found[name].append(SPEED_IMAGES / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True, type=Path, help="CSV; the models are kept in a folder beside it")
    parser.add_argument("--only", default=",".join(CANDIDATES))
    options = parser.parse_args()
    folder = options.output.with_suffix("")
    rows = {row["network"]: row for row in csv.DictReader(options.output.open())} if options.output.exists() else {}
    for name in options.only.split(","):
        if name not in rows or not (folder / name).exists():
            rows[name] = measure(name, options.data, folder)
    speed = rates(list(rows), folder)
    for name, row in rows.items():
        row["images_per_s"] = round(speed[name])
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(next(iter(rows.values()))), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows.values(), key=lambda row: row["network"]))
    print(options.output.read_text())


if __name__ == "__main__":
    main()
