"""A drawing, and the bytes of a picture in the forms that files have."""

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def drawing(height: int = 96, width: int = 128) -> np.ndarray:
    """A smooth uint8 [H, W] that no mirroring or turning leaves the same, and that covers 0 to 255."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = np.sin(x / width * 3) * 0.7 + (y / height) ** 2 + 0.2 * np.sin((x + 2 * y) / 9)
    return np.uint8((waves - waves.min()) / np.ptp(waves) * 255 + 0.5)


def packed(image: Image.Image | np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format, **options)
    return buffer.getvalue()


def as_palette(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(255 - pixels).convert("P")
    image.putpalette(bytes(255 - level for level in range(256) for _ in range(3)))
    return image


def as_float_tiff(values: np.ndarray) -> bytes:
    return packed(Image.fromarray(values.astype(np.float32)), "TIFF")


def big_endian_tiff(values: np.ndarray) -> bytes:
    height, width = values.shape
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 200, 277: 1, 278: height, 279: values.nbytes}
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries
    return head.ljust(200, b"\0") + values.astype(">u2").tobytes()


def png_header(width: int, height: int, *, extra: bytes = b"") -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(extra)) if extra else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", ihdr)
        + text
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


# The drawing in 64 x 48 pixels as HEIC, which nothing here writes: turned upright by its box `irot`, with EXIF that
# says the same and names an artist.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ADRpbG9jAAAAAERAAAIAAQAAAAAB7AABAAAAAAAAAFUAAgAAAAACQQABAAAAAAAAADoAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAA"
    "kAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xh"
    "cAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEA"
    "AQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAJdtZGF0AAAAUSgBr1jmBMjwYd4rQr2EkajXnODARvR4ReCuKgXf"
    "5KzMUj8PrFYVEE3U8uFuXoVH5+ca+8AVK1f/iyQk/vPaF24ZS7BQLbr1DjRRimiHjs9l4AAAAAZFeGlmAABNTQAqAAAACAACARIA"
    "AwAAAAEABgAAATsAAgAAAAkAAAAmAAAAAEthbmFyaWU3AAA="
)
