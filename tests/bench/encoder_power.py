"""Measures how surely features of the frozen encoder tell changed pictures from more pictures of other patients.

200 pictures of half of the groups are the reference, 100 of the others the archive, as they are and changed. The
statistic is a kernel two-sample test (MMD, Gretton et al., JMLR 2012); a change is seen where it is above the 95th
percentile of the unchanged archives. Drawn 40 times.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
import torch

from brainray import storage
from brainray.config import ImageSpec
from brainray.imaging.decode import decode
from brainray.models.encoder import FILE, FrozenEncoder, fitted
from brainray.models.reference import COUNT

_SPEC = ImageSpec(image_px=192)
_PICTURES, _REFERENCE, _ARCHIVE, _DRAWS = 500, 200, 100, 40
CHANGES = {
    "none": lambda p: p,
    "CLAHE 2.0": lambda p: cv2.createCLAHE(2.0, (8, 8)).apply(p),
    "CLAHE 1.2": lambda p: cv2.createCLAHE(1.2, (8, 8)).apply(p),
    "blurred, 1 px": lambda p: cv2.GaussianBlur(p, (0, 0), 1.0),
    "blurred, 0.6 px": lambda p: cv2.GaussianBlur(p, (0, 0), 0.6),
    "JPEG 30": lambda p: cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0),
    "gamma 0.85": lambda p: (255 * (p / 255) ** 0.85).astype(np.uint8),
}


@torch.inference_mode()
def channel_means(encoder, images):
    """[N, C] before the projection."""
    return np.concatenate(
        [encoder._means(fitted(torch.from_numpy(part))).numpy() for part in np.array_split(images, 10)]
    )


def discrepancy(first, second):
    """The unbiased squared MMD with a Gaussian kernel of the median distance."""
    both, n, m = np.concatenate([first, second]), len(first), len(second)
    squares = ((both[:, None] - both[None]) ** 2).sum(-1)
    kernel = np.exp(-squares / np.median(squares[squares > 0]))
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return within - 2 * kernel[:n, n:].mean()


def projections(encoder, reference_NC):
    """Yield matrices by name: that of the package, and one fitted to the reference; both also whitened."""
    spread = reference_NC.std(0) + 1e-6
    standard_NC = (reference_NC - reference_NC.mean(0)) / spread
    fitted_CF = np.linalg.svd(standard_NC, full_matrices=False)[2][:COUNT].T / spread[:, None]
    for name, matrix_CF in {"fixed": encoder._projection_CF.numpy(), "PCA": fitted_CF}.items():
        covariance = np.cov((reference_NC @ matrix_CF).T)
        values, vectors = np.linalg.eigh(covariance + 1e-3 * np.trace(covariance) / COUNT * np.eye(COUNT))
        yield name, matrix_CF
        yield f"{name}, whitened", matrix_CF @ vectors / np.sqrt(values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="folder of class folders")
    parser.add_argument("--groups", required=True, help="CSV with uri and group; empty where nothing is known")
    given = parser.parse_args()
    rows = [row for row in csv.DictReader(Path(given.groups).read_text().splitlines()) if row["group"]]
    rng, encoder = np.random.default_rng(0), FrozenEncoder(_state())
    rows = [rows[place] for place in rng.permutation(len(rows))[:_PICTURES]]
    groups = np.array([row["group"] for row in rows])
    pixels = [decode(Path(given.images, row["uri"]).read_bytes(), _SPEC).pixels for row in rows]
    means = {name: channel_means(encoder, np.stack(list(map(change, pixels)))) for name, change in CHANGES.items()}
    found = {}
    for _ in range(_DRAWS):
        half = rng.permutation(np.unique(groups))[::2]
        known, other = (
            rng.permutation(np.flatnonzero(side)) for side in (np.isin(groups, half), ~np.isin(groups, half))
        )
        known, other = known[:_REFERENCE], other[:_ARCHIVE]
        for projection, matrix_CF in projections(encoder, means["none"][known]):
            for name in CHANGES:
                value = discrepancy(means["none"][known] @ matrix_CF, means[name][other] @ matrix_CF)
                found.setdefault((projection, name), []).append(value)
    for (projection, name), values in found.items():
        limit = np.quantile(found[projection, "none"], 0.95)
        seen, size = np.mean(np.array(values) > limit), np.mean(values) / limit
        print(f"{projection:<16} {name:<16} seen {seen:.0%}, {size:.1f} limits")


def _state():
    from safetensors.torch import load

    return load(storage.read_bytes(str(FILE)))


if __name__ == "__main__":
    main()
