"""Pages of TIFF and frames of GIF: how many a file has, and each as a file of its own with the same picture."""

import io
import random
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from support.each import each
from support.imaging.encoded import as_palette, drawing, packed
from support.imaging.hostile import damaged
from support.imaging.paged import gif, moving, pages, tiff, with_kinds

from brainray.errors import ImageError
from brainray.imaging.decode import luminance
from brainray.inputs.frames.pages import pages_in, read_pages
from brainray.inputs.frames.sources import within

WIDE = [Image.fromarray(np.asarray(page).astype(np.uint16) * 200) for page in pages(2)]
FILES = {
    "raw": tiff(pages(3)),
    "lzw": tiff(pages(3), compression="tiff_lzw"),
    "deflate, BigTIFF": tiff(pages(3), compression="tiff_adobe_deflate", big_tiff=True),
    "jpeg": tiff(pages(2), compression="jpeg"),
    "fax": tiff([page.convert("1") for page in pages(2)], compression="group4"),
    "colours": tiff([page.convert("RGB") for page in pages(2)]),
    "palette": tiff([as_palette(drawing()), as_palette(255 - drawing())]),
    "16 bits": tiff(WIDE),
    "gif": gif(pages(3)),
    **{f"gif, disposal {kind}": gif(moving(4), disposal=kind) for kind in range(4)},
}


def count(content: bytes) -> int:
    return pages_in(within(content), len(content))


def read(content: bytes, *numbers: int):
    return read_pages(within(content), len(content), list(numbers), lambda make: make())


def expected(content: bytes, number: int) -> np.ndarray:
    """The page as Pillow shows it, by way of a PNG."""
    image = Image.open(io.BytesIO(content))
    image.seek(number)
    return luminance(packed(image if image.mode != "RGBA" else image.convert("RGB")))


@each("name", FILES)
def test_each_page_shows_what_it_shows_in_its_file(name):
    content = FILES[name]
    there = Image.open(io.BytesIO(content)).n_frames
    assert count(content) == there > 1
    for number, page in enumerate(read(content, *range(there))):
        assert np.array_equal(luminance(page), expected(content, number)), number
        assert count(page) == 1 or name.startswith("gif")


def test_a_page_is_no_longer_than_its_picture_and_holds_no_text_of_its_file():
    content = tiff(pages(9), tiffinfo={270: "CANARY", 315: "CANARY"})
    assert b"CANARY" in content
    (page,) = read(content, 8)
    assert len(page) < len(content) / 8
    assert b"CANARY" not in page


def test_reduced_copies_and_masks_are_no_pages():
    content = with_kinds(tiff(pages(5)), {1: 1, 3: 4, 4: 2})
    assert count(content) == 3, "the second is a copy, the fourth a mask; the last one says that it is a page"
    shown = [luminance(page) for page in read(content, 0, 1, 2)]
    assert all(np.array_equal(shown[k], expected(content, number)) for k, number in enumerate((0, 2, 4)))
    pyramid = with_kinds(tiff(pages(3)), {1: 1, 2: 1})
    assert count(pyramid) == 1


def test_a_file_that_is_cut_keeps_the_pages_that_are_whole():
    content = gif(pages(3))
    cut = content[: len(content) - 400]
    assert count(cut) == 3, "also the last one, whose row says that it is cut"
    assert np.array_equal(luminance(read(cut, 1)[0]), expected(content, 1))
    with pytest.raises(ImageError, match="truncated"):
        luminance(read(cut, 2)[0])
    (missing,) = read(content, 3)
    assert isinstance(missing, ImageError) and missing.reason == "truncated"
    assert read(tiff(pages(2)), 2)[0].reason == "truncated"


def test_a_chain_of_pages_without_end_has_an_end():
    content = bytearray(tiff(pages(2)))
    first = int.from_bytes(content[4:8], "little")
    tags = int.from_bytes(content[first : first + 2], "little")
    at = first + 2 + 12 * tags
    content[at : at + 4] = first.to_bytes(4, "little")
    assert count(bytes(content)) == 1


def test_a_large_file_is_read_in_the_ranges_of_the_pages_that_are_wanted():
    content = tiff(pages(4, 512, 512))
    asked = []

    def fetch(start: int, length: int) -> bytes:
        asked.append(length)
        return content[start : start + length]

    (page,) = read_pages(fetch, len(content), [2], lambda make: make())
    assert np.array_equal(luminance(page), expected(content, 2))
    assert sum(asked) < len(content), asked


def test_a_tag_of_a_type_that_its_layout_has_no_room_for_ends_no_listing():
    """A number of 8 bytes, which only BigTIFF holds in a tag."""
    content = bytearray(with_kinds(tiff(pages(2)), {1: 1}))
    at = content.rindex((254).to_bytes(2, "little") + b"\4\0\1\0\0\0\1\0\0\0")
    content[at + 2] = 16
    assert count(bytes(content)) == 2
    assert all(isinstance(page, bytes) for page in read(bytes(content), 0, 1))


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_an_error_of_the_page(seed):
    chance = random.Random(seed)
    for content in (FILES["lzw"], FILES["gif, disposal 1"]):
        for _ in range(40):
            broken = damaged(content, chance)
            for page in read(broken, *range(min(count(broken), 5))):
                if isinstance(page, bytes):
                    with suppress(ImageError):
                        luminance(page, max_pixels=10_000_000)
