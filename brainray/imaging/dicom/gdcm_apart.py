"""Decodes with GDCM, in a process apart: lossless JPEG, and grey JPEG of 12 bits.

Some damaged pictures make GDCM end its process. pydicom does not ask it for 12 bits; there the values of the file
`JPGExtended.dcm` of pydicom's tests come out as another library has them. This module is both sides: `main` is the
child, which starts with the first picture and serves all threads of its parent, one after the other.
"""

import pickle
import signal
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brainray.errors import ImageError
from brainray.imaging.child_process import ChildProcess, serve
from brainray.inputs.frames.library import TO_INSTALL

if TYPE_CHECKING:
    from pydicom import Dataset

PLUGIN = "gdcm"
_EXTENDED = "1.2.840.10008.1.2.4.51"
_BITS = 12
_TIMEOUT_S = 60.0
_MOST_BYTES = 4 << 30  # a picture of 100 megapixels takes 0.2 GB, and a few times that on its way
_lock = Lock()
_child: ChildProcess | None = None


def decode_12_bits(coded: bytes, size: tuple[int, int]) -> NDArray[Any]:
    """The values of a grey JPEG of 12 bits, uint16 [H, W]; `size` is width and height. Raises `ImageError`."""
    if find_spec(PLUGIN) is None:
        raise ImageError("unsupported", f"its pixels are in JPEG of 12 bits; to read them: {TO_INSTALL}")
    return _ask("12 bits", coded, size)


def decode_with_pydicom(syntax: str, dataset: "Dataset", options: dict[str, Any]) -> NDArray[Any]:
    """The values of a picture as pydicom gives them by GDCM. Raises `ImageError`."""
    return _ask("pydicom", bytes(dataset.PixelData), str(syntax), options)


def _ask(*request: object) -> NDArray[Any]:
    global _child
    with _lock:
        _child = _child or ChildProcess(__name__)
        answer = _child.ask(pickle.dumps(request))
        if answer is None:
            ended, _child = _child.end(), None
            took_long = ended == -signal.SIGALRM
            how = f"longer than {_TIMEOUT_S:g} s" if took_long else "the process of their decoder down"
            answer = ImageError("truncated", f"its pixels are damaged: they take {how}")
    if isinstance(answer, ImageError):
        raise answer
    return np.asarray(answer)


def main() -> None:
    """The child."""
    serve(_answer, timeout_s=_TIMEOUT_S, most_bytes=_MOST_BYTES)


def _answer(content: bytes) -> NDArray[Any] | ImageError:
    kind, *arguments = pickle.loads(content)  # from the parent
    try:
        return _decoded(*arguments) if kind == "12 bits" else _decoded_by_pydicom(*arguments)
    except MemoryError:
        return ImageError("too_large", "it takes too much memory to decode")
    except Exception as exc:  # noqa: BLE001  damaged pixels raise nearly every type there is
        return ImageError("truncated", f"its pixels are cut or damaged ({type(exc).__name__})")


def _decoded_by_pydicom(pixel_data: bytes, syntax: str, options: dict[str, Any]) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    return get_decoder(UID(syntax)).as_array(pixel_data, index=0, decoding_plugin=PLUGIN, **options)[0]


def _decoded(coded: bytes, size: tuple[int, int]) -> NDArray[Any]:
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


if __name__ == "__main__":
    main()
