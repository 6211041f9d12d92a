"""The columns of a prediction row, which is what DuckDB, pandas and Spark read of a run.

`brainray/scoring/README.md` describes each; a test compares.
"""

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

KeptTypes = tuple[tuple[str, str], ...]  # name and Arrow type of each column of --keep-columns
SCAN_COLUMNS = (
    pa.field("scan_modality", pa.string()),
    pa.field("scan_likely", pa.string()),
    pa.field("scan_plane", pa.string()),
    pa.field("scan_sequence", pa.string()),
    pa.field("scan_field_t", pa.float32()),
    pa.field("scan_vendor", pa.string()),
)  # what the header of a medical image tells, see `imaging.dicom.series.SeriesFacts`
SERIES_COLUMNS = (
    pa.field("series", pa.string()),
    pa.field("study", pa.string()),
    pa.field("slice_position", pa.float32()),
    pa.field("slice_number", pa.int32()),
)  # which slices belong together, and in which order, see `series.key`
# Where a run was asked for UIDs, see `uids`.
UID_COLUMNS = ("study_uid", "series_uid", "instance_uid")
# Columns that the rows of a run lack where an earlier version began it: all parts of a run have the same columns.
LATER = ("seen", "brightness", "contrast", *(field.name for field in (*SCAN_COLUMNS, *SERIES_COLUMNS)), "features")
FEATURES = pa.list_(pa.field("element", pa.float32()))  # of the images of a sample, see `feature_sample`


def prob_column(class_name: str) -> str:
    """The column of the probability of a class."""
    return f"prob_{class_name}"


def prediction_schema(classes: tuple[str, ...], kept: KeptTypes = (), *, later: Collection[str] = LATER) -> pa.Schema:
    """The columns of a part file, in order. Types are fixed, also for a column of nulls only.

    `later`: those of `LATER` and `UID_COLUMNS` that the run has.
    """
    text, real = pa.string(), pa.float32()
    fields = [
        pa.field("uri", text, nullable=False),
        pa.field("label", text),
        pa.field("predicted", text),
        pa.field("confidence", real),
        *(pa.field(prob_column(name), real) for name in classes),
        pa.field("margin", real),
        pa.field("review", pa.bool_()),
        pa.field("seen", pa.bool_()),
        pa.field("status", text, nullable=False),
        pa.field("error", text),
        pa.field("error_detail", text),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("brightness", real),
        pa.field("contrast", real),
        pa.field("format", text),
        *SCAN_COLUMNS,
        pa.field("size_bytes", pa.int64()),
        pa.field("version", text),
        pa.field("content_hash", text),
        pa.field("group", text),
        pa.field("shard_id", text, nullable=False),
        pa.field("model", text, nullable=False),
        pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
        *SERIES_COLUMNS,
        *(pa.field(name, text) for name in UID_COLUMNS),
        pa.field("features", FEATURES),
    ]
    present = [field for field in fields if field.name in later or field.name not in (*LATER, *UID_COLUMNS)]
    return pa.schema([*present, *(pa.field(name, pa.type_for_alias(kind)) for name, kind in kept)])


def has_class(rows: pa.Table, classes: Sequence[str]) -> pa.ChunkedArray:
    """Whether the label of each row is a class of the model."""
    return pc.is_in(rows["label"], pa.array(classes, pa.string()))


def is_mistake(rows: pa.Table, classes: Sequence[str]) -> pa.ChunkedArray:
    """Whether the label of each row is another class than the predicted one; false for a row without a prediction."""
    return pc.and_(has_class(rows, classes), pc.fill_null(pc.not_equal(rows["label"], rows["predicted"]), False))
