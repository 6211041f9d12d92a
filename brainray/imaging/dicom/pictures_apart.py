"""Pictures that GDCM and CharLS decode, in a process apart: lossless JPEG, JPEG-LS, and grey JPEG of 12 bits.

Damaged pictures take GDCM down, and CharLS hours: one of 32 x 32 pixels took half a minute.
pydicom does not ask GDCM for 12 bits; the values of the file `JPGExtended.dcm` of its tests come out as another library
has them.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brainray.errors import ImageError
from brainray.imaging.apart import decoded_apart
from brainray.inputs.frames.library import TO_INSTALL

if TYPE_CHECKING:
    from pydicom import Dataset

_LIBRARY = "gdcm"
_EXTENDED = "1.2.840.10008.1.2.4.51"
_BITS = 12


def decode_12_bits(coded: bytes, size: tuple[int, int]) -> NDArray[Any]:
    """The values of a grey JPEG of 12 bits, uint16 [H, W]; `size` is width and height. Raises `ImageError`."""
    if find_spec(_LIBRARY) is None:
        raise ImageError("unsupported", f"its pixels are in JPEG of 12 bits; to read them: {TO_INSTALL}")
    return decoded_apart(twelve_bits, coded, size)


def decode_with_pydicom(syntax: str, dataset: "Dataset", options: dict[str, Any], *, plugin: str) -> NDArray[Any]:
    """The values of a picture as pydicom gives them by one of its plugins. Raises `ImageError`."""
    return decoded_apart(with_pydicom, bytes(dataset.PixelData), str(syntax), options, plugin)


def with_pydicom(pixel_data: bytes, syntax: str, options: dict[str, Any], plugin: str) -> NDArray[Any]:
    """In the child: `decode_with_pydicom`. Raises whatever pydicom and the libraries do."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    return get_decoder(UID(syntax)).as_array(pixel_data, index=0, decoding_plugin=plugin, **options)[0]


def twelve_bits(coded: bytes, size: tuple[int, int]) -> NDArray[Any]:
    """In the child: `decode_12_bits`. Raises whatever GDCM does."""
    import gdcm

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
    if buffer is None:
        raise ValueError("no picture")
    return np.frombuffer(buffer.encode("utf-8", "surrogateescape"), "<u2").reshape(size[::-1])
