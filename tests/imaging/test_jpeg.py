"""A JPEG that Pillow refuses is named as what it is, or scored where only its end marker is missing."""

import io

import numpy as np
import pytest
from PIL import Image
from support.each import each

from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging import jpeg
from brainray.imaging.decode import decode, decode_with_luminance, luminance

SPEC = ImageSpec(image_px=64)
END = b"\xff\xd9"


def jpeg_of(mode: str = "L", **options: bool) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (70, 90), dtype=np.uint8)
    noise[40:] = 0  # as the border of a head
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_frame(marker: int, bits: int = 8) -> bytes:
    """A JPEG whose frame header has another marker (SOF) and precision."""
    data = bytearray(jpeg_of())
    at = data.find(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    return bytes(data)


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, SPEC)
    return caught.value


@each(
    ("marker", "bits", "what"),
    [
        (0xF7, 8, "a JPEG-LS image"),
        (0xF7, 16, "a JPEG-LS image of 16 bits"),
        (0xC3, 8, "a lossless JPEG"),
        (0xCA, 8, "an arithmetic-coded JPEG"),
    ],
)
def test_unread_process_is_unsupported_and_named(marker: int, bits: int, what: str) -> None:
    error = refusal(with_frame(marker, bits))
    assert error.reason == "unsupported" and f"it is {what}, " in error.detail


@each("options", [{}, {"progressive": True}, {"optimize": True}])
@each("mode", ["L", "RGB"])
@each("left", [b"", b"\xff"])
def test_missing_end_marker_changes_no_pixel_and_is_noted(mode: str, options: dict[str, bool], left: bytes) -> None:
    whole = jpeg_of(mode, **options)
    endless = whole.removesuffix(END) + left
    decoded, full = decode_with_luminance(endless, SPEC)
    assert (decode(endless, SPEC).pixels == decode(whole, SPEC).pixels).all()
    assert (decoded.pixels == decode(whole, SPEC).pixels).all()
    assert (full == luminance(whole)).all() and (luminance(endless) == full).all()
    assert "no end marker" in (decoded.note or "") and decode(whole, SPEC).note is None


@each("progressive", [False, True])
@each("cut", [6, 20, 900])
@each("padding", [0, 3, 700])
def test_missing_pixels_are_never_called_complete(progressive: bool, cut: int, padding: int) -> None:
    data = jpeg_of(progressive=progressive)[:-cut] + b"\0" * padding
    assert jpeg.ended(data) is None
    if padding < 700:
        assert refusal(data).reason == "truncated"


def test_zeros_that_pillow_takes_for_pixels_are_noted() -> None:
    assert "may be missing" in (decode(jpeg_of()[:-20] + b"\0" * 700, SPEC).note or "")


def test_progressive_jpeg_cut_between_scans_stays_truncated() -> None:
    data = jpeg_of(progressive=True)
    last_scan = data.rfind(b"\xff\xda")
    tables = data.rfind(b"\xff\xc4", 0, last_scan)
    assert jpeg.ended(data[: min(last_scan, tables)]) is None


def test_bytes_after_the_end_marker_are_not_noted() -> None:
    assert decode(jpeg_of() + b"\0\xff\xda trailer of a camera", SPEC).note is None


def test_end_marker_of_a_thumbnail_does_not_count() -> None:
    data = jpeg_of()
    thumbnail = b"\xff\xe1" + (2 + len(data)).to_bytes(2) + data
    assert "no end marker" in (decode((data[:2] + thumbnail + data[2:]).removesuffix(END), SPEC).note or "")


def test_zeros_after_the_coded_data_are_no_pixels() -> None:
    whole = jpeg_of()
    assert "all its pixels" in (decode(whole.removesuffix(END) + b"\0" * 300, SPEC).note or "")


@each(
    ("data", "what"),
    [
        (b"II\xbc\x01\x08\0\0\0", "a JPEG XR image"),
        (b"\xff\x0a\0\0\0\0", "a JPEG XL image"),
        (b"NRRD0004\n", "an NRRD volume"),
    ],
)
def test_other_format_under_an_images_name_is_named(data: bytes, what: str) -> None:
    error = refusal(data + b"\0" * 64)
    assert error.reason == "unsupported" and what in error.detail


def test_compression_of_a_tiff_is_named() -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "TIFF")
    entry = b"\x03\x01\x03\0\1\0\0\0"  # Compression, one short
    data = buffer.getvalue().replace(entry + b"\1\0", entry + (34712).to_bytes(2, "little"))
    error = refusal(data)
    assert error.reason == "unsupported" and "JPEG 2000" in error.detail
