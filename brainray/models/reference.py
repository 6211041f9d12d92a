"""The reference of a bundle, `training/reference.parquet`: what its model makes of pictures that it had not seen.

One row a picture: with folds every picture, judged by the fold that has not learned from it, else the validation
pictures. An archive is compared with it: its features are those of `encoder`, which no training changes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from brainray.errors import BadRequest
from brainray.evaluation.appearance import Appearance
from brainray.imaging.exposure import exposure as image_exposure

from .bundle import DESCRIPTION, Bundle, read_file

FILE = "training/reference.parquet"
FEATURES = "features"  # the column
COUNT = 32  # features of an image
_FEATURES = pa.list_(pa.field("element", pa.float32(), nullable=False), COUNT)


def prob_column(class_name: str) -> str:
    """The column of the calibrated probability of a class, as in predictions."""
    return f"prob_{class_name}"


def reference_schema(classes: tuple[str, ...]) -> pa.Schema:
    """The columns, in order."""
    real = pa.float32()
    return pa.schema(
        [
            pa.field("label", pa.string(), nullable=False),
            pa.field("group", pa.string()),  # such as a patient; null for none
            pa.field("unit", pa.int32(), nullable=False),  # pictures and groups that no fold divides: resample these
            pa.field("fold", pa.int16()),  # from 1; null without folds
            *(pa.field(prob_column(name), real, nullable=False) for name in classes),
            pa.field("width", pa.int32(), nullable=False),  # of the whole image
            pa.field("height", pa.int32(), nullable=False),
            pa.field("brightness", real, nullable=False),  # mean of the pixels that the model gets, 0 to 1
            pa.field("contrast", real, nullable=False),  # their standard deviation
            pa.field(FEATURES, _FEATURES, nullable=False),
        ]
    )


def exposure(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """[N] brightness and [N] contrast of images [N, H, W] or [N, H, W, 3]: mean and spread of their pixels, 0 to 1."""
    found = np.array([image_exposure(image) for image in images], np.float32).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def appearance_of(bundle: Bundle) -> dict[str, Any] | None:
    """What the pictures of the reference look like, as `Appearance.figures`, and their number; None without one."""
    table = read_reference(bundle)
    if table is None:
        return None
    values = {name: table[name].to_numpy() for name in ("brightness", "contrast", "width", "height")}
    values["longest_side_px"] = np.maximum(values.pop("width"), values.pop("height"))
    return {"images": len(table), **Appearance.of(values).figures()}


def features_column(features_NF: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    """Features as a column, rounded to fp16."""
    rounded = features_NF.astype(np.float16).astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(rounded.ravel()), type=_FEATURES)


def to_bytes(table: pa.Table) -> bytes:
    """The content of the file: 90 bytes a picture, for features in fp16 compress to half when stored as bytes apart."""
    sink = pa.BufferOutputStream()
    streams = {f"{FEATURES}.list.element": "BYTE_STREAM_SPLIT"}
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=["label", "group"],
        column_encoding=streams,
        write_page_checksum=True,
    )
    return bytes(sink.getvalue().to_pybytes())


def read_reference(bundle: Bundle) -> pa.Table | None:
    """The reference of a bundle; None where it has none. Raises `BadRequest` for a damaged one."""
    content = read_file(bundle, FILE)
    if content is None:
        return None
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as exc:
        raise BadRequest(
            f"{bundle.uri}: {FILE} is no readable Parquet, although {DESCRIPTION} knows it ({exc})"
        ) from exc
