"""Draws the map of where a score came from over a thumbnail: the network's own cells, in two colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from brainray.imaging.framing import Box

VIEW = 192  # side of the drawing's own square, which covers the thumbnail
MOST_CELLS = 400  # a finer grid is not drawn, which keeps the page small
_LEVELS = 4  # shades of each colour; what is below half a level is not drawn


@dataclass(frozen=True, kw_only=True, eq=False)
class CellMap:
    """How much each cell speaks for the predicted class against the runner-up, and where the grid lies."""

    values: npt.NDArray[np.float32]  # [h, w]
    predicted: str
    runner_up: str
    box: Box  # of the grid, in pixels of the upright image


def drawing(cells: CellMap | None, square: Box | None) -> dict[str, Any] | None:
    """What the template draws: a transform from cells to the thumbnail, and a path of cells for each shade.

    `square` is what the thumbnail shows of the upright image, in its pixels. None where there is nothing to draw.
    """
    if cells is None or square is None or cells.values.size > MOST_CELLS:
        return None
    rows, columns = cells.values.shape
    left, top, right, bottom = _on_view(cells.box, square)
    return {
        "move": f"{left:.2f} {top:.2f}",
        "scale": f"{(right - left) / columns:.3f} {(bottom - top) / rows:.3f}",
        "shades": _shades(cells.values),
        "predicted": cells.predicted,
        "runner_up": cells.runner_up,
    }


def with_maps(tiles: Sequence[dict[str, Any]], maps: Mapping[str, CellMap]) -> int:
    """Give each tile its drawing as `map`, None for none, and count those that have one."""
    for tile in tiles:
        thumbnail = tile["thumbnail"]
        tile["map"] = drawing(maps.get(tile["uri"]), thumbnail.square if thumbnail else None)
    return sum(tile["map"] is not None for tile in tiles)


def map_figures(mapped: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of its maps: how many, and how often the peak of the model's maps lies in the box.

    A model that was measured so has `map_hits` among its figures: `images`, `in_box` and `head_centre`, which is how
    often the centre of the head lies there; both are shares.
    """
    hits = metrics.get("map_hits")
    known = isinstance(hits, Mapping) and {"images", "in_box", "head_centre"} <= set(hits)
    return {"images": mapped, "hits": hits if known else None}


def _on_view(box: Box, square: Box) -> Box:
    across, down = VIEW / (square[2] - square[0]), VIEW / (square[3] - square[1])
    return (
        (box[0] - square[0]) * across,
        (box[1] - square[1]) * down,
        (box[2] - square[0]) * across,
        (box[3] - square[1]) * down,
    )


def _shades(values_hw: npt.NDArray[np.float32]) -> Mapping[str, str]:
    """The path of the cells of each shade: p4 speaks most for the predicted class, n4 most for the runner-up."""
    most = float(np.abs(values_hw).max(initial=0))
    if not most or not np.isfinite(most):
        return {}
    levels_hw = np.rint(_LEVELS * values_hw / most).astype(int)
    paths: dict[str, str] = {}
    for row, column in np.argwhere(levels_hw):
        level = int(levels_hw[row, column])
        shade = f"{'p' if level > 0 else 'n'}{abs(level)}"
        paths[shade] = paths.get(shade, "") + f"M{column} {row}h1v1h-1z"
    return dict(sorted(paths.items()))
