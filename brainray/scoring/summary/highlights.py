"""Selects the rows of a run that a person should see: mistakes, unsure predictions, failures, one of each class.

A selection is bounded, whatever the number of rows, and the sum of the selections of parts is the selection of all
rows: memory does not grow with the run, and the result does not depend on how rows were cut into parts.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray.evaluation.appearance import Appearance
from brainray.page.tiles import Kind, Selection
from brainray.scoring.prediction_schema import LATER, has_class, is_mistake, prob_column

# Columns of a part that a selection keeps, besides `group` and the probabilities.
_COLUMNS = (
    "uri",
    "label",
    "predicted",
    "confidence",
    "review",
    "status",
    "error",
    "error_detail",
    "width",
    "height",
    "content_hash",
    "shard_id",
)
_MEASURED = ("brightness", "contrast")
_UNKNOWN_FORMAT = "unknown"


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """Which of the rows of a kind are kept: the first `most` by `order`, of those the first `each` for each `by`."""

    order: tuple[tuple[str, str], ...] = ()
    most: int
    by: tuple[str, ...] = ()
    each: int = 0


_SUREST_FIRST, _LEAST_SURE_FIRST = ("confidence", "descending"), ("confidence", "ascending")
_RULES: Mapping[Kind, _Rule] = {
    "mistake": _Rule(order=(_SUREST_FIRST,), most=2_000),
    "judged": _Rule(order=(_SUREST_FIRST,), most=2_000),
    "cell": _Rule(by=("label", "predicted"), order=(_SUREST_FIRST,), each=2, most=2_000),
    "unsure": _Rule(order=(_LEAST_SURE_FIRST,), most=2_000),
    "least": _Rule(order=(_LEAST_SURE_FIRST,), most=200),
    "example": _Rule(by=("predicted",), order=(_SUREST_FIRST,), each=3, most=600),
    "failed": _Rule(by=("error",), each=200, most=2_000),
}


def columns(classes: Sequence[str], *, grouped: bool, later: Collection[str] = LATER) -> list[str]:
    """The columns of a part that `select` reads; `later`: those of `LATER` that the run has."""
    measured = [name for name in _MEASURED if name in later]
    return [*_COLUMNS, "format", *measured, *map(prob_column, classes), *(["group"] if grouped else [])]


@dataclass(frozen=True, kw_only=True)
class Highlights(Selection):
    """The selected rows of each kind in order, and counts of formats and of what images look like."""

    formats: Mapping[str, int]  # images by format
    appearance: Appearance

    @classmethod
    def total(cls, parts: Iterable["Highlights"]) -> "Highlights":
        """The highlights of all parts together; of one or more."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        formats: Counter[str] = Counter()
        for part in parts:
            formats.update(part.formats)
        return cls(
            rows={kind: _first(pa.concat_tables([part.rows[kind] for part in parts]), _RULES[kind]) for kind in _RULES},
            images={kind: sum(part.images[kind] for part in parts) for kind in _RULES},
            formats=dict(sorted(formats.items())),
            appearance=Appearance.total(part.appearance for part in parts),
        )


def select(table: pa.Table, classes: Sequence[str], judged_N: npt.NDArray[np.bool_] | None = None) -> Highlights:
    """The highlights of the rows of a part, which has the columns of `columns`; of `judged_N` see `JudgedWrong`."""
    ok = pc.equal(table["status"], "ok")
    labelled, wrong = has_class(table, classes), is_mistake(table, classes)
    none = np.zeros(len(table), bool)
    judged = pc.and_(pc.and_(ok, pa.array(none if judged_N is None else judged_N)), pc.invert(wrong))
    not_wrong = pc.and_(ok, pc.invert(pc.or_(wrong, judged)))
    unsure = pc.and_(not_wrong, pc.and_(pc.invert(labelled), pc.fill_null(table["review"], False)))
    masks: dict[Kind, pa.ChunkedArray] = {
        "mistake": pc.and_(ok, wrong),
        "judged": judged,
        "cell": pc.and_(ok, wrong),
        "unsure": unsure,
        "least": not_wrong,
        "example": not_wrong,
        "failed": pc.equal(table["status"], "error"),
    }
    kept = table.select([name for name in table.column_names if name not in ("format", *_MEASURED)])
    return Highlights(
        rows={kind: _first(kept, _RULES[kind], where=mask) for kind, mask in masks.items()},
        images={kind: pc.sum(mask).as_py() or 0 for kind, mask in masks.items()},
        formats=_formats(table["format"]),
        appearance=_appearance(table),
    )


def _first(table: pa.Table, rule: _Rule, where: pa.ChunkedArray | None = None) -> pa.Table:
    """The rows that a rule keeps, in its order. Equal rows are ordered by URI."""
    names = [*rule.by, *(name for name, _ in rule.order), "uri"]
    places = np.arange(len(table)) if where is None else np.flatnonzero(where.to_numpy())
    if len(places) == 0:
        return table.schema.empty_table()
    keys = table.select(names).take(pa.array(places))
    order = pc.sort_indices(
        keys, sort_keys=[*((name, "ascending") for name in rule.by), *rule.order, ("uri", "ascending")]
    )
    if rule.by:
        order = order.filter(pa.array(_rank(keys.select(rule.by).take(order)) < rule.each))
    return table.take(pa.array(places[order[: rule.most].to_numpy()]))


def _rank(keys: pa.Table) -> npt.NDArray[np.int64]:
    """[N] the place of each row among those of its key; equal keys are neighbours."""
    starts = np.zeros(len(keys), bool)
    for column in keys.columns:
        codes = pc.fill_null(column.combine_chunks().dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
        starts[1:] |= codes[1:] != codes[:-1]
    starts[:1] = True
    number = np.arange(len(keys))
    return number - np.maximum.accumulate(np.where(starts, number, 0))


def _formats(column: pa.ChunkedArray) -> dict[str, int]:
    """The images of each format."""
    counts = pc.fill_null(column, _UNKNOWN_FORMAT).value_counts()
    return dict(sorted((str(row["values"]), int(row["counts"])) for row in counts.to_pylist()))


def _appearance(table: pa.Table) -> Appearance:
    """What the images of a part look like; unknown sizes, and the exposure of failed images, are left out."""
    values = {name: table[name] for name in _MEASURED if name in table.column_names}
    values["longest_side_px"] = pc.max_element_wise(table["width"], table["height"])
    return Appearance.of({name: column.drop_null().to_numpy() for name, column in values.items()})
