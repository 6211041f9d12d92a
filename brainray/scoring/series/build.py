"""Rolls a run up by series: writes `series/*.parquet` and `studies.parquet`, and gives the figures of the summary.

Computed from the parts only, so a rebuilt roll-up has the same bytes. Memory does not grow with the run. Must not
import Ray or torch.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.evaluation.metrics import share_of
from brainray.storage import Writer

from .labels import read_series_labels
from .rollup import REASONS, Rollup
from .rows import SeriesSource, sorted_series
from .studies import delete_studies, write_studies

FOLDER = "series"
_ROWS_A_FILE = 100_000
MOST_LISTED = 50  # series on the page
_DEFECTS = ("doubled", "gaps", "sizes")
# What is to be looked at first: a wrong one, one for review, then findings, the sure ones leading.
_ORDER = (("wrong", "descending"), ("review", "descending"), ("found", "descending"), ("confidence", "descending"))


@dataclass(frozen=True, kw_only=True)
class SeriesSummary:
    """What a summary has of series."""

    figures: dict[str, Any]  # `series` of summary.json
    listed: tuple[dict[str, Any], ...]  # the first series to look at


def build_series(source: SeriesSource, writer: Writer) -> SeriesSummary | None:
    """Write the roll-up of a run; None, and none is left there, where no image belongs to a series."""
    folder = storage.join(source.run_uri, FOLDER)
    if not source.shards:
        writer.delete_tree(folder)
        delete_studies(source.run_uri, writer)
        return None
    labels, unknown = read_series_labels(source.run_uri, source.classes)
    rollup = Rollup(classes=source.classes, labels=labels)
    found = _Found(rollup)
    written = []
    with sorted_series(source) as tables:
        for number, rows in enumerate(_files(found.counted(map(rollup.rows, tables)))):
            written.append(f"series-{number:05d}.parquet")
            writer.write_parquet(storage.join(folder, written[-1]), rows)
    for name in set(storage.list_names(folder)) - set(written):
        writer.delete(storage.join(folder, name))
    if not written:
        delete_studies(source.run_uri, writer)
        return None
    studies = None
    if found.in_studies:
        studies = write_studies(source.run_uri, [storage.join(folder, name) for name in written], rollup, writer)
    else:
        delete_studies(source.run_uri, writer)
    figures = found.figures(source.rows) | {"labels_unknown": unknown, "studies": studies}
    return SeriesSummary(figures=figures, listed=found.listed())


def _files(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The rows as they are written, `_ROWS_A_FILE` at a time."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(map(len, held)) >= _ROWS_A_FILE:
            rows = pa.concat_tables(held)
            yield rows.slice(0, _ROWS_A_FILE).combine_chunks()
            held = [rows.slice(_ROWS_A_FILE)]
    if sum(map(len, held)):
        yield pa.concat_tables(held).combine_chunks()


@dataclass
class _Found:
    """Adds up the figures of series while they pass."""

    rollup: Rollup
    totals: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    given: int = 0
    in_studies: int = 0  # series that name their study
    first: pa.Table | None = None

    def __post_init__(self) -> None:
        classes = len(self.rollup.classes)
        self.labelled = pa.array(list(self.rollup.labels), pa.string())
        self.confusion = np.zeros((classes, classes + 1), np.int64)  # rows: labels; the last column: nothing said

    def counted(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The same tables, once they are counted."""
        for table in tables:
            self._count(table)
            yield table

    def _count(self, table: pa.Table) -> None:
        sums = {name: pc.sum(table[name]).as_py() for name in ("slices", "scored", "failed", "excluded")}
        flags = {
            "series": len(table),
            "decided": len(table) - table["predicted"].null_count,
            "for_review": pc.sum(table["review"]).as_py(),
            "labelled": len(table) - table["label"].null_count,
            "seen": pc.sum(pc.greater(table["seen_slices"], 0)).as_py(),
            **{name: pc.sum(pc.greater(table[name], int(name == "sizes"))).as_py() for name in _DEFECTS},
            "stray": pc.sum(pc.greater(table["stray"], 0)).as_py(),
        }
        self.totals.update(sums | flags)
        self.reasons.update(_counts(table["reason"]))
        self.predicted.update(_counts(table["predicted"].drop_null()))
        self.in_studies += len(table) - table["study"].null_count
        self.given += pc.sum(pc.is_in(table["series"], self.labelled)).as_py()
        self._measure(table)
        both = table if self.first is None else pa.concat_tables([self.first.select(table.column_names), table])
        self.first = _first(both)

    def _measure(self, table: pa.Table) -> None:
        """Count series with a label of which the model has not learned a slice."""
        judged = table.filter(pc.and_(table["label"].is_valid(), pc.equal(table["seen_slices"], 0)))
        names = pa.array(self.rollup.classes, pa.string())
        labels = pc.index_in(judged["label"], names).to_numpy()
        said = pc.fill_null(pc.index_in(judged["predicted"], names), len(names)).to_numpy()
        np.add.at(self.confusion, (labels.astype(np.int64), said.astype(np.int64)), 1)

    def figures(self, rows: int) -> dict[str, Any]:
        """`series` of summary.json, for a run of so many rows.

        Accuracy is of series with a label and a decision that the model has not seen.
        """
        classes, totals = self.rollup.classes, self.totals
        decided = self.confusion[:, :-1]
        support, right = decided.sum(axis=1), decided.diagonal()
        return {
            "rule": self.rollup.rule.to_json(),
            **{name: totals[name] for name in ("series", "slices", "scored", "failed", "excluded", "decided")},
            "images_without_series": rows - totals["slices"],
            "predicted": {name: self.predicted[name] for name in classes},
            "reasons": {name: self.reasons[name] for name in REASONS if self.reasons[name]},
            **{name: totals[name] for name in ("for_review", "labelled", "seen")},
            "labels_given": len(self.rollup.labels),
            "labels_matched": self.given,
            "measured": int(support.sum()),
            "undecided": int(self.confusion[:, -1].sum()),  # of those with a label
            "accuracy": share_of(int(right.sum()), int(support.sum())),
            "recall": {name: share_of(int(right[k]), int(support[k])) for k, name in enumerate(classes)},
            "confusion": self.confusion.tolist(),
            "defects": {name: totals[name] for name in _DEFECTS},
            "beside_failed": totals["stray"],  # series that may have lost slices among failed images of their folders
        }

    def listed(self) -> tuple[dict[str, Any], ...]:
        return () if self.first is None else tuple(self.first.to_pylist())


def _first(table: pa.Table) -> pa.Table:
    """The first series to look at."""
    wrong = pc.fill_null(pc.not_equal(table["label"], table["predicted"]), False).cast(pa.int8())
    found = pc.equal(table["reason"], "finding").cast(pa.int8())
    marked = table.append_column("wrong", wrong).append_column("found", found)
    order = pc.sort_indices(
        marked.set_column(marked.column_names.index("review"), "review", marked["review"].cast(pa.int8())),
        sort_keys=[*_ORDER, ("series", "ascending")],
    )
    return marked.take(order[:MOST_LISTED]).combine_chunks()


def _counts(column: pa.ChunkedArray) -> Mapping[str, int]:
    counts = column.value_counts()
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
