"""How many copies `brainray audit` finds, by what was done to them, and how often it takes two pictures for one.

    .venv/bin/python tests/bench/audit_recall.py --images FOLDER [--count 400] [--others 1200] [--volume FILE.nii.gz]...
        [--csv tests/bench/audit_recall.csv]

Of the folder's images, one of each group of copies is kept; `count` of them are changed in every way of
`tests/support/imaging/pictures.py`, one way a round, and searched for among all of them. A copy is found where it is in
the group of its original, and a group is false where it holds two pictures. Slices of a volume are neighbours by
definition.
"""

import argparse
import csv
import gzip
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.imaging.pictures import CHANGES, Picture, changed, resized

from brainray.duplicates.descriptors import Descriptors, describe_picture
from brainray.duplicates.search import find_candidates, find_copies, group_copies, similarities
from brainray.imaging.decode import luminance

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_NIFTI_TYPES = {2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 512: np.uint16}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--others", type=int, default=1200)
    parser.add_argument("--volume", type=Path, action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    files = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in _SUFFIXES)
    paths, signatures = distinct(rng.permutation(np.array(files)), options.count + options.others)
    rows = [unchanged(signatures)]
    rows += [measure(name, paths[: options.count], signatures, rng) for name in CHANGES]
    rows += [neighbours(path, axis) for path in options.volume for axis in range(3)]
    for row in rows:
        print(row, flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def distinct(paths: Any, count: int) -> tuple[list[Path], Descriptors]:
    """The first images of as many groups, or all there are."""
    some = list(paths[: 3 * count])
    signatures = Descriptors.stack([describe_picture(read(path)) for path in some])
    began = time.perf_counter()
    groups = group_copies(signatures, find_copies(signatures))
    kept = np.unique(groups[signatures.shows_something])[:count]
    print(
        f"{len(some):,} images: {len(kept):,} pictures kept, {time.perf_counter() - began:.0f} s to group", flush=True
    )
    return [some[row] for row in kept], signatures.take(kept)


def read(path: Path) -> Picture:
    return luminance(path.read_bytes())


def row_of(what: str, images: int, found: int, false: int, similarity: Any, seconds: float) -> dict[str, Any]:
    values = np.asarray(similarity) if len(similarity) else np.zeros(1)
    return {
        "what": what,
        "images": images,
        "found": found,
        "recall": f"{found / images:.4f}" if images else "",
        "false_groups": false,
        "similarity_1pc": f"{np.percentile(values, 1):.3f}",
        "similarity_50pc": f"{np.percentile(values, 50):.3f}",
        "similarity_max": f"{values.max():.3f}",
        "seconds": f"{seconds:.0f}",
    }


def unchanged(signatures: Descriptors) -> dict[str, Any]:
    """All candidates among pictures that are none of them copies: the most alike are neighbouring slices."""
    began = time.perf_counter()
    candidates = find_candidates(signatures, np.arange(len(signatures)))
    values = similarities(signatures, candidates)
    near = values[values > 0]
    return row_of("different pictures", 0, 0, 0, near, time.perf_counter() - began)


def measure(name: str, paths: list[Path], signatures: Descriptors, rng: np.random.Generator) -> dict[str, Any]:
    copies = Descriptors.stack([describe_picture(changed(read(path), name, rng)) for path in paths])
    everything = Descriptors.concatenate([signatures, copies])
    began = time.perf_counter()
    pairs = find_copies(everything)
    groups = group_copies(everything, pairs)
    seconds = time.perf_counter() - began
    shows = np.r_[np.arange(len(signatures)), np.arange(len(paths))]
    found = int((groups[len(signatures) :] == groups[: len(paths)]).sum())
    false = sum(len(set(shows[groups == group])) > 1 for group in np.unique(groups))
    print(f"{name}: {found} of {len(paths)}, {false} false groups, {seconds:.0f} s", flush=True)
    return row_of(name, len(paths), found, false, pairs.score, seconds)


def neighbours(path: Path, axis: int) -> dict[str, Any]:
    """Slices of the middle half of a volume; each voxel becomes a square of 3 x 3 pixels."""
    volume, spacing_mm = read_nifti(path)
    slices = [resized(picture, 3.0) for picture in middle(volume, axis)]
    signatures = Descriptors.stack([describe_picture(picture) for picture in slices])
    began = time.perf_counter()
    pairs = find_copies(signatures)
    candidates = find_candidates(signatures, np.arange(len(signatures)))
    groups = group_copies(signatures, pairs)
    false = int((np.unique(groups, return_counts=True)[1] > 1).sum())
    what = f"slices of {path.name.split('.')[0]}, {spacing_mm[axis]:g} mm apart, axis {axis}"
    seconds = time.perf_counter() - began
    return row_of(what, 0, 0, false, similarities(signatures, candidates), seconds)


def middle(volume: Any, axis: int) -> Iterator[Picture]:
    count = volume.shape[axis]
    for place in range(count // 4, 3 * count // 4):
        yield np.ascontiguousarray(np.take(volume, place, axis))


def read_nifti(path: Path) -> tuple[Any, list[float]]:
    """A little-endian NIfTI-1 volume as uint8, black to white from 0 to the 99.8th percentile, and its spacing."""
    data = path.read_bytes()
    data = gzip.decompress(data) if path.name.endswith(".gz") else data
    shape = np.frombuffer(data, "<i2", 3, 42)[::-1]
    kind = _NIFTI_TYPES[int(np.frombuffer(data, "<i2", 1, 70)[0])]
    start = int(np.frombuffer(data, "<f4", 1, 108)[0])
    values = np.frombuffer(data, kind, int(np.prod(shape.astype(int))), start).reshape(shape).astype(np.float64)
    scaled = np.clip(values / np.percentile(values, 99.8), 0, 1) * 255
    return scaled.astype(np.uint8), np.frombuffer(data, "<f4", 3, 80)[::-1].tolist()


if __name__ == "__main__":
    main()
