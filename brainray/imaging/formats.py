"""Detects the format of a file by its first bytes, never by its name."""

import re

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from brainray.errors import ImageReason

from .heif import MAGIC as HEIF

# The formats we open, by their first bytes. Pillow knows more; some start other programs (EPS runs Ghostscript).
_PICTURES: dict[bytes, type[ImageFile]] = {
    rb"\xff\xd8\xff": JpegImageFile,
    rb"\x89PNG\r\n\x1a\n": PngImageFile,
    rb"GIF8[79]a": GifImageFile,
    rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0": BmpImageFile,
    rb"II[*+]\0|MM\0[*+]": TiffImageFile,
    rb"RIFF.{4}WEBP": WebPImageFile,
    rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n": Jpeg2KImageFile,
    rb".{4}ftyp.{0,28}avi[fs]": AvifImageFile,
    rb"P[1-6f]\s": PpmImageFile,
}

# Other formats that occur in data sets under an image's name. The first match counts; the last ones are vague.
_OTHER_FORMATS: tuple[tuple[bytes, ImageReason, str], ...] = (
    (rb"\xff\x0a|.{4}JXL ", "unsupported", "a JPEG XL image; save it as PNG first"),
    (rb"II\xbc\x01", "unsupported", "a JPEG XR image; save it as PNG first"),
    (rb"NRRD", "unsupported", "an NRRD volume; export its slices as PNG first"),
    (rb"\x89HDF", "unsupported", "an HDF5 file, such as MINC or MATLAB's; export its slices as PNG first"),
    (rb"8BPS|%!PS|\0\0[\1\2]\0|SIMPLE  =", "unsupported",
     "a Photoshop, PostScript, icon or FITS file; save it as PNG first"),
    (rb"version https://git-lfs", "not_an_image", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html)", "not_an_image", "an HTML page, often a server's error or login"),
    (rb"(\xef\xbb\xbf)?\s*<(\?xml|error|svg)", "not_an_image", "an XML document, often a server's error message"),
    (rb".{4}Bud1", "not_an_image", "a folder's .DS_Store file"),
    (rb"\xd0\xcf\x11\xe0", "not_an_image", "an OLE file such as Thumbs.db or an old Office document"),
    (rb"%PDF|PK\x03\x04|\x1f\x8b|.{4}ftyp", "not_an_image", "a PDF, archive or video"),
    (rb"\0{16}", "not_an_image", "zero bytes, as an interrupted copy leaves them"),
    (rb"[\s!-~]{64}|[\s!-~]*$", "not_an_image", "plain text"),
)  # fmt: skip

TIFF_COMPRESSIONS = {  # numbers of the tag Compression that Pillow does not know
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34892: "lossy JPEG of a DNG",
    34933: "PNG",
    34934: "JPEG XR",
    50002: "JPEG XL",
    52546: "JPEG XL",
}


def plugin_for(data: bytes) -> type[ImageFile] | None:
    """Pillow's class for the format of `data`; None if it is not one that Pillow opens for us."""
    return next((plugin for magic, plugin in _PICTURES.items() if re.match(magic, data, re.DOTALL)), None)


def is_heif(data: bytes) -> bool:
    """Whether it is a HEIC or HEIF image by its first bytes, and no AVIF."""
    return re.match(HEIF, data, re.DOTALL) is not None and plugin_for(data) is None


def unsupported_format(data: bytes) -> tuple[ImageReason, str]:
    """The reason to refuse bytes for which `plugin_for` has no plugin, with their probable format."""
    head = data[:512]
    for magic, reason, what in _OTHER_FORMATS:
        if re.match(magic, head, re.DOTALL | re.IGNORECASE):
            return reason, f"it is {what}"
    return "not_an_image", f"unknown format; its first bytes are {_shown(data[:8])}"


def _shown(first: bytes) -> str:
    """Bytes in hexadecimal, but for letters and digits: a file may begin with a name."""
    return " ".join(".." if bytes([byte]).isalnum() or byte >= 0xC0 else f"{byte:02x}" for byte in first)
