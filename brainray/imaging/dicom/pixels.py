"""The pixels of a DICOM picture as 8 bits: decompressed, rescaled and windowed as its header says.

Of several windows the first counts. Without a window, the `_WINDOW` percentiles of the slice become black and white;
those of its series would need a second pass over the archive. Padding
counts to neither and is black. Overlays and colour profiles are ignored.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from brainray.errors import ImageError
from brainray.imaging.normalise import opencv
from brainray.inputs.frames.library import TO_INSTALL

from . import halved
from .codestream import size_of
from .header import (
    NO_PIXELS,
    as_image_error,
    count_of,
    frame_view,
    has_pixels,
    is_no_image,
    number_of,
    texts_of,
    value_of,
)
from .native import usual_pixels
from .pictures_apart import decode_12_bits, decode_with_pydicom

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.pixels.decoders.base import Decoder

_WINDOW = (0.1, 99.9)  # percentiles, as of other images of more than 8 bits, see `decode`
_WIDEST = 1 << 16  # values that are rendered one by one: a table of those of 16 bits is faster than the pixels
# The library that decodes is the first that is there and can. The last ones do so in a process apart.
_EXACT_FLOATS = 1 << 24  # numbers below this are exact as floats of 32 bits, in which OpenCV counts
_PLUGINS = ("pillow", "pylibjpeg", "pydicom")
_APART = ("pyjpegls", "gdcm")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_EXTENDED = "1.2.840.10008.1.2.4.51"  # whose 12 bits pydicom reads with a library under the GPL only
_RLE = "1.2.840.10008.1.2.5"
_ENCODINGS = {  # of a file without its meta group: (implicit, little endian) -> transfer syntax
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}

Pixels = NDArray[Any]


class Picture(NamedTuple):
    """A picture in mode L or RGB, and what is wrong with the file although its pixels are whole."""

    image: Image.Image
    note: str | None
    halvings: int = 0  # how often the size of the picture was halved by the one who unpacked it


def picture(dataset: "Dataset", max_pixels: int, least: tuple[int, int] | None = None) -> Picture:
    """The picture, which may be unpacked in a reduced size that is no smaller than `least` (width, height).

    Raises `ImageError`, before anything is unpacked for one that would have more than `max_pixels`.
    """
    if not has_pixels(dataset):
        is_cut = not is_no_image(dataset)
        raise ImageError(*(("truncated", "it ends before its pixels") if is_cut else ("not_an_image", NO_PIXELS)))
    rows, columns = count_of(dataset, "Rows"), count_of(dataset, "Columns")
    frames = count_of(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise ImageError(
            "unsupported",
            f"it holds {frames:,} frames and was listed as one image; name each in a list, as file.dcm#1, or take it "
            "out of its archive",
        )
    if rows * columns > max_pixels:
        raise ImageError("too_large", f"{columns} x {rows} pixels are more than the {max_pixels} allowed")
    if rows <= 0 or columns <= 0:
        raise ImageError("truncated", "its DICOM header gives no size in pixels")
    if "PixelData" not in dataset:
        raise ImageError("unsupported", "its pixels are real numbers, which are not read")
    note, halvings, stored = None, 0, usual_pixels(dataset, (columns, rows))
    if stored is None:
        note = " and ".join(filter(None, (_complete(dataset), _surplus(dataset)))) or None
        stored, halvings = _stored(dataset, (columns, rows), least)
    with as_image_error("unsupported", "its pixels cannot be shown as its header says"):
        return Picture(_rendered(stored, dataset), note, halvings)


def _complete(dataset: "Dataset") -> str | None:
    """Fill in what a header must say of its pixels and does not; gives a note of that. Old exports lack some."""
    bits = count_of(dataset, "BitsAllocated")
    photometric = "RGB" if count_of(dataset, "SamplesPerPixel") == 3 else "MONOCHROME2"
    usual = {"SamplesPerPixel": 1, "PhotometricInterpretation": photometric, "PixelRepresentation": 0}
    missing = {name: value for name, value in usual.items() if value_of(dataset, name) is None}
    missing |= {"BitsStored": bits} if bits and value_of(dataset, "BitsStored") is None else {}
    with as_image_error("truncated", "its DICOM header describes no pixels"):
        for name, value in missing.items():
            setattr(dataset, name, value)
        if value_of(dataset, "HighBit") is None and bits:
            dataset.HighBit = count_of(dataset, "BitsStored") - 1
    taken = ", ".join(f"{name} as {value}" for name, value in missing.items())
    return f"its header lacks and is taken to have {taken}" if missing else None


def _surplus(dataset: "Dataset") -> str | None:
    """Check the length of pixels that are not compressed. Raises `truncated`; gives a note on surplus bytes."""
    with as_image_error("truncated", "its DICOM header describes no pixels"):
        syntax = _syntax(dataset)
        if syntax is None or not _is_known(syntax) or syntax.is_encapsulated:
            return None
        from pydicom.pixels.utils import get_expected_length

        expected, there = get_expected_length(dataset), len(dataset.PixelData)
        if there < expected:
            raise ImageError("truncated", f"its pixels have {there:,} bytes of {expected:,}")
        surplus = there - expected - expected % 2
        return f"it has {surplus:,} bytes after its pixels" if surplus > 0 else None


def _syntax(dataset: "Dataset") -> Any:  # noqa: ANN401  pydicom's UID
    """The transfer syntax; that of the encoding for files without a meta group. None: not known."""
    from pydicom.uid import UID

    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else value_of(meta, "TransferSyntaxUID")
    if syntax is None:
        if getattr(dataset["PixelData"], "is_undefined_length", False):
            return None
        syntax = _ENCODINGS.get((bool(dataset.original_encoding[0]), bool(dataset.original_encoding[1])))
    return None if syntax is None else UID(syntax)


def _is_known(syntax: Any) -> bool:  # noqa: ANN401  pydicom's UID
    return bool(syntax.name != str(syntax))


def _stored(dataset: "Dataset", size: tuple[int, int], least: tuple[int, int] | None) -> tuple[Pixels, int]:
    """The values as they are stored, [H, W], or [H, W, 3] in RGB; and how often the size was halved."""
    with as_image_error("unsupported", "it does not say how its pixels are compressed"):
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.pixels.utils import as_pixel_options

        syntax = _syntax(dataset)
        if syntax is None:
            raise ImageError("unsupported", "it does not say how its pixels are compressed")
        known = syntax.name if _is_known(syntax) else "an unknown or private transfer syntax"
    with as_image_error("unsupported", f"its pixels are in {known}, which is not read"):
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError as exc:
            raise ImageError("unsupported", f"its pixels are in {known}, which is not read") from exc
        if syntax == _EXTENDED and count_of(dataset, "BitsStored") > 8:
            return _extended(dataset, size), 0
        if not decoder.is_available:
            raise ImageError("unsupported", f"its pixels are in {known}; to read them: {TO_INSTALL}")
    with as_image_error("truncated", f"its pixels, in {known}, cannot be decoded"):
        options = as_pixel_options(dataset)
        shift = 0 if syntax.is_encapsulated and syntax != _RLE else _unused_bits(dataset)
        if shift:
            options["bits_stored"] += shift
        if syntax.is_encapsulated:
            coded = _checked_code(dataset, syntax, size)
            halvings = halved.halvings_for(size, least) if least and _can_be_halved(dataset, syntax) else 0
            small = _halved(coded, halvings, dataset) if halvings else None
            if small is not None:
                return small, halvings
            stored = _decompressed(decoder, dataset, options)
        else:
            stored = decoder.as_array(dataset, index=0, **options)[0]
        return (stored >> shift if shift else stored), 0


def _can_be_halved(dataset: "Dataset", syntax: str) -> bool:
    """Whether values may be mixed with their neighbours': not numbers of colours, nor marks of padding."""
    is_grey = (*texts_of(dataset, "PhotometricInterpretation"), "MONOCHROME2")[0] in _GREY
    return syntax in halved.SYNTAXES and is_grey and value_of(dataset, "PixelPaddingValue") is None


def _halved(coded: bytes, halvings: int, dataset: "Dataset") -> Pixels | None:
    """The values in a reduced size; None where only the whole picture can be unpacked."""
    bits, is_signed = count_of(dataset, "BitsStored"), count_of(dataset, "PixelRepresentation") == 1
    try:
        return halved.unpack_halved(coded, halvings, bits=bits, is_signed=is_signed)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  the libraries for the whole picture say what is wrong
        return None


def _extended(dataset: "Dataset", size: tuple[int, int]) -> Pixels:
    """The values of a grey picture in JPEG Extended of more than 8 bits."""
    from pydicom.encaps import get_frame

    signed = count_of(dataset, "PixelRepresentation") == 1
    if count_of(dataset, "SamplesPerPixel", 1) != 1 or signed or count_of(dataset, "BitsAllocated") != 16:
        raise ImageError("unsupported", "its JPEG of 12 bits is in colour or signed, which is not read")
    coded = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if size_of(coded) != size:
        raise ImageError("truncated", "its compressed picture does not have the size that its header says")
    return decode_12_bits(coded, size)


def _unused_bits(dataset: "Dataset") -> int:
    """The bits below those of a value, where it stands higher than in the lowest ones, as older files have it."""
    high, stored = count_of(dataset, "HighBit"), count_of(dataset, "BitsStored")
    return max(0, high + 1 - stored) if stored > 0 and high < count_of(dataset, "BitsAllocated") else 0


def _decompressed(decoder: "Decoder", dataset: "Dataset", options: dict[str, Any]) -> Pixels:
    """Decode with the first library that can. Raises what the last one raises."""
    there = [name for name in (*_PLUGINS, *_APART) if name in decoder.available_plugins]
    for name in there[:-1]:
        try:
            return _decompressed_by(name, decoder, dataset, options)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  each library reads some pictures that another one does not
            continue
    return _decompressed_by(there[-1], decoder, dataset, options)


def _decompressed_by(plugin: str, decoder: "Decoder", dataset: "Dataset", options: dict[str, Any]) -> Pixels:
    if plugin in _APART:
        return decode_with_pydicom(decoder.UID, dataset, options, plugin=plugin)
    return decoder.as_array(dataset, index=0, decoding_plugin=plugin, **options)[0]


def _checked_code(dataset: "Dataset", syntax: Any, size: tuple[int, int]) -> bytes:  # noqa: ANN401  pydicom's UID
    """The compressed picture. Raises where it is of another size than the header says: it decides about memory."""
    from pydicom.encaps import get_frame

    coded = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == _RLE:
        bytes_ = size[0] * size[1] * count_of(dataset, "SamplesPerPixel", 1) * count_of(dataset, "BitsAllocated") // 8
        # At worst RLE adds a byte to each 128 (PS3.5, G.3.1), and its header has 64.
        if len(coded) > bytes_ + bytes_ // 64 + 1024:
            raise ImageError("unsupported", f"its {len(coded):,} compressed bytes are more than its picture has")
        return coded
    found = size_of(coded)
    if found is not None and found != size:
        raise ImageError(
            "unsupported",
            f"its compressed picture has {found[0]} x {found[1]} pixels, its header says {size[0]} x {size[1]}",
        )
    return coded


def _rendered(stored: Pixels, dataset: "Dataset") -> Image.Image:
    photometric = (*texts_of(dataset, "PhotometricInterpretation"), "MONOCHROME2")[0]
    bits = count_of(dataset, "BitsStored", 8)
    if photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        entries, first, _ = dataset.RedPaletteColorLookupTableDescriptor  # 0 entries stand for 65,536
        table = apply_color_lut(np.arange(first, first + (entries or 1 << 16)), dataset)
        stored = apply_color_lut(stored, dataset)
        bits = 16 if table.max() > 255 else 8  # words of 16 bits may hold values of 8
    if stored.ndim == 3:
        shown = stored if bits <= 8 else stored.astype(np.uint32) >> (bits - 8)
        return Image.fromarray(np.ascontiguousarray(shown, dtype=np.uint8), "RGB")
    view = frame_view(dataset)
    padded = None if value_of(view, "VOILUTSequence") or _window_of(view) is not None else _padded(stored, view)
    grey = _windowed(stored, view, padded)
    if photometric == "MONOCHROME1":
        grey = ~grey
    if padded is not None:
        grey[padded] = 0
    return Image.fromarray(grey)


def _padded(stored: Pixels, view: "Dataset") -> NDArray[np.bool_] | None:
    """[H, W] which pixels lie outside the picture by their value (PS3.3, C.7.5.1.1.2); None where none or all do."""
    bounds = [number_of(view, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if bounds[0] is None or stored.dtype.kind not in "iu":
        return None
    # As values of the pixels' type, for the attribute may have been written as one of the other sign.
    ends = [int(each) % (1 << 8 * stored.dtype.itemsize) for each in bounds if each is not None]
    low, *_, high = sorted(
        np.array(ends, f"u{stored.dtype.itemsize}").view(stored.dtype.newbyteorder("=")).tolist() * 2
    )
    padded: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return padded if padded.any() and not padded.all() else None


def _windowed(stored: Pixels, view: "Dataset", padded: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Values as 8 bits, by the window or by percentiles of the pixels that are not padded.

    A value is looked up in a table of all that occur between the lowest and the highest: pydicom computes it.
    """
    lowest, highest = min(0, int(stored.min())), int(stored.max())
    is_table = stored.dtype.kind in "iu" and highest - lowest < min(_WIDEST, stored.size)
    values: Pixels = np.arange(lowest, highest + 1) if is_table else stored
    shown = _voi(values, view, lambda real: _percentiles(real, _places(stored, lowest) if is_table else None, padded))
    table: NDArray[np.uint8] = np.clip(np.nan_to_num(shown) + 0.5, 0, 255).astype(np.uint8)
    return _looked_up(stored, table, lowest) if is_table else table


def _places(stored: Pixels, lowest: int) -> Pixels:
    """Where in a table of all values from the lowest on those of the pixels stand."""
    return stored.astype(np.int32) - lowest if lowest else stored


def _looked_up(stored: Pixels, table: NDArray[np.uint8], lowest: int) -> NDArray[np.uint8]:
    """The values of a table, which begins with that of the lowest, 0 or less, for each pixel."""
    if stored.dtype.itemsize != 2 or not stored.dtype.isnative or not _has_wide_tables():
        return table.take(_places(stored, lowest))
    wide = np.zeros(_WIDEST, np.uint8)  # by the bits of a value, of which the negative ones come last
    wide[np.arange(lowest, lowest + len(table)) if lowest else slice(len(table))] = table
    found: NDArray[np.uint8] = opencv().LUT(stored.view(np.uint16), wide)
    return found


@cache
def _has_wide_tables() -> bool:
    """Whether this OpenCV looks up 16 bits, as from version 5 on: in a third of the time that numpy takes."""
    try:
        return bool(opencv().LUT(np.full((1, 1), 258, np.uint16), np.arange(_WIDEST).astype(np.uint8))[0, 0] == 2)
    except opencv().error:
        return False


def _percentiles(
    values: NDArray[np.float64], place: Pixels | None, padded: NDArray[np.bool_] | None
) -> tuple[float, float]:
    """The values that become black and white; lowest and highest where the percentiles are equal.

    `values` are those of the pixels, or with `place` a table in which the pixels have these places.
    """
    if padded is not None:
        values, place = (values[~padded], None) if place is None else (values, place[~padded])
    if place is not None:
        counts = _counts(place.ravel(), len(values))
        order = np.argsort(values, kind="stable")
        order = order[counts[order] > 0]
        reached = counts[order].cumsum() / place.size * 100
        values = values[order]
        low, high = (values[np.searchsorted(reached, share)] for share in _WINDOW)
    else:
        low, high = np.percentile(values, _WINDOW)
    return (float(low), float(high)) if low < high else (float(values.min()), float(values.max()))


def _counts(place: Pixels, length: int) -> NDArray[Any]:
    """How often each place, from 0 to `length` - 1, occurs."""
    if place.dtype != np.uint16 or place.size >= _EXACT_FLOATS:
        return np.bincount(place, minlength=length)
    # In a quarter of the time; in one row, for it begins anew with each.
    counts: NDArray[Any] = opencv().calcHist([place[None]], [0], None, [length], [0, length])
    return counts.ravel().astype(np.int64)


def _voi(
    values: Pixels, view: "Dataset", percentiles: Callable[[NDArray[np.float64]], tuple[float, float]]
) -> NDArray[np.float64]:
    """Modality and values of interest (PS3.3, C.11.1 and C.11.2) of stored values: 0 to 255."""
    real = _rescaled(values, view)
    if value_of(view, "VOILUTSequence"):
        from pydicom.pixels.processing import apply_voi

        shown = apply_voi(np.rint(real).astype(np.int64), view)
        depth = int(view.VOILUTSequence[0].LUTDescriptor[2])
        scaled: NDArray[np.float64] = shown / (2**depth - 1) * 255.0
        return scaled
    window = _window_of(view)
    if window is not None:
        return window.applied(real)
    low, high = percentiles(real)
    return (real.clip(low, high) - low) / (high - low or 1) * 255


def _rescaled(values: Pixels, view: "Dataset") -> NDArray[np.float64]:
    """Stored values as those of the modality, by its table or by slope and intercept."""
    if value_of(view, "ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        return apply_modality_lut(values, view).astype(np.float64)
    slope, intercept = number_of(view, "RescaleSlope"), number_of(view, "RescaleIntercept")
    real = values.astype(np.float64)
    return real if slope is None or intercept is None else real * slope + intercept


class _Window(NamedTuple):
    """A window of values that becomes black to white (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""

    centre: float
    width: float
    function: str

    def applied(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values as 0 to 255."""
        centre, width = self.centre, self.width
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):  # far below the window: 1 / infinity is black
                sigmoid: NDArray[np.float64] = 255 / (1 + np.exp(-4 * (values - centre) / width))
            return sigmoid
        if self.function == "LINEAR":
            centre, width = centre - 0.5, width - 1
        if not width:
            return np.where(values > centre, 255.0, 0.0)
        return (((values - centre) / width + 0.5) * 255).clip(0, 255)


def _window_of(view: "Dataset") -> _Window | None:
    """The first window; None where none is usable."""
    centre, width = number_of(view, "WindowCenter"), number_of(view, "WindowWidth")
    function = (*texts_of(view, "VOILUTFunction"), "LINEAR")[0]
    function = function if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else "LINEAR"
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return _Window(centre, width, function)
