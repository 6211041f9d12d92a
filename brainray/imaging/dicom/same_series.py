"""Tells whether two DICOM files are of one series, so that no split of training divides neighbouring slices.

What it gives stays in memory, for it stands for a UID.
"""

import hashlib
import io

from brainray.errors import ImageError
from brainray.inputs.frames.library import pydicom_library

from .header import texts_of
from .magic import is_dicom

_DIGEST_BYTES = 16


def series_digest(data: bytes, *, otherwise: str | None = None) -> str:
    """A digest of the series of a DICOM file, or else of the text; "" where there is neither. Never raises."""
    name = (_series_of(data) if is_dicom(data) else None) or otherwise
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=_DIGEST_BYTES).hexdigest() if name else ""


def _series_of(data: bytes) -> str | None:
    try:
        read = pydicom_library().dcmread
        header = read(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    except ImageError:
        return None
    except Exception:  # noqa: BLE001  damaged files raise nearly every type there is; decoding says what is wrong
        return None
    return next(iter(texts_of(header, "SeriesInstanceUID")), None)
