"""The box file (`--boxes`): tells where in an image the finding is that gives it its class, such as a tumour.

A box is (left, top, right, bottom) as shares of the width and height of the upright image. Rows find their images as
those of a label file do (`label_file`, `label_match`).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray.errors import BadRequest
from brainray.inputs.class_names import NO_VALUE
from brainray.inputs.frames.listing import files_of_frames
from brainray.inputs.tables.table_columns import BOX_COLUMNS

from .label_file import LabelFile, read_named_values

OPTION = "--boxes"
_BETWEEN = " "  # between the four numbers of a box as text


class BoxFile:
    """Boxes by URI, else by path below the folder of images, else by file name."""

    def __init__(self, keys: pa.Array, boxes: pa.Array, *, uri: str) -> None:
        """`boxes` are four numbers as text, with a blank between them; null for rows without a box."""
        self._source = f"{OPTION} {uri}"
        self._rows = LabelFile(keys, boxes, source=self._source)

    def boxes_of(self, images: pa.Table) -> npt.NDArray[np.float32]:
        """[N, 4] the box of each of all images (uri, relative: the path below its folder); NaN for none.

        Raises `BadRequest` where a row fits several images, two rows fit one image, or no image gets a box. Rows of
        images that are not here are counted only: boxes are drawn for a whole set, of which these may be a part.
        """
        uris, relative = (images[name].combine_chunks() for name in ("uri", "relative"))
        names = pc.replace_substring_regex(relative, "(?s)^.*/", "")
        self._rows.begin()
        texts = self._rows.labels_of(uris, relative, names, files_of_frames(images))
        self._rows.check_all_used_once(may_miss=True, listed=[images])
        boxes_N4 = np.full((len(texts), 4), np.nan, np.float32)
        known = np.flatnonzero(texts.is_valid())
        if not len(known):
            raise BadRequest(f"{self._source}: no image gets a box by it; its names must be those of the images")
        boxes_N4[known] = [text.split(_BETWEEN) for text in texts.drop_null().to_pylist()]
        return boxes_N4

    def describe(self, boxes_N4: npt.NDArray[np.float32]) -> Iterator[str]:
        """Yield lines for the log: how many images have a box, and how many rows name no image."""
        yield f"{int(np.isfinite(boxes_N4[:, 0]).sum()):,} of {len(boxes_N4):,} images have a box ({OPTION})"
        if self._rows.without_image:
            yield f"{OPTION}: {self._rows.without_image:,} row(s) name none of these images"


def read_box_file(uri: str) -> BoxFile:
    """Read a CSV or Parquet file with an image column and four of a box. Raises `BadRequest`, which names the fault."""
    keys, columns = read_named_values(OPTION, uri, *BOX_COLUMNS, fractions=True)
    texts = [pc.utf8_trim_whitespace(pc.fill_null(column, "")) for column in columns]
    missing = pa.array(sorted(NO_VALUE))
    is_none = [pc.is_in(pc.utf8_lower(text), value_set=missing) for text in texts]
    without = np.logical_and.reduce([mask.to_numpy(zero_copy_only=False) for mask in is_none])
    rows = np.flatnonzero(~without)
    _check(keys, np.column_stack([_numbers(text.take(pa.array(rows))) for text in texts]), rows, uri)
    joined = pc.binary_join_element_wise(*texts, _BETWEEN)
    return BoxFile(keys, pc.if_else(pa.array(without), pa.scalar(None, pa.string()), joined), uri=uri)


def _numbers(texts: pa.Array) -> npt.NDArray[np.float64]:
    """The numbers that texts spell; NaN for other texts."""
    values = []
    for text in texts.to_pylist():
        try:
            values.append(float(text or "nan"))
        except ValueError:
            values.append(np.nan)
    return np.array(values, np.float64)


def _check(keys: pa.Array, boxes_N4: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], uri: str) -> None:
    """Refuse what is no box, such as one in pixels; names the first such row's image."""
    left, top, right, bottom = boxes_N4.T
    good = (left >= 0) & (top >= 0) & (left < right) & (top < bottom) & (right <= 1) & (bottom <= 1)
    if good.all():
        return
    first = int(np.flatnonzero(~good)[0])
    shown = ", ".join(f"{value:g}" for value in boxes_N4[first])
    raise BadRequest(
        f"{OPTION} {uri}: {int((~good).sum()):,} row(s) have no box, as that of {keys[int(rows[first])].as_py()!r} "
        f"({shown}); left, top, right and bottom are shares of width and height from 0 to 1, left < right"
    )
