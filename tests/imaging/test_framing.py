"""Where the square that a network gets lies in the upright image, shown by images whose colours tell the place."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Transpose
from support.each import each

from brainray.config import ImageSpec
from brainray.imaging.decode import decode
from brainray.imaging.framing import in_square

WIDTH, HEIGHT = 613, 407  # of the upright image
MOST_PX = 2  # of disagreement, from blurred edges and rounded colours; a pixel of 96 is 5 pixels wide
# EXIF orientation -> the operation that makes the stored image of the upright one
STORED = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


def telling(orientation=1, kind="PNG", *, margins=(0, 0, 0, 0)):
    """Red is the share of the width and green of the height, inside margins that are black."""
    left, top, right, bottom = margins
    x, y = np.meshgrid((np.arange(WIDTH) + 0.5) / WIDTH, (np.arange(HEIGHT) + 0.5) / HEIGHT)
    colours = np.stack([60 + 190 * x, 60 + 190 * y, np.full_like(x, 250)], axis=2)
    seen = np.zeros((HEIGHT, WIDTH, 1))
    seen[top : HEIGHT - bottom, left : WIDTH - right] = 1
    image = Image.fromarray((colours * seen).round().astype(np.uint8))
    turn = STORED[orientation]
    sink, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    (image if turn is None else image.transpose(turn)).save(sink, kind, exif=exif, **options)
    return sink.getvalue()


def error_px(data, **spec):
    """How far colours and `square` disagree about where each half of the pixels lies, in upright pixels."""
    decoded = decode(data, ImageSpec(channels=3, **spec))
    assert (decoded.width, decoded.height) == (WIDTH, HEIGHT)
    pixels, (left, top, right, bottom) = decoded.pixels.astype(float), decoded.square
    rows, columns = np.nonzero(pixels[..., 2] > 245)
    assert len(rows) > 500
    side = spec["image_px"]
    x, y = left + (columns + 0.5) / side * (right - left), top + (rows + 0.5) / side * (bottom - top)
    told_x, told_y = ((pixels[rows, columns, k] - 60) / 190 * size for k, size in ((0, WIDTH), (1, HEIGHT)))
    halves = [(rows < np.median(rows)) == upper for upper in (True, False)]
    halves += [(columns < np.median(columns)) == left for left in (True, False)]
    return max(abs(np.mean((there - told)[half])) for there, told in ((x, told_x), (y, told_y)) for half in halves)


@each("orientation", STORED)
@each("kind", ["JPEG", "PNG", "TIFF"])
def test_the_square_lies_where_it_is_said_to(orientation, kind):
    data = telling(orientation, kind, margins=(90, 20, 31, 75))
    assert error_px(data, image_px=96, crop="head") < MOST_PX
    assert error_px(data, image_px=97, crop="none") < MOST_PX


@each("resize", ["pad", "stretch"])
@each("image_px", [33, 64, 192])
def test_of_a_jpeg_that_is_unpacked_in_a_reduced_size_too(image_px, resize):
    assert error_px(telling(6, "JPEG"), image_px=image_px, crop="none", resize=resize) < MOST_PX


def test_margins_reach_beyond_the_image():
    left, top, right, bottom = decode(telling(), ImageSpec(image_px=64, channels=3)).square
    assert (left, right) == (0, WIDTH)
    assert top < 0 and bottom > HEIGHT
    assert right - left == pytest.approx(bottom - top, rel=0.02)


def test_the_box_lies_in_the_square_where_it_lies_in_the_image():
    """Else a network would learn that the tumour is beside the tumour."""
    box = (0.25, 0.5, 0.5, 1)
    # An image of 200 x 100 in a square with margins above and below; its middle half was cropped.
    assert in_square(box, (200, 100), (0, -50, 200, 150)) == (0.25, 0.5, 0.5, 0.75)
    assert in_square(box, (200, 100), (50, 0, 150, 100)) == (0, 0.5, 0.5, 1)
