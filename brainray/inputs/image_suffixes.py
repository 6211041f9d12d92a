"""Suffixes of image files, alone or before `.gz`."""

import os
import re

# Formats that `imaging` reads, and medical formats, which are listed so that they get a row with `unsupported`.
_PILLOW = "jpg jpeg jpe jfif jp2 j2k jpc jpf jpx j2c png apng bmp dib gif tif tiff webp avif ppm pgm pbm pnm pfm"
_MEDICAL = "heic heif dcm dicom ima nii"
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in f"{_PILLOW} {_MEDICAL}".split())
PACKED = ".gz"
_NUMBER = re.compile(r"(#\d+)+$")  # see `archives.list_members`


def image_suffix(name: str) -> str:
    """The suffix of a file that is an image by its name, in lower case, as `.png` or `.dcm.gz`; "" for any other."""
    stem, last = os.path.splitext(name.lower())
    if last in IMAGE_SUFFIXES:
        return last
    before = os.path.splitext(stem)[1] if last == PACKED else ""
    return before + last if before in IMAGE_SUFFIXES else ""


def without_number(name: str) -> str:
    """The name of a member of an archive without the `#2` of one whose name occurs again, which is no part of it."""
    return _NUMBER.sub("", name)
