"""Bundles that tell what their model has learned from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from brainray.duplicates.seen import FILE, SeenPictures, hash_column
from brainray.imaging.decode import decode
from brainray.imaging.picture_hash import hash_pictures
from brainray.models.bundle import WEIGHTS, Bundle, save_bundle


def telling(bundle: Bundle, folder: Path | str, files: Sequence[bytes]) -> Bundle:
    """The same model with a list of these image files."""
    pixels = np.stack([decode(content, bundle.image).pixels for content in files])
    contents = [hashlib.sha256(content).hexdigest() for content in files]
    columns = {"content": contents, "picture": hash_column(hash_pictures(pixels))}
    return save_bundle(
        str(folder),
        weights=Path(bundle.uri, WEIGHTS).read_bytes(),
        image=bundle.image,
        model=bundle.model,
        calibration=bundle.calibration,
        files={FILE: SeenPictures.of_columns(pa.table(columns)).to_bytes()},
    )
