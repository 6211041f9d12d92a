"""Measures how fast DICOM is read on one core: header and pixels to the model's array, and the header alone.

    .venv/bin/python tests/bench/speed/dicom_speed.py

Draws a slice of 512 x 512 pixels with 12 of 16 bits and noise, which compresses as real slices do.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from brainray.config import ImageSpec
from brainray.errors import EXCLUSION_REASONS
from brainray.imaging.decode import Excluded, decode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.imaging.dicoms import dicom, slice_pixels

SIDE = 512
SECONDS = 2.0
SPEC = ImageSpec(image_px=160, crop="head", tone="usual")
PRIVATE = {"SeriesDescription": "t1_mprage_sag", "Manufacturer": "SIEMENS", "MagneticFieldStrength": 2.89}


def rate(read: Callable[[], object]) -> float:
    """Calls a second of processor time."""
    read()
    began_s, done = time.process_time(), 0
    while time.process_time() - began_s < SECONDS:
        read()
        done += 1
    return done / (time.process_time() - began_s)


def excluded(content: bytes) -> None:
    try:
        decode(content, SPEC, excluding=EXCLUSION_REASONS)
    except Excluded:
        return
    raise AssertionError("the localizer was scored")


def main() -> None:
    noise = np.random.default_rng(1).normal(0, 12, (SIDE, SIDE))
    pixels = np.clip(slice_pixels(SIDE) + noise, 0, 4095).astype(np.uint16)
    syntaxes: list[tuple[UID, str, dict[str, object]]] = [
        (ExplicitVRLittleEndian, "with a window", {"WindowCenter": 1000, "WindowWidth": 2000}),
        (ExplicitVRLittleEndian, "without a window", {}),
        (RLELossless, "with a window", {"WindowCenter": 1000, "WindowWidth": 2000}),
        (JPEGLSLossless, "with a window", {"WindowCenter": 1000, "WindowWidth": 2000}),
        (JPEG2000Lossless, "with a window", {"WindowCenter": 1000, "WindowWidth": 2000}),
    ]
    for syntax, what, attributes in syntaxes:
        content = dicom(pixels, syntax, **PRIVATE, **attributes)
        each = rate(lambda content=content: decode(content, SPEC, excluding=EXCLUSION_REASONS))
        print(f"{each:8.0f} a second  {syntax.name}, {what}, {len(content):,} bytes")
    content = dicom(pixels, **PRIVATE, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    print(f"{rate(lambda: excluded(content)):8.0f} a second  header only: a localizer")


if __name__ == "__main__":
    main()
