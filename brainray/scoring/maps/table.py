"""The rows of maps.parquet: where scores came from, image by image. Must not import torch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brainray.imaging.framing import Box
from brainray.models.map_values import ImageMaps

MAPS_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("content_hash", pa.string()),
        pa.field("classes", pa.list_(pa.string())),  # by falling probability: the predicted one first
        pa.field("logits", pa.list_(pa.float32())),
        pa.field("biases", pa.list_(pa.float32())),
        pa.field("rows", pa.int16()),
        pa.field("columns", pa.int16()),
        pa.field("values", pa.list_(pa.float16())),  # by class, row and column; mean plus bias is the logit
        # The grid as a whole, in pixels of the upright image; it may reach beyond it.
        *(pa.field(name, pa.float32()) for name in ("left", "top", "right", "bottom")),
    ]
)
FINGERPRINT = b"brainray.model"  # in the metadata of a file of maps


def map_rows(
    images: pa.Table,
    maps: ImageMaps,
    classes: Sequence[str],
    squares_N4: npt.NDArray[np.float64],
    box: Box,
    image_px: int,
) -> pa.Table:
    """Rows of maps.parquet. `images` has `uri` and `content_hash`.

    `squares_N4` is what the model got of each upright image, in its pixels, and `box` where the grid lies on that, in
    pixels of `image_px`.
    """
    number, chosen = maps.order_NC.shape
    rows, columns = maps.values_NChw.shape[2:]
    names = np.array(classes, object)
    boxes = _on_images(box, squares_N4, image_px)
    filled = {
        "uri": images["uri"],
        "content_hash": images["content_hash"],
        "classes": _lists(pa.array(names[maps.order_NC].ravel(), pa.string()), chosen),
        "logits": _lists(pa.array(maps.logits_NC.ravel()), chosen),
        "biases": _lists(pa.array(maps.biases_NC.ravel()), chosen),
        "rows": pa.array([rows] * number, pa.int16()),
        "columns": pa.array([columns] * number, pa.int16()),
        "values": _lists(pa.array(maps.values_NChw.ravel()), chosen * rows * columns),
        **{name: pa.array(boxes[:, k], pa.float32()) for k, name in enumerate(("left", "top", "right", "bottom"))},
    }
    return pa.table(filled, schema=MAPS_SCHEMA)


def _lists(values: pa.Array, each: int) -> pa.ListArray:
    """Lists of `each` values."""
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, each, dtype=np.int32), values)


def _on_images(box: Box, squares_N4: npt.NDArray[np.float64], image_px: int) -> npt.NDArray[np.float64]:
    """[N, 4] a box of the network's input on each upright image, in its pixels."""
    corner, far = squares_N4[:, :2], squares_N4[:, 2:]
    scale = (far - corner) / image_px
    return np.concatenate([corner + np.array(box[:2]) * scale, corner + np.array(box[2:]) * scale], axis=1)
