"""Recognises DICOM by its first bytes. Imports no pydicom."""

import re

# With its preamble of 128 bytes, or from the first element on, which is of group 2 or 8 (PS3.10, 7.1; PS3.5, 7.1):
# little endian with a type of two letters or a length, or big endian.
_MARK = re.compile(rb".{128}DICM|[\2\x08]\0[\0-\x1f]\0([A-Z]{2}..|.\0\0\0)|\0[\2\x08]\0[\0-\x1f][A-Z]{2}", re.DOTALL)


def is_dicom(data: bytes) -> bool:
    """Whether these are the first bytes of a DICOM file, with or without its preamble."""
    return _MARK.match(data[:132]) is not None
