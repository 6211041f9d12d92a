"""Decodes image bytes to the uint8 array that a model takes, or raises `ImageError`; for training and scoring alike.

Reads no file and changes no setting of Pillow. Every image takes the same steps: detect the format, check the header,
unpack, flatten to luminance or RGB, fit, turn upright. Colour profiles (ICC) are ignored; of several frames or pages,
the first counts. Shape suffixes: H height, W width, C colour.
"""

import io
import logging
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from brainray.config import ImageSpec
from brainray.errors import ExclusionReason, ImageError, ImageReason
from brainray.inputs.frames.pages import gif, pages_in
from brainray.inputs.frames.sources import within

from . import jpeg
from .dicom.codestream import size_of
from .dicom.halved import phase_of
from .dicom.pictures_apart import decode_12_bits
from .dicom.pixels import Picture
from .dicom.series import SeriesFacts
from .formats import TIFF_COMPRESSIONS, is_heif, plugin_for, unsupported_format
from .framing import Box, margins, turned, widened
from .gzipped import unzipped
from .heif import FORMAT as HEIF
from .heif import heif_image, heif_size
from .medical import MedicalImage, medical_format, open_medical
from .normalise import head_box, usual_tone
from .wide_values import has_wide_colours, is_wide, scaled_to_8_bits, shown_in_8_bits, unpacked_colours

_TURNS = {  # EXIF orientation -> the operation that turns the image upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_FULL_SIZE_SCANS = 20  # most scans of a progressive image of max_pixels, more for smaller ones; encoders write about 10
_NO_END = "it has no end marker (EOI), but all its pixels"
_PADDED = "it has no end marker (EOI), and some of its pixels may be missing"
_PAGES = "it has several pages or frames, of which the first is scored"
_EVEN = "its pixels show nothing: all have one brightness"
_PAGED = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")
_CONTENT = re.compile("['\":]")  # where a message of Pillow begins to quote the file
_LEFT_OPEN = re.compile(r"\W*(\bb)?$")
_SILENT = logging.CRITICAL + 1
_QUIET_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """An image fitted to its spec. `width` and `height` are those of the whole image, upright, in pixels."""

    pixels: NDArray[np.uint8]  # [image_px, image_px], or [image_px, image_px, 3] for RGB
    width: int
    height: int
    format: str  # Pillow's name: JPEG, PNG, TIFF ...
    square: Box  # the part of the upright image that `pixels` shows, in its pixels; margins reach beyond the image
    note: str | None = None  # what is wrong with the file although its pixels are whole
    facts: SeriesFacts | None = None  # of a medical image


@dataclass(frozen=True, slots=True)
class Header:
    """Size and format from an image's header, also where its pixels cannot be read. None: not known."""

    width: int | None = None  # as stored: before EXIF orientation
    height: int | None = None
    format: str | None = None
    facts: SeriesFacts | None = None  # of a medical image


class Excluded(Exception):
    """A medical image that the model does not know, by its header; its pixels were not unpacked."""

    def __init__(self, reason: ExclusionReason, detail: str, header: Header) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: ExclusionReason = reason
        self.detail = detail
        self.header = header

    def __reduce__(self) -> tuple[type["Excluded"], tuple[ExclusionReason, str, Header]]:
        return type(self), (self.reason, self.detail, self.header)


def decode(data: bytes, spec: ImageSpec, *, excluding: Collection[str] = ()) -> Decoded:
    """Decode an image and fit it to the spec. Raises `ImageError` and nothing else, whatever the bytes.

    But for `Excluded`, for a medical image that its header excludes by one of these reasons.
    """
    data, is_medical = _unzipped(data, spec.max_pixels)
    if is_medical:
        image = _open_known(data, spec.max_pixels, excluding)
        small = _small_picture(image, spec, excluding)
        return replace(_render(small.image, spec, small.halvings), note=small.note, facts=image.facts)
    try:
        return _noted(_render(_open(data, spec.max_pixels), spec), data)
    except ImageError as exc:
        again = _otherwise(data, exc, spec.max_pixels)
    return _noted(_render(again, spec), data)


def luminance(
    data: bytes, *, max_pixels: int = ImageSpec.max_pixels, excluding: Collection[str] = ()
) -> NDArray[np.uint8]:
    """Decode an image to its luminance in full size: upright uint8 [H, W]. Raises `ImageError`, and `Excluded`.

    The same pixels give the same values in every lossless format, be grey stored as L, R=G=B or a palette.
    """
    data, is_medical = _unzipped(data, max_pixels)
    if is_medical:
        return _luminance(_picture(_open_known(data, max_pixels, excluding), excluding).image)
    try:
        return _luminance(_open(data, max_pixels))
    except ImageError as exc:
        again = _otherwise(data, exc, max_pixels)
    return _luminance(again)


def decode_with_luminance(
    data: bytes, spec: ImageSpec, *, excluding: Collection[str] = ()
) -> tuple[Decoded, NDArray[np.uint8]]:
    """The results of `decode` and `luminance`, byte for byte, in less time than both unless the image is a JPEG."""
    data, is_medical = _unzipped(data, spec.max_pixels)
    if is_medical:
        medical = _open_known(data, spec.max_pixels, excluding)
        small = _small_picture(medical, spec, excluding)
        whole = medical.picture() if small.halvings else small
        return _render(small.image, spec, small.halvings), _luminance(whole.image)
    try:
        image = _open(data, spec.max_pixels)
        decoded = _noted(_render(image, spec), data)
    except ImageError as exc:
        again = _otherwise(data, exc, spec.max_pixels)
        return decode(data, spec), _luminance(again)
    # `decode` unpacks a JPEG only as far as its own size needs, so it has to be unpacked again.
    return decoded, _luminance(_open(data, spec.max_pixels) if isinstance(image, JpegImageFile) else image)


def read_header(data: bytes) -> Header:
    """Width, height and format for the row of an image that `decode` refused. Never raises `ImageError`."""
    try:
        data, is_medical = _unzipped(data, ImageSpec.max_pixels)
        if is_medical:
            return _header_of(open_medical(data, ImageSpec.max_pixels))
        if is_heif(data):
            width, height = heif_size(data)
            return Header(width=width, height=height, format=HEIF)
        image = _packed(data)
    except ImageError:
        return Header(format=medical_format(data))
    return Header(width=image.width, height=image.height, format=image.format)


def _unzipped(data: bytes, max_pixels: int) -> tuple[bytes, bool]:
    """The file without gzip around it, and whether it is medical; NIfTI is unpacked by its own reader.

    Raises `ImageError`.
    """
    if medical_format(data) is None:
        data = unzipped(data, max_pixels)
    return data, medical_format(data) is not None


def _open_known(data: bytes, max_pixels: int, excluding: Collection[str]) -> MedicalImage:
    """A medical image with its header read. Raises `Excluded` where that excludes it by one of the reasons."""
    image = open_medical(data, max_pixels)
    if image.exclusion is not None and image.exclusion.reason in excluding:
        raise Excluded(image.exclusion.reason, image.exclusion.detail, _header_of(image))
    return image


def _small_picture(image: MedicalImage, spec: ImageSpec, excluding: Collection[str]) -> Picture:
    """The picture, of JPEG 2000 in the smallest size that serves: half a side takes a quarter of the time."""
    size = image.width or 0, image.height or 0
    return _picture(image, excluding, _wanted_size(size, spec) if all(size) else None)


def _picture(image: MedicalImage, excluding: Collection[str], least: tuple[int, int] | None = None) -> Picture:
    """The picture, see `MedicalImage`. Raises `Excluded`, or else `ImageError`, for one of a single brightness."""
    found = image.picture(least)
    if np.ptp(found.image.getextrema(), axis=-1).any():
        return found
    if "blank" in excluding:
        raise Excluded("blank", _EVEN, _header_of(image))
    raise ImageError("not_an_image", _EVEN)


def _header_of(image: MedicalImage) -> Header:
    return Header(width=image.width, height=image.height, format=image.format, facts=image.facts)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read and checked and its pixels, but for HEIF, still packed."""
    if is_heif(data):
        return heif_image(data, max_pixels)
    image = _packed(data)
    _check_size(image, data, max_pixels)
    return _at_last_frame(image, max_pixels) if gif.shows_last(data) else image


def _at_last_frame(image: ImageFile, max_pixels: int) -> ImageFile:
    """A frame of an animation that lies on others, which are all unpacked."""
    with _pillow_errors("truncated", f"{image.format} frames"):
        frames = int(getattr(image, "n_frames", 1))
        if frames * image.width * image.height > _FULL_SIZE_SCANS * max_pixels:
            raise ImageError("too_large", f"it lies on {frames - 1:,} frames of {image.width} x {image.height} pixels")
        image.seek(frames - 1)
    _check_pixels(image.size, max_pixels)
    return image


def _packed(data: bytes) -> ImageFile:
    """The image with its header read, of any size; of no HEIF."""
    if not data:
        raise ImageError("empty", "the file has no bytes")
    _silence_pillow()
    plugin = plugin_for(data)
    if plugin is None:
        raise ImageError(*unsupported_format(data))
    with _pillow_errors("truncated", f"{plugin.format} header"):
        # Not Image.open: it hides the plugin's reason, and judges size by a limit global to the process.
        return plugin(io.BytesIO(data))


def _noted(decoded: Decoded, data: bytes) -> Decoded:
    """Note further pages, and a missing end marker of a JPEG, which Pillow overlooks where zeros follow."""
    if _has_pages(data, decoded.format):
        return replace(decoded, note=_PAGES)
    if decoded.format != JpegImageFile.format or jpeg.has_end(data):
        return decoded
    return replace(decoded, note=_PADDED if jpeg.ended(data) is None else _NO_END)


def _has_pages(data: bytes, format: str) -> bool:
    """Whether an image has further pages or frames than the one that is shown; copies of it and masks are none."""
    if format not in _PAGED or gif.shows_last(data):
        return False
    if format in ("TIFF", "GIF"):
        return pages_in(within(data), len(data)) > 1
    try:
        return int(getattr(_packed(data), "n_frames", 1)) > 1
    except Exception:  # noqa: BLE001  damaged bytes behind a picture that is whole
        return False


def _otherwise(data: bytes, error: ImageError, max_pixels: int) -> Image.Image:
    """A JPEG that Pillow refused: with an end marker, where it lacks that alone, or unpacked by another library.

    Raises the image's true error otherwise.
    """
    if error.reason != "truncated" or plugin_for(data) is not JpegImageFile:
        raise error
    size = size_of(data) if jpeg.is_12_bit_grey(data) else None
    if size is not None:
        _check_pixels(size, max_pixels)
        return shown_in_8_bits(decode_12_bits(data, size), str(JpegImageFile.format))
    process = jpeg.unread_process(data)
    if process is not None:
        raise ImageError("unsupported", f"it is {process}, which is not read; save it as PNG first") from error
    ended = jpeg.ended(data)
    if ended is None:
        raise error
    return _open(ended, max_pixels)


def _check_pixels(size: tuple[int, int], max_pixels: int) -> int:
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise ImageError("too_large", f"{size[0]} x {size[1]} pixels are more than the {max_pixels} allowed")
    return pixels


def _check_size(image: ImageFile, data: bytes, max_pixels: int) -> None:
    """Raise `too_large` by what the header says, while nothing is unpacked."""
    pixels = _check_pixels(image.size, max_pixels)
    # libjpeg walks over all pixels once a scan: 100 empty scans, 14 kB, of 100 Mpixel take 7 s.
    if "progressive" in image.info and (scans := data.count(b"\xff\xda")) * pixels > _FULL_SIZE_SCANS * max_pixels:
        raise ImageError("too_large", f"{scans} progressive scans of {image.width} x {image.height} pixels")


def _silence_pillow() -> None:
    """Silence Pillow's warnings about odd tags, and its log, which has the values of tags.

    Process-wide: `catch_warnings` is not thread-safe.
    """
    if _QUIET_FILTER not in warnings.filters:  # not set yet, or dropped at the end of a `catch_warnings` elsewhere
        warnings.filterwarnings("ignore", module=r"PIL\.")
    logger = logging.getLogger("PIL")
    if logger.level != _SILENT:
        logger.setLevel(_SILENT)


@contextmanager
def _pillow_errors(otherwise: ImageReason, what: str) -> Iterator[None]:
    """Everything Pillow raises becomes an `ImageError`; `otherwise` is the reason where the error names none."""
    try:
        yield
    except ImageError:
        raise
    except Exception as exc:  # damaged files raise nearly every type there is; none may take down a shard
        message = _without_content(exc)
        compression = TIFF_COMPRESSIONS.get(int(message)) if message.isdecimal() else None
        if compression is not None:
            raise ImageError("unsupported", f"{what}: is compressed as {compression}; save it as PNG first") from exc
        raise ImageError(_reason(exc, otherwise), f"{what}: {message or type(exc).__name__}") from exc


def _without_content(exc: Exception) -> str:
    """Pillow's message up to a quote or colon: what follows may be bytes of the file, a name among them."""
    said = exc.args[0].decode("latin-1") if exc.args and isinstance(exc.args[0], bytes) else str(exc)
    words, *rest = _CONTENT.split(" ".join(said.split()), maxsplit=1)
    words = _LEFT_OPEN.sub("", words) if rest else words
    return words[:200].encode("ascii", "backslashreplace").decode()


def _reason(exc: Exception, otherwise: ImageReason) -> ImageReason:
    message = str(exc).lower()
    if isinstance(exc, MemoryError | Image.DecompressionBombError) or "too large" in message or "too much" in message:
        return "too_large"
    if isinstance(exc, NotImplementedError) or "unsupported" in message or "unknown pixel mode" in message:
        return "unsupported"
    return otherwise


def _render(image: Image.Image, spec: ImageSpec, halvings: int = 0) -> Decoded:
    """Fit an image, of which `image` has the size `halvings` times halved."""
    mode = "L" if spec.channels == 1 else "RGB"
    size: tuple[int, int] = image.size
    box: Box | None = None
    if isinstance(image, JpegImageFile):
        # Unpack at 1/2, 1/4 or 1/8 while that is no smaller than needed, and luminance only: 2.5 times as fast.
        drafted = image.draft(mode, _wanted_size(size, spec))
        box = drafted[1] if drafted else None
    flat = _unpacked(image, mode)
    if halvings:
        size, box = _whole_of_halved(size, halvings)
    if box is None:
        size = image.size  # a TIFF turns itself upright when unpacked
    proportions = size
    whole = box or (0, 0, *flat.size)
    if spec.crop == "head":
        box = head_box(flat, whole)
        proportions = max(1, round(box[2] - box[0])), max(1, round(box[3] - box[1]))
    # Bicubic: 0.06 ms more than bilinear for an image of 512 px, and 7 dB nearer to Lanczos on the whole image.
    fitted = flat.resize(_fitted_size(proportions, spec), Image.Resampling.BICUBIC, box=box)
    upright = _upright(fitted, image)
    orientation = _orientation(image)
    width, height = size if orientation < 5 else size[::-1]
    across, down = size[0] / whole[2], size[1] / whole[3]  # it may have been unpacked in a reduced size
    left, top, right, bottom = np.subtract(box or whole, (*whole[:2], *whole[:2])).tolist()
    shown = turned((left * across, top * down, right * across, bottom * down), size, orientation)
    framed = _framed(upright, spec)
    return Decoded(
        pixels=usual_tone(framed) if spec.tone == "usual" else framed,
        width=width,
        height=height,
        format=str(image.format),
        square=widened(shown, upright.size, spec.image_px),
    )


def _whole_of_halved(size: tuple[int, int], halvings: int) -> tuple[tuple[int, int], Box]:
    """The size of the whole image, and where it lies in its halved pixels, which stand for those before their place."""
    phase = phase_of(halvings)
    return (size[0] << halvings, size[1] << halvings), (phase, phase, *size)


def _luminance(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(_upright(_unpacked(image, "L"), image))


def _wanted_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Least width and height to unpack: larger where margins will be cropped."""
    width, height = _fitted_size(size, spec)
    return (width * 5 // 4, height * 5 // 4) if spec.crop == "head" else (width, height)


def _fitted_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Width and height inside the square, at least one pixel each."""
    if spec.resize == "stretch":
        return spec.image_px, spec.image_px
    longest = max(size)
    width, height = (max(1, round(side * spec.image_px / longest)) for side in size)
    return width, height


def _unpacked(image: Image.Image, mode: str) -> Image.Image:
    """Unpack to L or RGB: wide values scaled to 8 bits, transparency over black, palette and CMYK resolved."""
    if not isinstance(image, ImageFile):  # a medical picture, in 8 bits already
        return image if image.mode == mode else image.convert(mode)
    source = image.fp
    is_wide_colour = has_wide_colours(image)
    with _pillow_errors("truncated", f"{image.format} pixels"):
        image.load()
    with _pillow_errors("unsupported", f"{image.format} in mode {image.mode}"):
        if is_wide_colour and isinstance(source, io.BytesIO):
            picture = unpacked_colours(source.getvalue(), image)
            return _over_black(picture, mode) if picture.mode == "RGBA" else picture.convert(mode)
        if image.has_transparency_data and not is_wide(image):
            return _over_black(image, mode)
        flat = scaled_to_8_bits(image) if is_wide(image) else image
        return flat if flat.mode == mode else flat.convert(mode)


def _over_black(image: Image.Image, mode: str) -> Image.Image:
    rgba = image.convert("RGBA")
    black = Image.new(mode, image.size)
    black.paste(rgba.convert(mode), mask=rgba.getchannel("A"))
    return black


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 to 8."""
    try:
        orientation = image.getexif().get(Base.Orientation, 1)
        return orientation if orientation in _TURNS else 1
    except Exception:  # noqa: BLE001 - damaged EXIF of whatever kind: show the picture as it is stored
        return 1


def _upright(picture: Image.Image, source: Image.Image) -> Image.Image:
    orientation = _orientation(source)
    return picture if orientation == 1 else picture.transpose(_TURNS[orientation])


def _framed(image: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """The image on a black square."""
    picture = np.asarray(image)
    framed = np.zeros((spec.image_px, spec.image_px, *picture.shape[2:]), np.uint8)
    left, top = margins(image.size, spec.image_px)
    framed[top : top + image.height, left : left + image.width] = picture
    return framed
