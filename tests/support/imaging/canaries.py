"""Images with a canary in every place where a name can stand, and a search for it in whatever a command writes.

`confidential_attributes.txt` has the keywords of the attributes that PS3.15, table E.1-1, would remove (2024b).
"""

import base64
import gzip
import io
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from support.imaging.dicoms import data_set, slice_pixels, written
from support.imaging.encoded import HEIC, drawing

CANARY = "Kanarie7"
_RAW = CANARY.encode()
_ATTRIBUTES = Path(__file__).with_name("confidential_attributes.txt")
_OVERLAYS = ((0x6000, 0x3000, "OW"), (0x6000, 0x4000, "LT"), (0x5000, 0x3000, "OW"))
_READ = ("Rows", "BitsStored", "BitsAllocated", "HighBit", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames")
_SHOWN = ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue")
_XMP = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><dc:creator>{CANARY}</dc:creator></x:xmpmeta>".encode()
_TEXTS = (0x010E, 0x010F, 0x0110, 0x0131, 0x013B, 0x8298, 0x9C9B, 0x9C9D)  # of EXIF: description, maker, artist ...


# What is searched for


def _forms() -> Iterator[bytes]:
    """The canary as files may have it; of base64, what is the same wherever it begins."""
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        yield CANARY.encode(encoding)
    yield _RAW.hex().encode()
    yield _RAW.hex(" ").encode()
    for before in range(3):
        yield base64.b64encode(bytes(before) + _RAW)[(0, 2, 3)[before] :].rstrip(b"=")[:-1]


_FORMS = re.compile(b"|".join(map(re.escape, _forms())), re.IGNORECASE)
_EMBEDDED = re.compile(rb"base64,([A-Za-z0-9+/=]+)")


def betrays(content: bytes) -> bool:
    """Whether the canary is in a file, in any form, or in what the file holds compressed or embedded."""
    return any(_FORMS.search(each) for each in _unfolded(content))


def _unfolded(content: bytes) -> Iterator[bytes]:
    yield content
    if content.startswith(b"PAR1"):
        with pq.ParquetFile(io.BytesIO(content)) as file:
            yield f"{file.read().to_pylist()} {file.metadata.metadata} {file.schema_arrow.metadata}".encode()
    elif content.startswith(b"\x1f\x8b"):
        yield from _unfolded(gzip.decompress(content))
    elif content.startswith(b"\x89PNG"):
        yield from _chunks(content)
    for embedded in _EMBEDDED.findall(content):
        yield from _unfolded(base64.b64decode(embedded))


def _chunks(png: bytes) -> Iterator[bytes]:
    """The unpacked texts of a PNG."""
    at = 8
    while at + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        body = png[at + 8 : at + 8 + length]
        for start in range(len(body)) if png[at + 4 : at + 8] in (b"zTXt", b"iTXt", b"iCCP") else ():
            if body[start : start + 1] == b"\x78":
                try:
                    yield zlib.decompress(body[start:])
                except zlib.error:
                    continue
        at += 12 + length


# DICOM


@cache
def confidential() -> tuple[str, ...]:
    """The keywords of the table."""
    return tuple(_ATTRIBUTES.read_text().split())


def _put(dataset: Dataset, tag: int, kind: str, value: bytes = _RAW) -> None:
    """Set an attribute to bytes, as a file may have them, whatever its type allows."""
    dataset[Tag(tag)] = RawDataElement(Tag(tag), kind, len(value), value, 0, False, True, True)


def _item() -> Dataset:
    item = Dataset()
    _put(item, tag_for_keyword("PatientName"), "PN", f"{CANARY}^JANE".encode() + b" ")
    _put(item, 0x00091001, "UN")
    return item


def poisoned(**attributes) -> Dataset:
    """A slice with the canary in each attribute of the table, in private, nested and graphic ones."""
    made = data_set(slice_pixels(), **{"WindowCenter": 1000, "WindowWidth": 2000} | attributes)
    for keyword in confidential():
        tag = tag_for_keyword(keyword)
        kind = dictionary_VR(tag)[:2]
        if tag >> 16 <= 2 or tag >> 16 == 0xFFFA:  # of messages and of the meta group
            continue
        if kind == "SQ":
            setattr(made, keyword, Sequence([_item()]))
        else:
            _put(made, tag, kind)
    for keyword in ("SeriesDescription", "ProtocolName", "Manufacturer", "StudyInstanceUID", "SeriesInstanceUID"):
        _put(made, tag_for_keyword(keyword), dictionary_VR(keyword))
    for group, element, kind in _OVERLAYS:
        _put(made, group << 16 | element, kind)
    block = made.private_block(0x0011, CANARY, create=True)
    block.add_new(1, "LO", CANARY)
    return made


def _surrounded(content: bytes) -> bytes:
    """With canaries in the preamble and after the end."""
    return _RAW * 16 + content[128:] + _RAW * 9


def _replaced(content: bytes, keyword: str, value: bytes) -> bytes:
    """A file with explicit types in which an attribute with a length of two bytes has another value."""
    tag = tag_for_keyword(keyword)
    at = content.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + dictionary_VR(tag)[:2].encode(), 132)
    (length,) = struct.unpack_from("<H", content, at + 6)
    return content[: at + 6] + struct.pack("<H", len(value)) + value + content[at + 8 + length :]


def _zipped(content: bytes) -> bytes:
    """In gzip, whose header has a name."""
    packed = io.BytesIO()
    with gzip.GzipFile(CANARY, "wb", fileobj=packed) as stream:
        stream.write(content)
    return packed.getvalue()


def _dicom_files() -> Iterator[tuple[str, bytes]]:
    made = poisoned(PixelPaddingValue=0, RescaleSlope=1, RescaleIntercept=0, NumberOfFrames=1)
    whole = _surrounded(written(made))
    yield "whole.dcm", whole
    yield "nameless", whole
    for syntax in (ImplicitVRLittleEndian, JPEG2000Lossless):
        yield f"{syntax.name}.dcm", _surrounded(written(made, syntax))
    for syntax in (ExplicitVRBigEndian, RLELossless):
        yield f"{syntax.name}.dcm", _surrounded(written(data_set(slice_pixels(), PatientName=CANARY), syntax))
    for share in range(1, 10):
        yield f"cut {share}.dcm", whole[: len(whole) * share // 10]
    for length in (16, 100, 140, 400):
        yield f"begin {length}.dcm", whole[:length]
    rng = np.random.default_rng(0)
    for number in range(20):
        damaged = bytearray(whole)
        for at in rng.integers(132, len(damaged), 1 + number // 4):
            damaged[at] = rng.integers(256)
        yield f"damaged {number}.dcm", bytes(damaged)
    for keyword in (*_READ, *_SHOWN, "PhotometricInterpretation", "ImageOrientationPatient", "SOPClassUID"):
        yield f"{keyword}.dcm", _replaced(whole, keyword, _RAW)
    yield "syntax.dcm", whole.replace(b"1.2.840.10008.1.2.1\0", f"1.2.{CANARY}.{CANARY}".encode()[:20].ljust(20), 1)
    yield "length.dcm", whole.replace(b"\x10\0\x10\0PN\x08\0", b"\x10\0\x10\0PN\xff\xff", 1)
    kind = f"{CANARY}\\{CANARY}\\LOCALIZER\\{CANARY} ".encode()
    yield "localizer.dcm", _replaced(whole, "ImageType", kind + b" " * (len(kind) % 2))
    yield "other.dcm", _replaced(whole, "Modality", _RAW.upper())
    report = _replaced(whole, "SOPClassUID", b"1.2.840.10008.5.1.4.1.1.88.33\0")
    yield "report.dcm", report[: report.index(b"\xe0\x7f\x10\0")]
    made = poisoned(NumberOfFrames=3, PerFrameFunctionalGroupsSequence=Sequence([_item(), _item(), _item()]))
    made.PixelData = made.PixelData * 3
    frames = _surrounded(written(made))
    yield "frames.dcm", frames
    yield "frames cut.dcm", frames[:-11_000]
    yield "frames.dcm.gz", _zipped(frames)
    yield "frames cut.dcm.gz", _zipped(frames)[:-300]


# Other images


def _exif() -> bytes:
    exif = Image.Exif()
    for tag in _TEXTS:
        exif[tag] = CANARY
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + _RAW
    exif.get_ifd(0x8825)[0x001D] = CANARY
    return exif.tobytes()


def _texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", CANARY)
    info.add_text("Comment", CANARY * 9, zip=True)
    info.add_itxt("XML:com.adobe.xmp", _XMP.decode(), zip=True)
    return info


def _saved(kind: str, picture: Image.Image, **options) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


def _pictures() -> dict[str, bytes]:
    grey = Image.fromarray(drawing())
    wide = Image.fromarray(drawing().astype(np.uint16) * 199)
    marked = {"exif": _exif(), "icc_profile": _RAW * 20}
    tiff = {270: CANARY, 315: CANARY, 33432: CANARY, 700: _XMP, 34377: _RAW, 33723: _RAW}
    made = {
        "a.jpg": _saved("JPEG", grey, comment=CANARY, xmp=_XMP, **marked),
        "a.png": _saved("PNG", grey, pnginfo=_texts(), **marked),
        "wide.png": _saved("PNG", wide, pnginfo=_texts(), **marked),
        "a.webp": _saved("WEBP", grey, xmp=_XMP, **marked),
        "a.avif": _saved("AVIF", grey, xmp=_XMP, **marked),
        "a.tiff": _saved("TIFF", grey, tiffinfo=tiff, icc_profile=_RAW * 20),
        "wide.tiff": _saved("TIFF", wide, tiffinfo=tiff, compression="tiff_lzw"),
        "a.gif": _saved("GIF", grey, comment=CANARY),
        "a.jp2": _boxed(_saved("JPEG2000", grey)),
        "a.ppm": f"P5\n# {CANARY}\n8 8 255\n".encode() + bytes(range(64)),
        "token.ppm": f"P2\n{CANARY}{CANARY} 8 255\n".encode(),
        "value.ppm": f"P2\n2 2 255\n1 2 3 {CANARY}{CANARY}\n".encode(),
        "a.bmp": _saved("BMP", grey) + _RAW,
        "a.heic": HEIC,  # its EXIF names the canary as the artist
    }
    made["chunk.png"] = made["a.png"].replace(b"IDAT", b"Kana" + b"rie7", 1)
    made["unknown.jpg"] = b"\x01\x02" + _RAW * 3
    made["notes.jpg"] = f"{CANARY} was here".encode()
    made["page.png"] = f"<html><title>{CANARY}</title>".encode()
    return made


def _boxed(jp2: bytes) -> bytes:
    """With XML after the signature's box and that of the file type."""
    body = b"xml " + _XMP
    return jp2[:32] + struct.pack(">I", len(body) + 4) + body + jp2[32:]


def _picture_files() -> Iterator[tuple[str, bytes]]:
    for name, content in _pictures().items():
        yield name, content + _RAW
        stem, _, suffix = name.partition(".")
        for share in (2, 5, 9):
            yield f"{stem} cut {share}.{suffix}", content[: len(content) * share // 10]


def _archives() -> Iterator[tuple[str, bytes]]:
    """Archives that say more than their members: in headers of gzip and tar, comments of zip, columns of Parquet."""
    picture = _pictures()["a.jpg"]
    member = tarfile.TarInfo("in tar.jpg")
    member.size, member.uname, member.gname, member.pax_headers = len(picture), CANARY, CANARY, {"comment": CANARY}
    tarred, zipped, table = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": CANARY}) as tar:
        tar.addfile(member, io.BytesIO(picture))
    with zipfile.ZipFile(zipped, "w") as archive:
        entry = zipfile.ZipInfo("in zip.jpg")
        entry.comment = archive.comment = _RAW
        archive.writestr(entry, picture)
    rows = pa.table({"image": [picture], "patient": [CANARY]}).replace_schema_metadata({"who": CANARY})
    pq.write_table(rows, table)
    for name, content in (
        ("one.jpg.gz", picture),
        ("one.dcm.gz", written(data_set(slice_pixels(), PatientName=CANARY))),
    ):
        single = _zipped(content)
        yield name, single
        yield f"cut {name}", single[:-300]
    yield "plain.tar", tarred.getvalue()
    yield "packed.tar.gz", _zipped(tarred.getvalue())
    yield "packed.zip", zipped.getvalue()
    yield "rows.parquet", table.getvalue()


@cache
def corpus() -> dict[str, bytes]:
    """The images and archives by the names of their files."""
    return {name: content for each in (_dicom_files(), _picture_files(), _archives()) for name, content in each}
