"""Measures which 8-bit rendering of DICOM is nearest to the pictures that the model learned from.

    .venv/bin/python tests/bench/dicom_window.py --dicom SERIES --training FOLDER [--images 400]

SERIES holds the slices of one series, FOLDER the images of a training set. Each slice is rendered by its window, by its
own percentiles and by those of the series. The distance of two pictures is the mean difference of their sorted values
in grey levels (Wasserstein-1), after the crop to the head. The probabilities are those of the model in the package.
"""

import argparse
import io
import random
from pathlib import Path

import numpy as np
import pydicom

from brainray.config import ImageSpec
from brainray.imaging.decode import decode
from brainray.models.bundle import SHIPPED, load_bundle
from brainray.models.predictor import Predictor

SPEC = ImageSpec(image_px=160, crop="head")
PERCENTILES = (0.1, 99.9)
SHARES = np.linspace(0, 1, 101)


def rendered(path: Path, window: tuple[float, float] | None, *, own: bool) -> bytes:
    """The file with its own window, with another one, or without."""
    slice_ = pydicom.dcmread(path)
    if own:
        return path.read_bytes()
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
        if keyword in slice_:
            delattr(slice_, keyword)
    if window is not None:
        low, high = window
        slice_.WindowCenter, slice_.WindowWidth = (low + high) / 2, max(high - low, 1)
        slice_.VOILUTFunction = "LINEAR_EXACT"
    sink = io.BytesIO()
    slice_.save_as(sink)
    return sink.getvalue()


def quantiles(content: bytes) -> np.ndarray:
    return np.quantile(decode(content, SPEC).pixels, SHARES)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dicom", type=Path, required=True)
    parser.add_argument("--training", type=Path, required=True)
    parser.add_argument("--images", type=int, default=400)
    given = parser.parse_args()
    learned = sorted(path for path in given.training.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = random.Random(0).sample(learned, min(given.images, len(learned)))
    training = np.array([quantiles(path.read_bytes()) for path in chosen])
    usual = np.median(training, axis=0)
    apart = np.abs(training - usual).mean(axis=1)
    print(f"{np.median(apart):6.1f} grey levels: a training picture from the usual one (median of {len(chosen)})")
    slices = sorted(given.dicom.glob("*.dcm"))
    values = np.concatenate([pydicom.dcmread(path).pixel_array.ravel() for path in slices])
    series = tuple(np.percentile(values, PERCENTILES))
    bundle = load_bundle(SHIPPED)
    predictor = Predictor(bundle)
    for name, window, own in (
        ("window", None, True),
        ("percentiles of the slice", None, False),
        ("percentiles of the series", series, False),
    ):
        contents = [rendered(path, window, own=own) for path in slices]
        distance = np.array([np.abs(quantiles(content) - usual).mean() for content in contents])
        probs = predictor(np.stack([decode(content, bundle.image).pixels for content in contents]))
        said = ", ".join(f"{each} {probs[:, k].mean():.2f}" for k, each in enumerate(bundle.classes))
        print(f"{distance.mean():6.1f} grey levels: {name}, {len(slices)} slices; mean probability: {said}")


if __name__ == "__main__":
    main()
