"""The columns of a prediction row, which is what DuckDB, pandas and Spark read of a run.

`brainray/scoring/README.md` describes each; a test compares.
"""

import pyarrow as pa

KeptTypes = tuple[tuple[str, str], ...]  # name and Arrow type of each column of --keep-columns


SCAN_COLUMNS = (
    pa.field("scan_modality", pa.string()),
    pa.field("scan_likely", pa.string()),
    pa.field("scan_plane", pa.string()),
    pa.field("scan_sequence", pa.string()),
    pa.field("scan_field_t", pa.float32()),
    pa.field("scan_vendor", pa.string()),
)  # what the header of a medical image tells, see `imaging.dicom.series.SeriesFacts`


def prob_column(class_name: str) -> str:
    """The column of the probability of a class."""
    return f"prob_{class_name}"


def prediction_schema(
    classes: tuple[str, ...], kept: KeptTypes = (), *, marks_seen: bool = True, has_scan: bool = True
) -> pa.Schema:
    """The columns of a part file, in order. Types are fixed, also for a column of nulls only.

    Without `marks_seen` or `has_scan`, those of runs that earlier versions began: all parts of a run have the same
    columns.
    """
    text, real = pa.string(), pa.float32()
    return pa.schema(
        [
            pa.field("uri", text, nullable=False),
            pa.field("label", text),
            pa.field("predicted", text),
            pa.field("confidence", real),
            *(pa.field(prob_column(name), real) for name in classes),
            pa.field("margin", real),
            pa.field("review", pa.bool_()),
            *((pa.field("seen", pa.bool_()),) if marks_seen else ()),
            pa.field("status", text, nullable=False),
            pa.field("error", text),
            pa.field("error_detail", text),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("format", text),
            *(SCAN_COLUMNS if has_scan else ()),
            pa.field("size_bytes", pa.int64()),
            pa.field("version", text),
            pa.field("content_hash", text),
            pa.field("group", text),
            pa.field("shard_id", text, nullable=False),
            pa.field("model", text, nullable=False),
            pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
            *(pa.field(name, pa.type_for_alias(kind)) for name, kind in kept),
        ]
    )
