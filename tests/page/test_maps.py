"""The cells of a map over a thumbnail."""

import io

import numpy as np
import pytest
from PIL import Image
from support.each import each

from brainray.config import ImageSpec
from brainray.imaging.decode import decode
from brainray.page.maps import CellMap, drawing, map_figures

WIDTH, HEIGHT = 600, 400


def cells(values, box=(0, 0, WIDTH, HEIGHT)):
    return CellMap(values=np.array(values, np.float32), predicted="glioma", runner_up="notumor", box=box)


def corner(drawn, column, row):
    """Where the corner of a cell is drawn, as shares of the thumbnail."""
    moves, scales = (np.array(drawn[name].split(), float) for name in ("move", "scale"))
    return (moves + scales * (column, row)) / 192


def test_a_cell_is_drawn_over_the_pixels_that_it_covers():
    sink = io.BytesIO()
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[100:200, 450:600] = 255
    Image.fromarray(pixels).save(sink, "PNG")
    shown = decode(sink.getvalue(), ImageSpec(image_px=192, channels=3))
    drawn = drawing(cells(np.eye(4)), shown.square)
    begin, end = (np.round(192 * corner(drawn, *place)).astype(int) for place in ((3, 1), (4, 2)))
    inside = shown.pixels[begin[1] : end[1], begin[0] : end[0]]
    assert inside.mean() > 240
    assert shown.pixels.astype(int).sum() == pytest.approx(inside.astype(int).sum(), rel=0.05)


def test_shades_tell_sign_and_size_and_leave_out_what_is_weak():
    drawn = drawing(cells([[4.0, -4.0], [2.0, 0.1]]), (0, -100, 600, 500))
    assert drawn["shades"] == {"n4": "M1 0h1v1h-1z", "p2": "M0 1h1v1h-1z", "p4": "M0 0h1v1h-1z"}


@each("values", [np.ones((21, 20)), None])
def test_a_grid_too_fine_for_the_page_is_not_drawn(values):
    assert drawing(None if values is None else cells(values), (0, 0, 600, 600)) is None


def test_a_map_of_nothing_has_no_cell():
    assert drawing(cells(np.zeros((2, 2))), (0, 0, 600, 600))["shades"] == {}


def test_how_often_a_peak_is_right_is_said_where_it_was_measured():
    hits = {"images": 680, "in_box": 0.69, "head_centre": 0.6}
    assert map_figures(3, {"map_hits": hits}) == {"images": 3, "hits": hits}
    assert map_figures(3, {"map_hits": {"images": 680}})["hits"] is None
    assert map_figures(3, {})["hits"] is None
