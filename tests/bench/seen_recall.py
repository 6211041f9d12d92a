"""Measures how often copies of pictures are recognised as seen, and other slices of the same heads taken for them.

Copies are made of 400 images, drawn at random. The list of slices is a CSV with the columns `uri` (relative to the
images) and `slice`: in a class folder equal numbers show one slice, and neighbouring numbers neighbouring slices.
"""

import argparse
import csv
import io
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from brainray.config import ImageSpec
from brainray.duplicates.seen import MIRRORINGS, MOST_BITS
from brainray.imaging.decode import decode
from brainray.imaging.picture_hash import hash_pictures, mirrored

_COPIED = 400
_SPEC = ImageSpec(image_px=192, crop="head", tone="usual")  # as models get them


def save(image, kind, **options):
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def scaled(image, factor):
    size = max(8, round(image.width * factor)), max(8, round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)


COPIES = {
    "PNG": lambda image: save(image, "PNG"),
    "TIFF, grey": lambda image: save(image.convert("L"), "TIFF"),
    "WebP 80": lambda image: save(image, "WEBP", quality=80),
    "JPEG 75": lambda image: save(image, "JPEG", quality=75),
    "JPEG 50": lambda image: save(image, "JPEG", quality=50),
    "JPEG 30": lambda image: save(image, "JPEG", quality=30),
    "half as large": lambda image: save(scaled(image, 0.5), "PNG"),
    "0.7 times, JPEG 75": lambda image: save(scaled(image, 0.7), "JPEG", quality=75),
    "1.5 times": lambda image: save(scaled(image, 1.5), "PNG"),
    "128 px, JPEG 75": lambda image: save(scaled(image, 128 / max(image.size)), "JPEG", quality=75),
    "stretched to 224 x 224, JPEG 85": lambda image: save(image.resize((224, 224)), "JPEG", quality=85),
    "brighter by 15 %, JPEG 85": lambda image: save(image.point(lambda v: min(255, v * 1.15)), "JPEG", quality=85),
}


def hashes_of(contents, spec=_SPEC):
    return np.concatenate([hash_pictures(decode(content, spec).pixels[None]) for content in contents])


def differing(first_NB, second_NB):
    """[N] bits in which hashes differ, in the nearest of the mirror images."""
    pairs = (mirrored(first_NB, across=across, down=down) ^ second_NB for across, down in MIRRORINGS)
    return np.min([np.bitwise_count(each).sum(axis=1) for each in pairs], axis=0)


def drawn(paths):
    return np.sort(np.random.default_rng(0).choice(len(paths), min(_COPIED, len(paths)), replace=False))


def measure_sizes(paths, hash_NB):
    """The same files, as a model of another size gets them: what `train --init` with another --image-px looks up."""
    places = drawn(paths)
    for px in (224, 160, 96, 64, 32):
        bits = differing(
            hash_NB[places], hashes_of((paths[n].read_bytes() for n in places), replace(_SPEC, image_px=px))
        )
        print(f"{f'as a model of {px} px gets it':<34} recognised {(bits <= MOST_BITS).mean():.1%} of {len(places)}")


def measure_copies(paths, hash_NB):
    places = drawn(paths)
    images = [Image.open(paths[place]) for place in places]
    images = [image if image.mode in ("L", "RGB") else image.convert("RGB") for image in images]
    for name, copy in COPIES.items():
        bits = differing(hash_NB[places], hashes_of(map(copy, images)))
        print(f"{name:<34} recognised {(bits <= MOST_BITS).mean():.1%} of {len(places)}")


def measure_slices(slices, hash_NB):
    by_slice = defaultdict(list)
    for place, key in enumerate(slices):
        if key:
            by_slice[key].append(place)
    same = [(a, b) for group in by_slice.values() for n, a in enumerate(group) for b in group[n + 1 :]]
    beside = [
        (a, b) for (folder, n), group in by_slice.items() for a in group for b in by_slice.get((folder, n + 1), ())
    ]
    for name, pairs in (("copies of one slice in the set", same), ("neighbouring slices", beside)):
        bits = differing(*(hash_NB[list(side)] for side in zip(*pairs, strict=True)))
        print(f"{name:<34} taken for one picture {(bits <= MOST_BITS).sum()} of {len(pairs)} pairs")
    known = np.array([place for group in by_slice.values() for place in group])
    numbers = np.array([number for number, group in enumerate(by_slice.values()) for _ in group])
    wrong = 0
    for place, number in zip(known, numbers, strict=True):
        others = hash_NB[known[numbers != number]]
        wrong += differing(np.broadcast_to(hash_NB[place], others.shape), others).min() <= MOST_BITS
    print(f"{'any other slice':<34} taken for it: {wrong} of {len(known)} images, with a list of all")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="folder of class folders")
    parser.add_argument("--slices", required=True, help="CSV with uri and slice; empty where nothing is known")
    given = parser.parse_args()
    rows = list(csv.DictReader(Path(given.slices).read_text().splitlines()))
    paths = [Path(given.images, row["uri"]) for row in rows]
    hash_NB = hashes_of(path.read_bytes() for path in paths)
    measure_copies(paths, hash_NB)
    measure_sizes(paths, hash_NB)
    keys = [(row["uri"].split("/")[0], int(row["slice"])) if row["slice"] else None for row in rows]
    measure_slices(keys, hash_NB)


if __name__ == "__main__":
    main()
