"""How often the peak of a class-activation map lies in the box around the tumour, beside the centre of the head.

The peak is the cell that speaks most for the predicted class against the runner-up, and it hits where that cell, as a
square, touches the box; the centre of the head is a cell's square in the middle of the network's input. `--boxes` is a
CSV of uri (relative to --data), left, top, right and bottom, as shares of width and height. Prints a table.

With `--folds`, and `--groups` as in its training, a model that kept the networks of its folds (`train --keep-folds`) is
measured by them: each picture by the network that has seen neither it nor its group.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.training.selection import select_here

from brainray.config import TrainOptions
from brainray.errors import ImageError
from brainray.imaging.decode import decode
from brainray.inputs.labels.group_file import read_group_file
from brainray.models.bundle import Bundle, fold_file, kept_folds, load_bundle, named, read_file, save_bundle
from brainray.models.maps import ClassMaps
from brainray.models.predictor import limit_threads
from brainray.training.dataset import list_training_set
from brainray.training.splits import division_digest

_BATCH = 16
Box = tuple[float, float, float, float]  # left, top, right, bottom


class Found(NamedTuple):
    """The peak of one map, and the box on the network's input, in pixels of it."""

    row: int
    column: int
    box: Box
    right: bool  # whether the predicted class is the folder's


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    limit_threads(options.threads)
    bundle = load_bundle(named(options.model))
    maps = ClassMaps(bundle)
    with Path(options.boxes).open(newline="") as file:
        boxes = [row for row in csv.DictReader(file) if (Path(options.data) / row["uri"]).is_file()]
    chosen = np.random.default_rng(options.seed).permutation(len(boxes))[: options.images]
    drawn = [boxes[k] for k in chosen]
    if options.folds:
        held_out = _held_out(options.data, options.groups, bundle)
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for number in range(1, kept_folds(bundle) + 1):
                rows = [row for row in drawn if held_out.get(row["uri"]) == number]
                fold = _fold_bundle(bundle, number, f"{folder}/{number}")
                found += _found(rows, Path(options.data), fold, ClassMaps(fold))
    else:
        found = list(_found(drawn, Path(options.data), bundle, maps))
    _show(found, maps, bundle.image.image_px)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of class folders")
    parser.add_argument("--boxes", required=True, help="CSV of uri, left, top, right, bottom")
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--folds", action="store_true", help="measure by the networks of the folds")
    parser.add_argument("--groups", help="with --folds: the file of groups of the training")
    parser.add_argument("--images", type=int, default=400, help="at most so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def _held_out(data: str, groups: str | None, bundle: Bundle) -> dict[str, int]:
    """The fold, from 1, of one image of each picture, by URI below `data`. Fails where the folds are others."""
    options = TrainOptions.from_json(bundle.provenance["options"])
    found = list_training_set(str(Path(data).resolve()), read_group_file(groups) if groups else None)
    selected = select_here(found, options)
    if division_digest(selected.pictures, selected.splits) != bundle.provenance["data"]["division"]:
        raise SystemExit("the folds of the training were others: give its images and its --groups")
    uris = found.table["uri"].to_pylist()
    return {
        str(Path(uris[position]).relative_to(Path(data).resolve())): number
        for number, split in enumerate(selected.splits, 1)
        for position in selected.positions[split.validation]
    }


def _fold_bundle(bundle: Bundle, number: int, folder: str) -> Bundle:
    """The network of a fold as a model of its own."""
    weights = read_file(bundle, fold_file(number))
    assert weights is not None
    return save_bundle(folder, weights=weights, image=bundle.image, model=bundle.model, calibration=bundle.calibration)


def _found(rows: Sequence[dict[str, str]], data: Path, bundle: Bundle, maps: ClassMaps) -> Iterator[Found]:
    """The peaks of the images that can be decoded."""
    for start in range(0, len(rows), _BATCH):
        pixels, boxes, labels = [], [], []
        for row in rows[start : start + _BATCH]:
            try:
                decoded = decode((data / row["uri"]).read_bytes(), bundle.image)
            except ImageError as exc:
                print(f"{row['uri']}: {exc}")
                continue
            pixels.append(decoded.pixels)
            boxes.append(_on_input(row, decoded.width, decoded.height, decoded.square, bundle.image.image_px))
            labels.append(row["uri"].split("/")[0])
        if not pixels:
            continue
        values, logits = maps(np.stack(pixels))
        for map_Khw, logits_K, box, label in zip(values, logits, boxes, labels, strict=True):
            first, second = np.argsort(-logits_K, kind="stable")[:2]
            peak = np.unravel_index(np.argmax(map_Khw[first] - map_Khw[second]), map_Khw.shape[1:])
            yield Found(int(peak[0]), int(peak[1]), box, bundle.classes[first] == label)


def _on_input(row: dict[str, str], width: int, height: int, square: Box, image_px: int) -> Box:
    """A box of shares of the image, in pixels of the network's input."""
    left, top, right, bottom = (float(row[name]) for name in ("left", "top", "right", "bottom"))
    across, down = image_px / (square[2] - square[0]), image_px / (square[3] - square[1])
    return (
        (left * width - square[0]) * across,
        (top * height - square[1]) * down,
        (right * width - square[0]) * across,
        (bottom * height - square[1]) * down,
    )


def _show(found: Sequence[Found], maps: ClassMaps, image_px: int) -> None:
    grid = maps.grid
    stretched = image_px / grid.columns
    half = grid.step_px / 2
    boxes = np.array([each.box for each in found])
    cells = np.array([(each.column, each.row) for each in found]) + 0.5
    right = np.array([each.right for each in found])
    places = {
        "centre of the head": np.full((len(found), 2), image_px / 2),
        "peak, grid stretched over the input": cells * stretched,
        "peak, where its cell looks": cells * grid.step_px + (grid.left_px, grid.top_px),
    }
    print(f"{len(found)} images, of which {right.mean():.3f} are predicted as labelled")
    print(f"the grid begins at {grid.left_px:.1f}, {grid.top_px:.1f} of {image_px} px, its step is {grid.step_px:g} px")
    print(f"{'':<36} {'cell touches box':>17} {'middle in box':>14}")
    for name, places_N2 in places.items():
        print(f"{name:<36} {_hits(places_N2, boxes, half).mean():>17.3f} {_hits(places_N2, boxes, 0).mean():>14.3f}")


def _hits(places_N2: np.ndarray, boxes_N4: np.ndarray, half: float) -> np.ndarray:
    """[N] whether the square of this half side around each place touches its box."""
    after = (places_N2 + half > boxes_N4[:, :2]).all(1)
    return after & (places_N2 - half < boxes_N4[:, 2:]).all(1)


if __name__ == "__main__":
    main()
