"""Decodes JPEG of 12 bits with GDCM, which Pillow does not.

pydicom does not ask GDCM for it. The file `JPGExtended.dcm` of its tests comes out with the values that pydicom's
documentation gives for another library.
"""

import numpy as np
from numpy.typing import NDArray

from brainray.errors import ImageError
from brainray.inputs.frames.library import TO_INSTALL

_EXTENDED = "1.2.840.10008.1.2.4.51"
_BITS = 12


def decode_12_bits(coded: bytes, size: tuple[int, int]) -> NDArray[np.uint16]:
    """The values of a grey JPEG of 12 bits, [H, W]; `size` is width and height. Raises `ImageError`."""
    try:
        import gdcm
    except ImportError as exc:
        raise ImageError("unsupported", f"its pixels are in JPEG of 12 bits; to read them: {TO_INSTALL}") from exc
    gdcm.Trace.ErrorOff()
    gdcm.Trace.WarningOff()
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(coded)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((*size, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(_EXTENDED)))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, _BITS, _BITS - 1, 0))
    buffer = image.GetBuffer()
    values = np.frombuffer((buffer or "").encode("utf-8", "surrogateescape"), "<u2")
    if values.size != size[0] * size[1]:
        raise ImageError("truncated", "its pixels, in JPEG of 12 bits, are cut or damaged")
    return values.reshape(size[::-1])
