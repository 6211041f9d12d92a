"""Imports pydicom and nibabel where a file is met, set so that they read what breaks the standard and say nothing.

What they say may quote values of attributes, names of people among them.
"""

import logging
import re
import warnings
from functools import cache
from types import ModuleType

from brainray.errors import INSTALL, ImageError

TO_INSTALL = f"{INSTALL.format('dicom')}, then run again with --retry-unread"
IS_DICOM = "it is a DICOM file"  # where none is read; also in rows of versions that read none
_SILENT = logging.CRITICAL + 1
_LOUD = ("pydicom", "highdicom")  # the second one writes structured reports, on the first
_QUIET_FILTERS = tuple(("ignore", None, Warning, re.compile(name), 0) for name in _LOUD)


def pydicom_library() -> ModuleType:
    """pydicom. Raises `ImageError` with the command that installs it."""
    found = _imported()
    # Process-wide, for `catch_warnings` is not thread-safe; again where the filter was dropped at the end of one.
    for name, quiet in zip(_LOUD, _QUIET_FILTERS, strict=True):
        if quiet not in warnings.filters:
            warnings.filterwarnings("ignore", module=name)
        logger = logging.getLogger(name)
        if logger.level != _SILENT:
            logger.setLevel(_SILENT)
    return found


@cache
def _imported() -> ModuleType:
    try:
        import pydicom
    except ImportError as exc:
        raise ImageError("unsupported", f"{IS_DICOM}; to read it: {TO_INSTALL}") from exc
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    return pydicom


NIFTI_TO_INSTALL = f"{INSTALL.format('nifti')}, then run again with --retry-unread"


@cache
def nibabel_library() -> ModuleType:
    """nibabel. Raises `ImageError` with the command that installs it."""
    try:
        import nibabel
    except ImportError as exc:
        raise ImageError("unsupported", f"it is a NIfTI volume; to read it: {NIFTI_TO_INSTALL}") from exc
    logging.getLogger("nibabel.global").setLevel(_SILENT)
    return nibabel
