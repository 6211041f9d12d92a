"""Bundles that tell what their model has learned from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from support.models.bundles import with_file

from brainray.duplicates.seen import FILE, SeenPictures, hash_column
from brainray.imaging.decode import decode
from brainray.imaging.picture_hash import hash_pictures
from brainray.models.bundle import Bundle


def telling(bundle: Bundle, folder: Path | str, files: Sequence[bytes]) -> Bundle:
    """The same model with a list of these image files."""
    pixels = np.stack([decode(content, bundle.image).pixels for content in files])
    contents = [hashlib.sha256(content).hexdigest() for content in files]
    columns = {"content": contents, "picture": hash_column(hash_pictures(pixels))}
    return with_file(bundle, folder, FILE, SeenPictures.of_columns(pa.table(columns)).to_bytes())
