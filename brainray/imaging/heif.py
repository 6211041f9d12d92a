"""HEIC and HEIF images by pi-heif, an extra, whose library some damaged images take down: they are decoded apart."""

from importlib.util import find_spec

from PIL import Image

from brainray.errors import INSTALL, ImageError

from .apart import decoded_apart

FORMAT = "HEIF"
MAGIC = rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)"
IS_HEIF = "it is a HEIC image"  # where none is read; also in rows of versions that read none
_TO_INSTALL = f"{INSTALL.format('heif')}, then run again with --retry-unread"
# pi-heif has a decoder only. pillow-heif, which is like it, brings an encoder under the GPL.
_LIBRARY = "pi_heif"


def heif_image(data: bytes, max_pixels: int) -> Image.Image:
    """The primary image, upright, in mode RGB or L, transparency over black. Raises `ImageError`."""
    _check_library()
    mode, size, pixels = decoded_apart(picture, data, max_pixels)
    image = Image.frombytes(mode, size, pixels)
    image.format = FORMAT
    return image


def heif_size(data: bytes) -> tuple[int, int]:
    """Width and height of the primary image, upright, of which no pixel is unpacked. Raises `ImageError`."""
    _check_library()
    return decoded_apart(size_of, data)


def _check_library() -> None:
    if find_spec(_LIBRARY) is None:
        raise ImageError("unsupported", f"{IS_HEIF}; to read it: {_TO_INSTALL}")


def size_of(data: bytes) -> tuple[int, int]:
    """In the child: width and height. Raises whatever pi-heif does."""
    import pi_heif

    width, height = pi_heif.open_heif(data, convert_hdr_to_8bit=True).size
    return int(width), int(height)


def picture(data: bytes, max_pixels: int) -> tuple[str, tuple[int, int], bytes]:
    """In the child: mode, width and height, and the bytes of the pixels. Raises whatever pi-heif does."""
    import pi_heif

    image = pi_heif.open_heif(data, convert_hdr_to_8bit=True)
    if image.size[0] * image.size[1] > max_pixels:
        raise ImageError(
            "too_large", f"{image.size[0]} x {image.size[1]} pixels are more than the {max_pixels} allowed"
        )
    shown = image.to_pillow()
    if shown.mode in ("RGBA", "LA", "RGBa", "La"):
        black = Image.new("RGBA", shown.size, (0, 0, 0, 255))
        shown = Image.alpha_composite(black, shown.convert("RGBA"))
    if shown.mode != "L":
        shown = shown.convert("RGB")
    return shown.mode, shown.size, shown.tobytes()
