"""HEIC and HEIF images by pi-heif, an extra: Pillow's class for them, imported where one is met, registered nowhere."""

from functools import cache

from PIL.ImageFile import ImageFile

from brainray.errors import INSTALL, ImageError

IS_HEIF = "it is a HEIC image"  # where none is read; also in rows of versions that read none
MAGIC = rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)"


@cache
def heif_plugin() -> type[ImageFile]:
    """The class. Raises `ImageError` with the command that installs it.

    pi-heif has a decoder only. pillow-heif, which is like it, brings an encoder under the GPL.
    """
    try:
        from pi_heif import HeifImageFile, options
    except ImportError as exc:
        to_install = f"{INSTALL.format('heif')}, then run again with --retry-unread"
        raise ImageError("unsupported", f"{IS_HEIF}; to read it: {to_install}") from exc
    options.THUMBNAILS = False
    options.DECODE_THREADS = 1  # images are decoded side by side
    plugin: type[ImageFile] = HeifImageFile
    return plugin
