"""Reads the pixels of the usual file, grey and not compressed, in a tenth of the time that pydicom's decoder takes.

Whatever is not as usual is left to it.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .header import has, raw_value, texts_of

if TYPE_CHECKING:
    from pydicom import Dataset

_SYNTAXES = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"))
_GREY = (("MONOCHROME1",), ("MONOCHROME2",))
_TYPES = {(8, 0): "u1", (8, 1): "i1", (16, 0): "<u2", (16, 1): "<i2"}  # by bits allocated and sign
_PIXELS = ("OB", "OW", "OB or OW")  # the last one where the file has no types


class _Layout(NamedTuple):
    rows: int
    columns: int
    samples: int
    allocated: int  # bits of a value in the file
    used: int  # of these, bits up to the highest that belongs to the value
    stored: int  # of these, bits of the value, which are the upper ones
    signed: int

    @property
    def is_usual(self) -> bool:
        is_value = 0 < self.stored <= self.used <= self.allocated
        return self.samples == 1 and is_value and (self.allocated, self.signed) in _TYPES


def usual_pixels(dataset: "Dataset", size: tuple[int, int]) -> NDArray[Any] | None:
    """The values as they are stored, [H, W], as pydicom has them; None for a file that is not as usual.

    `size` is width and height.
    """
    meta = getattr(dataset, "file_meta", None)
    syntax = () if meta is None else texts_of(meta, "TransferSyntaxUID")
    is_grey = texts_of(dataset, "PhotometricInterpretation") in _GREY
    if len(syntax) != 1 or syntax[0] not in _SYNTAXES or not is_grey:
        return None
    layout = _layout(dataset)
    if layout is None or not layout.is_usual or (layout.columns, layout.rows) != size:
        return None
    if has(dataset, "FloatPixelData") or has(dataset, "DoubleFloatPixelData"):
        return None
    return _values(layout, raw_value(dataset, "PixelData"))


def _layout(dataset: "Dataset") -> _Layout | None:
    names = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "HighBit", "BitsStored", "PixelRepresentation")
    numbers = []
    for name in names:
        raw = raw_value(dataset, name)
        if raw is None or raw[0] != "US" or len(raw[1]) != 2:
            return None
        numbers.append(int.from_bytes(raw[1], "little") + (name == "HighBit"))
    return _Layout(*numbers)


def _values(layout: _Layout, pixels: tuple[str, bytes] | None) -> NDArray[Any] | None:
    length = layout.rows * layout.columns * layout.allocated // 8
    if pixels is None or pixels[0] not in _PIXELS or len(pixels[1]) != length + length % 2:
        return None
    type_ = _TYPES[layout.allocated, layout.signed]
    values: NDArray[Any] = np.frombuffer(pixels[1], type_, layout.rows * layout.columns).reshape(
        layout.rows, layout.columns
    )
    if layout.stored == layout.allocated:
        return values
    # The bits above and below those of a value may be anything (PS3.5, 8.1.1).
    shifted: NDArray[Any] = np.left_shift(values, layout.allocated - layout.used)
    np.right_shift(shifted, layout.allocated - layout.stored, out=shifted)
    return shifted
