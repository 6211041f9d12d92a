"""Tells whether two DICOM files are of one series, so that no split of training divides neighbouring slices.

What it gives stays in memory, for it stands for a UID.
"""

import hashlib
import io

from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.gzipped import unzipped
from brainray.inputs.frames.library import pydicom_library

from .header import texts_of
from .magic import is_dicom

_DIGEST_BYTES = 16


def series_digest(data: bytes, *, otherwise: str | None = None, max_pixels: int = ImageSpec.max_pixels) -> str:
    """A digest of the series of a DICOM file, packed by gzip or not, or else of the text; "" where there is neither.

    Never raises: a file that unpacks to more than an image of `max_pixels` may have is of no series.
    """
    name = _series_of(data, max_pixels) or otherwise
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=_DIGEST_BYTES).hexdigest() if name else ""


def _series_of(data: bytes, max_pixels: int) -> str | None:
    try:
        data = unzipped(data, max_pixels)
        if not is_dicom(data):
            return None
        read = pydicom_library().dcmread
        header = read(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    except ImageError:
        return None
    except Exception:  # noqa: BLE001  damaged files raise nearly every type there is; decoding says what is wrong
        return None
    return next(iter(texts_of(header, "SeriesInstanceUID")), None)
