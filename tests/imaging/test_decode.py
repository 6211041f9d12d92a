"""Every picture here is drawn on the spot; the laws hold for any bytes."""

import concurrent.futures
import gzip
import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from brainray.config import ImageSpec
from brainray.errors import IMAGE_REASONS, ImageError
from brainray.imaging.decode import Header, decode, decode_with_luminance, luminance, read_header

GRAY = ImageSpec(image_px=64, channels=1)
COLOUR = ImageSpec(image_px=64, channels=3)


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


def refusal(data: bytes, spec: ImageSpec = GRAY) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, spec)
    with pytest.raises(ImageError):
        luminance(data, max_pixels=spec.max_pixels)
    with pytest.raises(ImageError):
        decode_with_luminance(data, spec)
    return caught.value


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


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


# What comes out


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM"])
@pytest.mark.parametrize("spec", [GRAY, COLOUR], ids=["gray", "colour"])
def test_every_common_format_shows_the_same_picture(format: str, spec: ImageSpec) -> None:
    decoded = decode(packed(drawing(), format), spec)
    assert (decoded.width, decoded.height, decoded.format) == (128, 96, format)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape == ((64, 64) if spec is GRAY else (64, 64, 3))
    assert decoded.pixels.flags.writeable  # torch.from_numpy warns otherwise
    assert difference(decoded.pixels, decode(packed(drawing()), spec).pixels) < 3


def test_pad_keeps_proportions_and_centres_on_black() -> None:
    pixels = decode(packed(np.full((100, 200), 200, np.uint8)), GRAY).pixels
    assert (pixels[16:48] == 200).all()
    assert not pixels[:16].any()
    assert not pixels[48:].any()


def test_stretch_fills_the_square() -> None:
    spec = ImageSpec(image_px=64, resize="stretch")
    assert (decode(packed(np.full((100, 200), 200, np.uint8)), spec).pixels == 200).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3000), (3000, 2), (1, 17)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_thin_and_tiny_images_keep_at_least_one_pixel(shape: tuple[int, int], format: str) -> None:
    decoded = decode(packed(np.full(shape, 255, np.uint8), format), GRAY)
    assert (decoded.height, decoded.width) == shape
    assert decoded.pixels.max() > 250


@pytest.mark.parametrize("size", [(512, 512), (511, 333), (129, 700), (100, 100)])
@pytest.mark.parametrize("spec", [GRAY, COLOUR], ids=["gray", "colour"])
def test_jpeg_unpacked_small_looks_like_one_unpacked_whole(size: tuple[int, int], spec: ImageSpec) -> None:
    colour = np.dstack([drawing(*size), drawing(*size)[::-1], drawing(*size)[:, ::-1]])
    jpeg = packed(colour, "JPEG", quality=95)
    whole = packed(Image.open(io.BytesIO(jpeg)), "PNG")
    assert difference(decode(jpeg, spec).pixels, decode(whole, spec).pixels) < 1.5


def test_jpeg_that_stores_rgb_is_turned_into_luminance() -> None:
    colour = np.dstack([drawing(512, 512), drawing(512, 512) // 2, drawing(512, 512) // 4])
    jpeg = packed(colour, "JPEG", quality=95, keep_rgb=True)
    assert difference(decode(jpeg, GRAY).pixels, decode(packed(colour), GRAY).pixels) < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_undone(orientation: int, format: str) -> None:
    stored_as = [lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, np.transpose]
    stored_as += [np.rot90, lambda a: np.rot90(a, 2).T, lambda a: np.rot90(a, -1)]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(stored_as[orientation - 1](drawing(200, 300)))
    decoded = decode(packed(stored, format, exif=exif), GRAY)
    assert (decoded.width, decoded.height) == (300, 200)
    assert difference(decoded.pixels, decode(packed(drawing(200, 300)), GRAY).pixels) < 2


def test_damaged_exif_leaves_the_picture_as_stored() -> None:
    jpeg = packed(drawing(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert np.array_equal(decode(jpeg, GRAY).pixels, decode(packed(drawing(), "JPEG"), GRAY).pixels)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_lies_over_black(mode: str) -> None:
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    image.paste((255, 255, 255, 128), (0, 0, 64, 32))
    data = packed(image.convert(mode))
    for spec in (GRAY, COLOUR):
        pixels = decode(data, spec).pixels
        assert (pixels[:28] == 128).all()
        assert not pixels[36:].any()


def test_transparent_colour_of_palette_and_gray_is_black() -> None:
    half = np.full((64, 64), 200, np.uint8)
    half[32:] = 90
    for image in (Image.fromarray(half), as_palette(half)):
        level = 90 if image.mode == "L" else 255 - 90
        pixels = decode(packed(image, transparency=level), GRAY).pixels
        assert (pixels[:28] == 200).all()
        assert not pixels[36:].any()


def test_palette_in_any_order_shows_its_colours() -> None:
    assert np.array_equal(
        decode(packed(as_palette(drawing())), COLOUR).pixels, decode(packed(drawing()), COLOUR).pixels
    )


def test_one_bit_is_black_and_white() -> None:
    bits = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 64, axis=0).repeat(32, axis=1)).convert("1")
    pixels = decode(packed(bits), GRAY).pixels
    assert (pixels[:, 0] == 0).all()
    assert (pixels[:, -1] == 255).all()


def test_cmyk_jpeg_has_its_own_colours() -> None:
    red = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    r, g, b = decode(packed(red, "JPEG", quality=95), COLOUR).pixels[32, 32]
    assert r > 240
    assert max(g, b) < 15


def test_lab_is_converted() -> None:
    white = Image.new("LAB", (64, 64), (255, 128, 128))
    assert decode(packed(white, "TIFF"), COLOUR).pixels.min() > 250


@pytest.mark.parametrize("top", [255, 4095, 65535])
def test_16_bit_is_scaled_by_its_content(top: int) -> None:
    wide = np.uint16(drawing().astype(float) / 255 * top)
    for format in ("PNG", "TIFF"):
        assert difference(decode(packed(wide, format), GRAY).pixels, decode(packed(drawing()), GRAY).pixels) < 2


def test_big_endian_16_bit_and_32_bit_integers_are_scaled_too() -> None:
    expected = decode(packed(drawing()), GRAY).pixels
    wide = packed(Image.fromarray(drawing().astype(np.int32) * 70_000 - 9_000_000), "TIFF")
    for data in (wide, big_endian_tiff(drawing().astype(">u2") * 16)):
        assert difference(decode(data, GRAY).pixels, expected) < 2


def test_one_hot_pixel_does_not_blacken_a_16_bit_image() -> None:
    wide = drawing(200, 200).astype(np.uint16)
    wide[5, 5] = 65535
    assert difference(decode(packed(wide), GRAY).pixels, decode(packed(drawing(200, 200)), GRAY).pixels) < 4


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_float_of_any_unit_with_nan_and_infinity_is_scaled(unit: float) -> None:
    values = drawing() / 255 * unit
    values[0, :3] = np.nan, np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(as_float_tiff(values), GRAY).pixels
    assert difference(pixels, decode(packed(drawing()), GRAY).pixels) < 2


@pytest.mark.parametrize("value", [0.0, 7.0, -3e38, np.nan, np.inf])
def test_float_of_a_single_value_is_black(value: float) -> None:
    assert not decode(as_float_tiff(np.full((20, 20), value)), GRAY).pixels.any()


def test_sparse_wide_image_keeps_its_few_bright_pixels() -> None:
    sparse = np.zeros((100, 100), np.uint16)
    sparse[50, 50] = 9
    assert decode(packed(sparse), ImageSpec(image_px=100)).pixels[50, 50] == 255


def test_first_frame_of_an_animation_counts() -> None:
    pages = [Image.fromarray(drawing()), Image.new("L", (128, 96), 255)]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        data = packed(pages[0], format, save_all=True, append_images=pages[1:])
        assert difference(decode(data, GRAY).pixels, decode(packed(drawing()), GRAY).pixels) < 3


def test_decoding_in_threads_gives_the_same_bytes() -> None:
    files = [packed(drawing(200 + n, 300), "JPEG") for n in range(8)] * 8
    alone = [decode(data, GRAY).pixels.tobytes() for data in files]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda data: decode(data, GRAY).pixels.tobytes(), files)) == alone


# The luminance


def shown(data: bytes) -> tuple[tuple[int, ...], bytes]:
    values = luminance(data)
    return values.shape, values.tobytes()


def test_same_pixels_are_equal_in_every_lossless_form() -> None:
    gray = Image.fromarray(drawing())
    forms = [packed(gray, format) for format in ("PNG", "BMP", "TIFF", "GIF", "PPM")]
    forms += [packed(gray.convert(mode)) for mode in ("RGB", "RGBA", "LA")] + [packed(as_palette(drawing()))]
    forms += [packed(gray.convert("RGB"), "WEBP", lossless=True)]
    assert len({shown(data) for data in forms}) == 1


def test_luminance_tells_pixels_shape_and_orientation_apart() -> None:
    flat = np.zeros((4, 9), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    forms = [packed(flat), packed(flat.reshape(9, 4)), packed(drawing()), packed(drawing(), exif=exif)]
    assert len({shown(data) for data in forms}) == 4
    assert shown(packed(drawing(), exif=exif)) == shown(packed(np.rot90(drawing(), 2).copy()))


def test_luminance_of_a_jpeg_is_that_of_its_pixels_saved_as_png() -> None:
    colour = np.dstack([drawing(512, 512), drawing(512, 512)[::-1], drawing(512, 512)[:, ::-1]])
    jpeg = packed(colour, "JPEG")
    assert shown(jpeg) == shown(packed(Image.open(io.BytesIO(jpeg)), "PNG"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "GIF", "WEBP"])
@pytest.mark.parametrize("spec", [GRAY, COLOUR], ids=["gray", "colour"])
def test_decode_with_luminance_equals_both_alone(format: str, spec: ImageSpec) -> None:
    data = packed(Image.fromarray(drawing(400, 500)).convert("RGB"), format)
    decoded, values = decode_with_luminance(data, spec)
    assert np.array_equal(decoded.pixels, decode(data, spec).pixels)
    assert np.array_equal(values, luminance(data))


# Refusals


def test_no_bytes_are_empty() -> None:
    assert refusal(b"").reason == "empty"


@pytest.mark.parametrize(
    ("data", "reason", "word"),
    [
        (b"just some notes about the scan", "not_an_image", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "not_an_image", "git lfs pull"),
        (b"\n<!DOCTYPE html><title>404</title>", "not_an_image", "HTML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "not_an_image", "XML"),
        (b"\0\0\0\1Bud1\0\0\x10\0", "not_an_image", "DS_Store"),
        (bytes(5000), "not_an_image", "zero bytes"),
        (b"\x07\xf3\x99\x01nothing known", "not_an_image", "07 f3 99 01"),
        (gzip.compress(b"words"), "not_an_image", "archive"),
        (b"\\\1\0\0" + bytes(340) + b"n+1\0" + bytes(50), "unsupported", "NIfTI"),
        (gzip.compress(b"\\\1\0\0" + bytes(340) + b"n+1\0" + bytes(50)), "unsupported", "NIfTI"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported", "HEIC"),
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
        "heic",
        "postscript",
    ],
)
def test_what_is_no_picture_is_named(data: bytes, reason: str, word: str) -> None:
    error = refusal(data)
    assert error.reason == reason
    assert word in error.detail


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
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


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600), st.sampled_from([b"", *(seed[:16] for seed in SEEDS)]))
def test_random_bytes_decode_or_say_why(tail: bytes, head: bytes) -> None:
    decodes_or_says_why(head + tail)


@settings(max_examples=300, deadline=None)
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
