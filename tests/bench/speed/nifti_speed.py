"""Measures how fast slices of packed NIfTI volumes come to the model's array, on one core.

    .venv/bin/python tests/bench/speed/nifti_speed.py

Draws a head of 256 x 256 x 176 voxels of 12 bits with noise, which packs as real volumes do, and a mask of it.
"""

import gzip
import sys
import time
from pathlib import Path

import nibabel
import numpy as np

from brainray.config import ImageSpec
from brainray.errors import EXCLUSION_REASONS
from brainray.imaging.decode import Excluded, decode
from brainray.inputs.frames.nifti.reading import Volumes

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.imaging.niftis import head

SHAPE = (256, 256, 176)
VOLUMES = 2
SPEC = ImageSpec(image_px=160, crop="head", tone="usual")


def rates(content: bytes) -> tuple[float, float, int]:
    """Slices a second of processor time, read alone and with their decoding, and how many were left out."""
    names = [f"z={number}" for number in range(SHAPE[2])]
    read_s = all_s = 0.0
    excluded = 0
    for volume in range(VOLUMES):
        volumes = Volumes()
        began_s = time.process_time()
        slices = volumes.read(
            f"/volume-{volume}.nii.gz",
            None,
            len(content),
            lambda start, length: content[start : start + length],
            names,
        )
        read_s += time.process_time() - began_s
        for each in slices:
            if not isinstance(each, bytes):
                raise each
            try:
                decode(each, SPEC, excluding=EXCLUSION_REASONS)
            except Excluded:
                excluded += 1
        all_s += time.process_time() - began_s
    done = VOLUMES * len(names)
    return done / read_s, done / all_s, excluded // VOLUMES


def main() -> None:
    noise = np.random.default_rng(1).normal(0, 12, SHAPE)
    voxels = head(SHAPE).astype(np.float64) + np.abs(noise)
    for what, values in (
        ("16 bits", voxels.astype(np.int16)),
        ("floats", voxels.astype(np.float32)),
        ("a mask", (voxels > 300).astype(np.uint8)),
    ):
        plain = nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 1.0, 1.0])).to_bytes()
        for kind, content in ((".nii.gz", gzip.compress(plain, 6)), (".nii", plain)):
            read, whole, excluded = rates(content)
            left_out = f", {excluded} of {SHAPE[2]} left out" if excluded else ""
            print(f"{whole:8.0f} a second ({read:.0f} read)  {kind} of {what}, {len(content):,} bytes{left_out}")


if __name__ == "__main__":
    main()
