"""`confusion.parquet` and `per_class.parquet` of a summary: of all images, and of each group of each level.

They are written and read a few thousand groups at a time, as there may be hundreds of thousands.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.evaluation import metrics
from brainray.evaluation.counts import ALL, IS_EXCLUSION, Counts, Ints

from .groups import GroupLevel

CONFUSION, PER_CLASS = "confusion.parquet", "per_class.parquet"
CONFUSION_SCHEMA = pa.schema(
    [
        ("group", pa.string()),
        ("label", pa.string()),
        ("predicted", pa.string()),
        ("images", pa.int64()),
    ]
)
_FIGURES = [f"{name}{end}" for name in ("precision", "recall", "f1") for end in ("", "_low", "_high")]
PER_CLASS_SCHEMA = pa.schema(
    [
        ("group", pa.string()),
        ("class", pa.string()),
        ("support", pa.int64()),
        ("failed", pa.int64()),
        ("predicted", pa.int64()),
        *((name, pa.float64()) for name in _FIGURES),
        ("level", pa.string()),
    ]
)
# Rows of confusion.parquet up to which cells without an image are in it, too: 600,000 groups of four classes, 6,000 of
# forty. They take 1 s of processor.
_MOST_GRID_ROWS = 10_000_000


def confusion_tables(counts: Counts, level: GroupLevel | None, classes: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of confusion.parquet: scored and labelled images by group, label and prediction.

    `counts` are those of all images that are measured. Where there are groups, there are no rows for all of them
    together, which are the sums over the groups.
    """
    if level is None:
        yield confusion_table(counts, classes)
        return
    whole = level.number * len(classes) ** 2 <= _MOST_GRID_ROWS
    for groups in level.unseen.chunks():
        table = confusion_table(level.unseen.take(groups), classes)
        yield table if whole else table.filter(pc.greater(table["images"], 0))


def confusion_table(counts: Counts, classes: Sequence[str]) -> pa.Table:
    """The full grid of each group, zeros included."""
    G, K = len(counts.groups), len(classes)
    names = pa.array(classes, pa.string())
    columns = (
        _repeated(counts.groups, K * K),
        names.take(pa.array(np.tile(np.repeat(np.arange(K), K), G))),
        names.take(pa.array(np.tile(np.arange(K), G * K))),
        counts.confusions.reshape(-1),
    )
    return pa.table(list(map(pa.array, columns)), schema=CONFUSION_SCHEMA)


def per_class_tables(
    unseen: Counts, counts: Counts, levels: Sequence[GroupLevel], classes: Sequence[str]
) -> Iterator[pa.Table]:
    """The rows of per_class.parquet: those of all images, then level by level.

    Figures are of scored and labelled images, and of those that were judged wrong; `failed` counts the images of a
    class that could not be scored.
    """
    yield per_class_table(unseen, counts, None, classes)
    for level in levels:
        for groups in level.counts.chunks():
            yield per_class_table(level.unseen.take(groups), level.counts.take(groups), level.name, classes)


def per_class_table(unseen: Counts, counts: Counts, level: str | None, classes: Sequence[str]) -> pa.Table:
    """The figures of each class in each group, which are of `unseen`; failed images are counted in `counts`."""
    G, K = len(counts.groups), len(classes)
    figures = metrics.per_class(unseen.confusions, unseen.judged_wrong)
    columns = {
        "group": _repeated(counts.groups, K),
        "class": pa.array(classes, pa.string()).take(pa.array(np.tile(np.arange(K), G))),
        "failed": _failed(counts).reshape(-1),
        "level": pa.nulls(G * K, pa.string()) if level is None else pa.repeat(level, G * K),
        **{name: values.reshape(-1) for name, values in figures.items()},
    }
    arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in PER_CLASS_SCHEMA]
    return pa.table(arrays, schema=PER_CLASS_SCHEMA)


def _failed(counts: Counts) -> Ints:
    """[G, K] the images of each class that could not be read or decoded."""
    return np.asarray(counts.unscored[:, :-1, ~IS_EXCLUSION].sum(axis=2), np.int64)


def _repeated(names: Sequence[str], times: int) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(np.repeat(np.arange(len(names)), times)))


def read_of_all(folder: str) -> tuple[pa.Table, pa.Table]:
    """The rows of both tables for all images together, of a summary on disk: the confusion is added up by cell."""
    with storage.open_parquet(storage.join(folder, CONFUSION)) as file:
        chunks = range(file.metadata.num_row_groups)
        sums = [_by_cell(file.read_row_group(k, columns=["label", "predicted", "images"])) for k in chunks]
    with storage.open_parquet(storage.join(folder, PER_CLASS)) as file:
        first = file.read_row_group(0)
    none = CONFUSION_SCHEMA.empty_table().drop_columns("group")
    added = _by_cell(pa.concat_tables([none, *sums]))
    confusion = pa.table([pa.repeat(ALL, len(added)), *added.columns], schema=CONFUSION_SCHEMA)
    return confusion, first.filter(pc.equal(first["group"], ALL))


def _by_cell(table: pa.Table) -> pa.Table:
    """The images of each label and prediction."""
    summed = table.group_by(["label", "predicted"], use_threads=False).aggregate([("images", "sum")])
    return summed.rename_columns(["label", "predicted", "images"])
