"""Damages images as an attacker or a broken disk would, and watches what decoding them does."""

import random
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from support.imaging.dicoms import dicom, items, slice_pixels
from support.imaging.encoded import HEIC, drawing, packed

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 60_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_OTHERS = ("TIFF", "PNG", "GIF", "BMP", "JPEG", "WEBP", "JPEG2000", "AVIF", "PPM")


def sound_images() -> dict[str, bytes]:
    """A small image of each format and transfer syntax, by a name."""
    grey, second = Image.fromarray(drawing(48, 64)), Image.fromarray(drawing(48, 64)[::-1])
    window = {"WindowCenter": 900, "WindowWidth": 1800}
    nested = {"OtherPatientIDsSequence": items({"PatientID": "1", "PatientName": "A"}), **window}
    made = {name: packed(grey, name) for name in _OTHERS}
    made |= {
        f"{name} pages": packed(grey, name, save_all=True, append_images=[second]) for name in ("TIFF", "GIF", "PNG")
    }
    made |= {
        f"TIFF {kind}": packed(grey, "TIFF", compression=kind)
        for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits")
    }
    made["TIFF wide"] = packed(Image.fromarray(drawing(48, 64).astype(np.uint16) * 99), "TIFF")
    made["JPEG progressive"] = packed(grey, "JPEG", progressive=True)
    made["PNG palette"] = packed(grey.convert("P"), "PNG")
    made["HEIF"] = HEIC
    small = slice_pixels(32)
    made["DICOM"] = dicom(small, **nested)
    made["DICOM bare"] = dicom(small, preamble=False, **nested)
    made["DICOM frames"] = dicom(np.stack([small] * 3), **window)
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        made[f"DICOM {syntax.name}"] = dicom(small, syntax, **nested)
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        made[f"DICOM {syntax.name}"] = dicom(small, syntax, **window)
    for syntax, file in (("JPEG lossless", "SC_rgb_jpeg_gdcm.dcm"), ("JPEG 12 bits", "JPGExtended.dcm")):
        made[f"DICOM {syntax}"] = Path(get_testdata_file(file)).read_bytes()
    return made


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one to a few changes: bits, extreme numbers, parts that are cut, doubled or swapped."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(min(len(data), chance.choice((64, 400, 2_000, 1 << 20)))) if data else 0
        change = chance.randrange(6)
        if change == 0 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif change in (1, 2):
            order, kind = chance.choice("<>"), chance.choice("HHI")
            number = chance.choice(_EXTREMES) & (0xFFFF if kind == "H" else 0xFFFFFFFF)
            data[at : at + struct.calcsize(kind)] = struct.pack(order + kind, number)
        elif change == 3:
            del data[at : at + chance.choice((1, 2, 4, 16, 64))]
        elif change == 4:
            data[at:at] = data[at : at + chance.choice((2, 8, 64, 512))]
        else:
            data[at : at + 4] = chance.randbytes(4)
    if chance.random() < 0.1:
        del data[chance.randrange(len(data) + 1) :]
    return with_checksums(bytes(data)) if chance.random() < 0.7 else bytes(data)


def with_checksums(png: bytes) -> bytes:
    """A PNG with the right checksums, without which no chunk of it is looked into; other files as they are."""
    if not png.startswith(b"\x89PNG"):
        return png
    data, at = bytearray(png), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


_opened: list[str] | None = None


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir", "socket.connect"):
        _opened.append(f"{event} {arguments[0]!r}")


_hooked = False


@contextmanager
def watched() -> Iterator[list[str]]:
    """The files, folders and connections that are opened inside, in this process."""
    global _hooked, _opened
    if not _hooked:
        sys.addaudithook(_on_event)
        _hooked = True
    _opened = found = []
    try:
        yield found
    finally:
        _opened = None
