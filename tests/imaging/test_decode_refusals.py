"""Bytes that are no picture, cut short or too large are refused and named; any bytes decode or are refused."""

import gzip
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from support.each import each
from support.imaging.encoded import as_palette, drawing, packed, png_header

from brainray.config import ImageSpec
from brainray.errors import IMAGE_REASONS, ImageError
from brainray.imaging.decode import Header, decode, decode_with_luminance, luminance, read_header

GRAY = ImageSpec(image_px=64, channels=1)


def refusal(data: bytes, spec: ImageSpec = GRAY) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, spec)
    with pytest.raises(ImageError):
        luminance(data, max_pixels=spec.max_pixels)
    with pytest.raises(ImageError):
        decode_with_luminance(data, spec)
    return caught.value


# Refusals


def test_no_bytes_are_empty() -> None:
    assert refusal(b"").reason == "empty"


@each(
    ("data", "reason", "word"),
    [
        (b"just some notes about the scan", "not_an_image", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "not_an_image", "git lfs pull"),
        (b"\n<!DOCTYPE html><title>404</title>", "not_an_image", "HTML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "not_an_image", "XML"),
        (b"\0\0\0\1Bud1\0\0\x10\0", "not_an_image", "DS_Store"),
        (bytes(5000), "not_an_image", "zero bytes"),
        (b"\x07\xf3\x99\x01nothing known", "not_an_image", "07 .. 99 01"),
        (gzip.compress(b"words"), "not_an_image", "text"),
        (b"\\\1\0\0" + bytes(340) + b"n+1\0" + bytes(50), "truncated", "NIfTI"),
        (gzip.compress(b"\\\1\0\0" + bytes(340) + b"n+1\0" + bytes(50)), "truncated", "NIfTI"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported", "PNG"),
    ],
    ids=[
        "text",
        "git lfs pointer",
        "html",
        "xml",
        "folder settings",
        "zeros",
        "unknown",
        "gzip",
        "nifti",
        "packed nifti",
        "postscript",
    ],
)
def test_what_is_no_picture_is_named(data: bytes, reason: str, word: str) -> None:
    error = refusal(data)
    assert error.reason == reason
    assert word in error.detail


@each("format", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM"])
@each("share", [0.1, 0.5, 0.9])
def test_truncated_file_is_refused_and_says_so(format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128), np.uint8)
    data = packed(noise, format)
    error = refusal(data[: int(len(data) * share)])
    assert error.reason == "truncated"
    assert format in error.detail


def test_truncated_jpeg_header_is_refused_and_says_so() -> None:
    assert refusal(packed(drawing(), "JPEG")[:30]).reason == "truncated"


def test_refused_image_still_tells_its_header() -> None:
    data = packed(drawing(), "JPEG")[:-300]
    assert refusal(data).reason == "truncated"
    assert read_header(data) == Header(width=128, height=96, format="JPEG")
    assert read_header(png_header(100_000, 70_000)) == Header(width=100_000, height=70_000, format="PNG")
    assert read_header(b"notes") == Header()


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    error = refusal(png_header(30_000, 30_000))
    assert error.reason == "too_large"
    assert "30000 x 30000" in error.detail
    small = ImageSpec(image_px=64, max_pixels=128 * 96 - 1)
    assert refusal(packed(drawing()), small).reason == "too_large"
    assert decode(packed(drawing()), ImageSpec(image_px=64, max_pixels=128 * 96)).width == 128


def test_gif_and_bmp_bombs_are_too_large() -> None:
    gif = (
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,\0\0\0\0"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\2\0;"
    )
    bmp = bytearray(packed(drawing(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 3_000_000, 2_000_000)
    assert refusal(gif).reason == "too_large"
    assert refusal(bytes(bmp)).reason == "too_large"


def test_png_text_that_unpacks_without_end_is_too_large() -> None:
    assert refusal(png_header(8, 8, extra=bytes(5_000_000))).reason == "too_large"


def test_jpeg_of_endless_scans_is_too_large() -> None:
    jpeg = packed(drawing(512, 512), "JPEG", progressive=True)
    last_scan = jpeg.rindex(b"\xff\xda")
    endless = jpeg[:last_scan] + jpeg[last_scan:-2] * 50 + b"\xff\xd9"
    assert "scans" in refusal(endless, ImageSpec(max_pixels=512 * 512)).detail
    assert decode(jpeg, ImageSpec(max_pixels=512 * 512)).width == 512


def test_memory_error_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", exhausted)
    error = refusal(packed(drawing()))
    assert (error.reason, error.detail) == ("too_large", "PNG pixels: MemoryError")


def test_unknown_tiff_pixel_mode_is_unsupported() -> None:
    tiff = bytearray(packed(drawing(), "TIFF"))
    entry = tiff.index(struct.pack("<HHI", 258, 3, 1))  # BitsPerSample
    tiff[entry + 8 : entry + 10] = struct.pack("<H", 7)
    assert refusal(bytes(tiff)).reason == "unsupported"


# Laws and manners

SEEDS = [
    packed(drawing(40, 50), "JPEG"),
    packed(drawing(40, 50), "JPEG", progressive=True),
    packed(Image.fromarray(drawing(40, 50)).convert("RGB"), "PNG"),
    packed(as_palette(drawing(40, 50)), "PNG"),
    packed(drawing(40, 50), "GIF"),
    packed(drawing(40, 50), "TIFF"),
    packed(drawing(40, 50), "BMP"),
    packed(drawing(40, 50), "WEBP"),
]


def decodes_or_says_why(data: bytes, spec: ImageSpec = GRAY) -> None:
    read_header(data)
    try:
        decoded, values = decode_with_luminance(data, spec)
    except ImageError as error:
        assert error.reason in IMAGE_REASONS
        assert error.detail.isprintable()
        return
    assert decoded.pixels.shape == (64, 64)
    assert values.ndim == 2
    assert {decoded.width, decoded.height} == set(values.shape)


@settings(max_examples=100)
@given(st.binary(max_size=600), st.sampled_from([b"", *(seed[:16] for seed in SEEDS)]))
def test_random_bytes_decode_or_say_why(tail: bytes, head: bytes) -> None:
    decodes_or_says_why(head + tail)


@settings(max_examples=150)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=8), st.data())
def test_mutated_images_decode_or_say_why(seed: bytes, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    mutated = bytearray(seed[: data.draw(st.integers(0, len(seed)) | st.just(len(seed)))])
    for place, value in changes:
        if mutated:
            mutated[place % len(mutated)] = value
    # Damage may claim a larger picture; a small limit keeps the test quick.
    decodes_or_says_why(bytes(mutated), ImageSpec(image_px=64, max_pixels=1_000_000))


def run_alone(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_import_changes_nothing_in_pillow_or_warnings() -> None:
    look = "(ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, 'PIL' in str(warnings.filters))"
    load = "import warnings; from PIL import Image, ImageFile"
    code = f"{load}; a = {look}; import brainray.imaging.decode; print(a == {look})"
    assert run_alone(code).strip() == "True"


def quietly_decoding(make: Callable[[], bytes]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decodes_or_says_why(make())


def test_odd_tags_warn_nobody() -> None:
    def broken_tiff() -> bytes:
        tiff = bytearray(packed(drawing(), "TIFF", compression="tiff_lzw"))
        entry = tiff.index(struct.pack("<HH", 282, 5)) if struct.pack("<HH", 282, 5) in tiff else len(tiff) - 20
        tiff[entry + 8 : entry + 12] = b"\xff\xff\xff\x7f"
        return bytes(tiff)

    quietly_decoding(broken_tiff)
    quietly_decoding(lambda: packed(drawing(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xffgarbage"))
    # Above Pillow's own limit of 89 Mpixel and within ours, where Image.open would warn.
    quietly_decoding(lambda: png_header(9_500, 9_500))
