"""Every picture here is drawn on the spot; the laws hold for any bytes."""

import concurrent.futures
import io
import warnings

import numpy as np
import pytest
from PIL import Image
from support.each import each
from support.imaging.encoded import as_float_tiff, as_palette, big_endian_tiff, drawing, packed

from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.decode import decode, decode_with_luminance, luminance

GRAY = ImageSpec(image_px=64, channels=1)
COLOUR = ImageSpec(image_px=64, channels=3)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


# What comes out


@each("format", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM"])
@each("spec", [GRAY, COLOUR], ids=["gray", "colour"])
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


@each("shape", [(1, 1), (2, 3000), (3000, 2), (1, 17)])
@each("format", ["PNG", "JPEG"])
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


@each("orientation", range(1, 9))
@each("format", ["JPEG", "PNG", "TIFF", "WEBP"])
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


@each("mode", ["LA", "RGBA"])
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


@each("top", [255, 4095, 65535])
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


@each("unit", [1e-30, 1.0, 1e30])
def test_float_of_any_unit_with_nan_and_infinity_is_scaled(unit: float) -> None:
    values = drawing() / 255 * unit
    values[0, :3] = np.nan, np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(as_float_tiff(values), GRAY).pixels
    assert difference(pixels, decode(packed(drawing()), GRAY).pixels) < 2


@each(
    ("value", "detail"),
    [
        (0.0, "TIFF pixels: all have the value 0"),
        (-3e38, r"TIFF pixels: all have the value -3e\+38"),
        (np.nan, "no pixel has a finite number: all are NaN or infinite"),
        (-np.inf, "no pixel has a finite number"),
    ],
)
def test_float_without_two_finite_values_is_no_image(value: float, detail: str) -> None:
    """As an export that failed leaves it; scored as a black slice, it would be called healthy."""
    with pytest.raises(ImageError, match=detail) as error:
        decode(as_float_tiff(np.full((20, 20), value)), GRAY)
    assert error.value.reason == "not_an_image"


def test_a_16_bit_image_of_a_single_value_is_none() -> None:
    with pytest.raises(ImageError, match="PNG pixels: all have the value 4095"):
        decode(packed(np.full((20, 20), 4095, np.uint16)), GRAY)


def test_a_few_values_between_the_sampled_ones_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brainray.imaging.wide_values._BLOCK", 50)
    values = np.zeros((20, 20), np.uint16)
    values[3, 7] = 9
    assert decode(packed(values), ImageSpec(image_px=20)).pixels[3, 7] == 255


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
