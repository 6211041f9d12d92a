"""Accuracy against scoring speed of networks, each trained on four folds of a data set and measured on the fifth.

    .venv/bin/python tests/bench/model_trade.py --data FOLDER --output trade.csv [--only compact-160,lite0-192]

Copies of a picture stay on one side and count once, and all networks are measured on the same pictures: as they are,
and as other pipelines would hand them over (`CHANGES`). Training is the loop of `brainray train` in this process,
without Ray; scoring is the predictor of `brainray score`, for the rates on one thread with networks taking turns, so
that the column is good for ratios. A network whose model lies beside the CSV already is not trained again.
"""

import argparse
import csv
import io
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.models.bundles import learned
from support.training.selection import select_here

from brainray.config import TrainOptions
from brainray.imaging.decode import decode
from brainray.models.bundle import Bundle, load_bundle
from brainray.models.networks import cost_of
from brainray.models.predictor import Predictor
from brainray.training.dataset import SelectedImages, TrainingSet, list_training_set, picture_counts
from brainray.training.decoded import DecodedRows, decode_rows, take_rows

_LITE = {"model": "lite0", "weights": "imagenet", "lr": 7e-4, "augment": 1.0, "epochs": 12, "folds": 5}
CANDIDATES = {
    "compact-160-half": TrainOptions(image_px=160, width=0.5, folds=5),
    "compact-128": TrainOptions(image_px=128, folds=5),
    "compact-160": TrainOptions(image_px=160, folds=5),
    "lite0-128": TrainOptions(**_LITE, image_px=128),
    "lite0-160": TrainOptions(**_LITE, image_px=160),
    "lite0-192": TrainOptions(**_LITE, image_px=192),
    "lite0-fast-160": TrainOptions(**_LITE | {"model": "lite0-fast"}, image_px=160),
    "lite0-fast-192": TrainOptions(**_LITE | {"model": "lite0-fast"}, image_px=192),
}
_HEADING = "## Networks that were tried"
SPEED_IMAGES, SPEED_ROUNDS = 256, 5


def clahe(image: Image.Image) -> Image.Image:
    return Image.fromarray(cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8)).apply(np.asarray(image)))


def small_jpeg(image: Image.Image) -> Image.Image:
    """A thumbnail, and what JPEG leaves of it."""
    sink = io.BytesIO()
    image.resize((128, round(128 * image.height / image.width))).save(sink, "JPEG", quality=40)
    return Image.open(sink)


def screenshot(image: Image.Image) -> Image.Image:
    """In a viewer's window: wide dark margins, words, colours."""
    wide, high = image.width * 8 // 5, image.height * 6 // 5
    window = Image.new("RGB", (wide, high), (18, 20, 28))
    window.paste(image.convert("RGB"), ((wide - image.width) // 3, (high - image.height) // 2))
    pen = ImageDraw.Draw(window)
    pen.text((6, 6), "SE 3  IM 41/160\nTR 450 TE 12", fill=(240, 220, 90))
    pen.text((wide - 90, high - 20), "2019-04-02", fill=(230, 230, 230))
    return window


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as_it_is": lambda image: image,
    "equalised": ImageOps.equalize,
    "clahe": clahe,
    "small_jpeg": small_jpeg,
    "screenshot": screenshot,
    "mirrored": ImageOps.mirror,
    "darker": lambda image: image.point(lambda value: round(255 * (value / 255) ** 1.6)),
}


@cache
def chosen_images(data: str) -> tuple[TrainingSet, SelectedImages]:
    """The same pictures on the same sides, whatever the network."""
    found, options = list_training_set(data), next(iter(CANDIDATES.values()))
    return found, select_here(found, options)


def train_side(data: str, options: TrainOptions) -> tuple[DecodedRows, tuple[int, ...], tuple[str, ...]]:
    """(images to learn from, pictures by class, classes) of the first fold."""
    found, chosen = chosen_images(data)
    places = chosen.splits[0].train
    positions, pictures = chosen.positions[places], np.unique(chosen.pictures[places], return_inverse=True)[1]
    kept = DecodedRows([take_rows(decode_rows(found.table.take(positions), options.image_spec), positions, pictures)])
    return kept, tuple(picture_counts(chosen, places, len(found.classes)).tolist()), found.classes


def trained(name: str, data: str, folder: Path) -> Bundle:
    """The network as it was trained earlier, or now."""
    uri, options = str(folder / name), CANDIDATES[name]
    if (folder / name / "bundle.json").exists():
        return load_bundle(uri)
    learn, counts, classes = train_side(data, options)

    def hear(epoch: int, loss: float) -> None:
        print(f"{name}: epoch {epoch}/{options.epochs}, loss {loss:.3f}", flush=True)

    return learned(uri, learn, options=options, classes=classes, class_counts=counts, hear=hear)


def judged(bundle: Bundle, data: str) -> dict[str, float]:
    """Accuracy on the fold it has not seen, under each change, and recall of the classes without one."""
    found, chosen = chosen_images(data)
    places = chosen.splits[0].validation
    uris = found.table["uri"].take(chosen.positions[places]).to_pylist()
    labels, predictor, figures = chosen.labels[places], Predictor(bundle), {}
    for change, changed in CHANGES.items():
        pixels = []
        for uri in uris:
            sink = io.BytesIO()
            with Image.open(uri) as image:
                changed(image.convert("L")).save(sink, "PNG")
            pixels.append(decode(sink.getvalue(), bundle.image).pixels)
        right = predictor(np.stack(pixels)).argmax(1) == labels
        figures[f"accuracy_{change}"] = round(float(right.mean()), 4)
        if change == "as_it_is":
            recall = {f"recall_{name}": right[labels == k].mean() for k, name in enumerate(bundle.classes)}
    return {"pictures": len(labels)} | figures | {name: round(float(value), 4) for name, value in recall.items()}


def rates(bundles: dict[str, Bundle]) -> dict[str, int]:
    """Images a second on one thread, the median of rounds in which the networks take turns."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in bundles}
    predictors = {name: Predictor(bundle) for name, bundle in bundles.items()}
    images = {
        name: rng.integers(0, 256, (SPEED_IMAGES, *[bundle.image.image_px] * 2), dtype=np.uint8)
        for name, bundle in bundles.items()
    }
    for turn in range(SPEED_ROUNDS + 1):  # the first one warms up
        for name in bundles:
            began = time.perf_counter()
            predictors[name](images[name])
            if turn:
                found[name].append(SPEED_IMAGES / (time.perf_counter() - began))
    return {name: round(statistics.median(values)) for name, values in found.items()}


def table(rows: list[dict[str, object]]) -> str:
    """As Markdown."""
    names = ("network", "image_px", "parameters", "gmac", "images_per_s_and_core")
    heads = (*names, *(f"accuracy_{change}" for change in CHANGES))
    lines = [heads, ("---",) * len(heads), *(tuple(str(row[name]) for name in heads) for row in rows)]
    seen = f"{rows[0]['pictures']} pictures that none of them has seen"
    said = f"On the first fold, {seen}, as they are and changed on the way (`tests/bench/model_trade.py`):"
    return "\n".join([said, "", *("| " + " | ".join(name.replace("_", " ") for name in line) + " |" for line in lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True, type=Path, help="CSV; the models are kept in a folder beside it")
    parser.add_argument("--only", default=",".join(CANDIDATES))
    parser.add_argument("--card", type=Path, help="model card that gets the table")
    given = parser.parse_args()
    bundles = {name: trained(name, given.data, given.output.with_suffix("")) for name in given.only.split(",")}
    judgements = {name: judged(bundle, given.data) for name, bundle in bundles.items()}
    speed, rows = rates(bundles), []
    for name, bundle in bundles.items():
        cost = cost_of(bundle.model, bundle.image)
        rows.append(
            {
                "network": name,
                "image_px": bundle.image.image_px,
                "parameters": cost.parameters,
                "gmac": round(cost.gmac, 3),
                "images_per_s_and_core": speed[name],
                "epochs": CANDIDATES[name].epochs,
                "train_minutes": round(bundle.provenance["minutes"], 1),
                **judgements[name],
            }
        )
    with given.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if given.card:
        before = given.card.read_text().split(_HEADING)[0].rstrip()
        given.card.write_text(f"{before}\n\n{_HEADING}\n\n{table(rows)}\n")
    print(given.output.read_text())


if __name__ == "__main__":
    main()
