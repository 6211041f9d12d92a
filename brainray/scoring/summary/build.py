"""Builds `summary/` of a run from its parts: tables, a plot, a page, and `summary.json`, which is written last.

A summary is computed from the parts and run.json only, without a clock, so a rebuilt one has the same bytes; the
thumbnails of the page are read from the archive. Parts are read a few at a time and only their counts and a bounded
selection of their rows are kept, so memory does not grow with the number of images. Must not import Ray or torch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.config import PageOptions
from brainray.errors import EXCLUSION_REASONS, BadRequest, StorageError
from brainray.evaluation import metrics
from brainray.evaluation.counts import ALL, REASONS, SCORED, Counts, Ints, RowArrays, count_rows, total
from brainray.evaluation.group_counts import GroupCounts, count_by_group
from brainray.evaluation.group_counts import total as total_by_group
from brainray.evaluation.plots import draw_confusion, make_plots_ready
from brainray.machine.ahead import map_ahead
from brainray.scoring.parts import holds_series, open_part, part_uri, present_shards
from brainray.scoring.prediction_schema import prob_column
from brainray.scoring.pseudonyms.names import KeyedNames
from brainray.scoring.run_folder import SUMMARY
from brainray.scoring.series.build import SeriesSummary, build_series
from brainray.scoring.series.rows import SeriesSource

from .group_levels import named
from .groups import GroupLevel, groups_schema, levels_of
from .highlights import Highlights, columns, select
from .maps import MapSource, delete_others
from .outcome import outcome_figures
from .review import review_figures, review_table, write_review
from .run_values import RunValues, read_run_values
from .tables import (
    CONFUSION,
    CONFUSION_SCHEMA,
    PER_CLASS,
    PER_CLASS_SCHEMA,
    confusion_table,
    confusion_tables,
    per_class_table,
    per_class_tables,
    read_of_all,
)
from .territory import join_samples, sample_columns, select_sample, territory_figures, write_features
from .throughput import Throughput, iso
from .unseen import calibration_figures, unseen_of

# 1: groups had no levels, and no figure told which images the model has learned from. 2: nothing of series, nor of
# whether the archive is like what the model knows. 3: no `groups.parquet`, and every group in summary.json.
SCHEMA_VERSION = 4
_PREVIOUS = "previous.json"  # summary.json of the generation before, which --rescore has replaced
_PAGE = "report.html"
GROUPS = "groups.parquet"
# Threads that read parts. Time for a million rows in 1,000 parts on a disk, 2 cores (a bucket gains from more threads):
#   threads  1      2      4      8
#   time     2.1 s  1.5 s  1.8 s  2.6 s
_THREADS = 4
_PARTS_A_TASK = 8


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A summary: `figures` is summary.json; of its tables those rows are in memory that are of all images."""

    folder: str  # URI
    figures: dict[str, Any]
    confusion_of_all: pa.Table  # scored and labelled images by label and prediction
    per_class_of_all: pa.Table
    kept_list: str | None = None  # URI of an earlier review.csv that a person had filled in; of a summary built now

    @cached_property
    def confusion(self) -> pa.Table:
        """confusion.parquet, with a grid for each group."""
        return storage.read_parquet(storage.join(self.folder, CONFUSION))

    @cached_property
    def per_class(self) -> pa.Table:
        """per_class.parquet, with a row for each class of each group."""
        return storage.read_parquet(storage.join(self.folder, PER_CLASS))


def make_ready() -> None:
    """Import and prepare what a summary draws with, so that the next one takes 0.6 s less."""
    from brainray.page import render

    make_plots_ready()
    render.make_ready()


def build_summary(
    run_uri: str,
    writer: storage.Writer = storage.UNLEASED,
    *,
    page: PageOptions | None = None,
    maps: MapSource | None = None,
    names: KeyedNames | None = None,
) -> Summary:
    """Read the parts of a run and write its `summary/`. `maps` adds to those that are there.

    `names` are those behind the pseudonyms of a run, which thumbnails and series of folders need.
    Raises `StorageError` that names an unreadable part, and `BadRequest` for a run without parts.
    """
    page = page or PageOptions()
    run = read_run_values(storage.normalise(run_uri), names)
    found = _read_parts(run)
    series = build_series(_series_source(run, found), writer)
    levels = run.levels if run.grouped else ()
    features = write_features(run.uri, found.sample, run.fingerprint, levels, writer)
    known = territory_figures(run.uri, found.sample, run.classes, levels)
    groups = found.levels(run)
    folder = storage.join(run.uri, SUMMARY)
    summary = Summary(
        folder=folder,
        figures=_figures(run, found, groups)
        | {"series": series.figures if series else None, "territory": known | {"before": features}}
        | {"group_counts": {level.name: level.number for level in groups}}
        | {"groups_unscored": {level.name: level.unscored for level in groups}},
        confusion_of_all=confusion_table(found.unseen, run.classes),
        per_class_of_all=per_class_table(found.unseen, found.counts, None, run.classes),
    )
    previous = _previous(folder, run.fingerprint)
    if previous is not None:
        writer.write_json(storage.join(folder, _PREVIOUS), previous)
    _write_tables(run, found, groups, folder, writer)
    kept_list = write_review(folder, review_table(found.highlights), writer)
    writer.write_bytes(storage.join(folder, "confusion.png"), draw_confusion(found.unseen, run.classes))
    if maps is not None:
        maps.write(run.uri, run.values, folder, found.highlights, summary.figures["failures"], writer)
    else:
        delete_others(folder, run.fingerprint, writer)
    _write_page(run, summary, found.highlights, series, previous, page, writer)
    writer.write_json(storage.join(folder, "summary.json"), summary.figures)
    return replace(summary, kept_list=kept_list)


def _write_tables(
    run: RunValues, found: "_Found", levels: Sequence[GroupLevel], folder: str, writer: storage.Writer
) -> None:
    """Write the tables that have rows for groups, a few thousand groups at a time."""
    last = levels[-1] if levels else None
    per_class = per_class_tables(found.unseen, found.counts, levels, run.classes)
    tables: dict[str, tuple[pa.Schema, Iterator[pa.Table]]] = {
        CONFUSION: (CONFUSION_SCHEMA, confusion_tables(found.unseen, last, run.classes)),
        PER_CLASS: (PER_CLASS_SCHEMA, per_class),
        GROUPS: (groups_schema(run.classes), (table for level in levels for table in level.tables())),
    }
    for name, (schema, rows) in tables.items():
        writer.write_parquet_rows(storage.join(folder, name), schema, rows)


def _write_page(
    run: RunValues,
    summary: Summary,
    highlights: Highlights,
    series: SeriesSummary | None,
    previous: dict[str, Any] | None,
    page: PageOptions,
    writer: storage.Writer,
) -> None:
    """Write report.html. Without one, delete that of an earlier summary, whose figures are no longer the run's."""
    uri = storage.join(run.uri, SUMMARY, _PAGE)
    if not page.report:
        writer.delete(uri)
        return
    from .report_page import report_page  # its template engine takes 0.1 s to import

    content = report_page(
        run.uri,
        run.values,
        summary.figures,
        confusion=summary.confusion_of_all,
        per_class=summary.per_class_of_all,
        highlights=highlights,
        series=series.listed if series else (),
        previous=previous,
        thumbnails=page.thumbnails,
        names=run.names,
    )
    writer.write_bytes(uri, content)


def page_of(run_uri: str) -> str | None:
    """The URI of the page of a run; None where it has none."""
    uri = storage.join(run_uri, SUMMARY, _PAGE)
    return uri if storage.exists(uri) else None


def _previous(folder: str, fingerprint: str) -> dict[str, Any] | None:
    """summary.json of the last generation of another model; None where there was none."""
    for name in ("summary.json", _PREVIOUS):
        with suppress(StorageError):  # there is none, or it is damaged
            figures = storage.read_json(storage.join(folder, name))
            if figures.get("fingerprint") != fingerprint:
                return figures
    return None


def read_summary(
    run_uri: str,
    writer: storage.Writer = storage.UNLEASED,
    *,
    page: PageOptions | None = None,
    names: KeyedNames | None = None,
) -> Summary:
    """The summary as it was last written; the run must not have changed since. Without one it is built."""
    if not has_summary(run_uri):
        return build_summary(run_uri, writer, page=page, names=names)
    folder = storage.join(run_uri, SUMMARY)
    figures = storage.read_json(storage.join(folder, "summary.json"))
    confusion, per_class = read_of_all(folder)
    return Summary(folder=folder, figures=figures, confusion_of_all=confusion, per_class_of_all=per_class)


def has_summary(run_uri: str) -> bool:
    """Whether a run has a summary with all that this version writes: those of earlier versions lack figures."""
    uri = storage.join(run_uri, SUMMARY, "summary.json")
    return storage.exists(uri) and storage.read_json(uri).get("schema_version", 0) >= SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What is kept of the rows of some parts."""

    counts: Counts
    seen_counts: Counts  # of the images that the model has learned from
    tells_seen: bool  # whether rows say so
    by_group: GroupCounts | None  # of the last level; None where the run has no groups
    seen_by_group: GroupCounts | None
    throughput: Throughput
    highlights: Highlights
    with_series: tuple[str, ...]  # ids of the shards whose rows belong to series
    with_failed: tuple[str, ...]  # ids of those with failed images, which may be slices, too
    sample: pa.Table  # of `territory`

    @property
    def seen(self) -> Counts | None:
        return self.seen_counts if self.tells_seen else None

    @property
    def unseen(self) -> Counts:
        """The images that accuracy and the like are of."""
        return unseen_of(self.counts, self.seen)

    def levels(self, run: RunValues) -> list[GroupLevel]:
        """The levels of groups, from the top; none where the run has no groups."""
        if self.by_group is None:
            return []
        return levels_of(run.levels, self.by_group, self.seen_by_group if self.tells_seen else None, run.classes)

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """What is kept of all parts together."""
        parts = list(parts)
        return cls(
            counts=total(part.counts for part in parts),
            seen_counts=total(part.seen_counts for part in parts),
            tells_seen=any(part.tells_seen for part in parts),
            by_group=_total_by_group(part.by_group for part in parts),
            seen_by_group=_total_by_group(part.seen_by_group for part in parts),
            throughput=Throughput.total([part.throughput for part in parts]),
            highlights=Highlights.total(part.highlights for part in parts),
            with_series=tuple(shard_id for part in parts for shard_id in part.with_series),
            with_failed=tuple(shard_id for part in parts for shard_id in part.with_failed),
            sample=join_samples(part.sample for part in parts),
        )


def _read_parts(run: RunValues) -> _Found:
    """What is kept of all parts."""
    uris = [part_uri(run.uri, shard_id) for shard_id in sorted(present_shards(run.uri))]
    if not uris:
        raise BadRequest(f"{run.uri}: nothing is scored yet; run `brainray score` with it as --output")
    tasks = [uris[i : i + _PARTS_A_TASK] for i in range(0, len(uris), _PARTS_A_TASK)]
    sums = map_ahead(lambda task: _Found.total(_read_part(run, uri) for uri in task), tasks, threads=_THREADS)
    return _summed(sums, lambda first, second: _Found.total((first, second)))


_Sum = TypeVar("_Sum")


def _summed(values: Iterable[_Sum], add: Callable[[_Sum, _Sum], _Sum]) -> _Sum:
    """The sum of one value or more, of which neighbours of like weight are added first.

    Counts by group grow with the groups that are in them: added one by one to all that came before, they would take
    time that grows with the square of the run.
    """
    sums: list[tuple[int, _Sum]] = []  # of 2**n values, with n falling
    for value in values:
        n = 0
        while sums and sums[-1][0] == n:
            value, n = add(sums.pop()[1], value), n + 1
        sums.append((n, value))
    whole = sums.pop()[1]
    while sums:
        whole = add(sums.pop()[1], whole)
    return whole


def _total_by_group(parts: Iterable[GroupCounts | None]) -> GroupCounts | None:
    known = [part for part in parts if part is not None]
    return total_by_group(known) if known else None


def _read_part(run: RunValues, uri: str) -> _Found:
    """What is kept of one part, whose columns are read at once: it has at most 100,000 rows."""
    selected = columns(run.classes, grouped=run.grouped, later=run.later)
    sampled = sample_columns(run.classes, run.later)
    judged = ("uri", "content_hash") if len(run.judged_wrong) else ()
    wanted = list(dict.fromkeys([*selected, *sampled, *judged, "scored_at"]))
    with open_part(uri, run.fingerprint) as (file, info):
        table = file.read(columns=wanted, use_threads=False)
        is_of_series = run.series_by is not None or holds_series(file)
        seen = table["seen"] if "seen" in run.later else pa.chunked_array([pa.nulls(len(table), pa.bool_())])
        known = table.filter(pc.fill_null(seen, False))
        rows, known_rows = _arrays(run, table), _arrays(run, known)
        return _Found(
            counts=_count(rows),
            seen_counts=_count(known_rows),
            tells_seen=seen.null_count < len(seen),
            by_group=count_by_group(named(table["group"]), **rows) if run.grouped else None,
            seen_by_group=count_by_group(named(known["group"]), **known_rows) if run.grouped else None,
            throughput=Throughput.of_part(info, table["scored_at"]),
            highlights=select(table.select(selected), run.classes, run.judged_wrong.among(table) if judged else None),
            with_series=(info.shard_id,) if is_of_series else (),
            with_failed=(info.shard_id,) if info.failed else (),
            sample=select_sample(table.select(sampled), run.images),
        )


def _count(rows: RowArrays) -> Counts:
    """The counts of rows, as those of one group."""
    return count_rows((ALL,), np.zeros(len(rows["label_N"]), np.int64), **rows)


def _arrays(run: RunValues, table: pa.Table) -> RowArrays:
    """What is counted of rows."""
    failed, none = pc.not_equal(table["status"], "ok").to_numpy(), len(run.classes)
    label_N = _indices(table["label"], run.classes, otherwise=none)
    if len(run.judged_wrong):  # also where the label that was listed names the class that a person has ruled out
        no_other = (label_N == none) | (label_N == _indices(table["predicted"], run.classes, otherwise=-1))
        label_N = np.where(no_other & run.judged_wrong.among(table), none + 1, label_N)
    return {
        "label_N": label_N,
        "reason_N": np.where(failed, _indices(table["error"], REASONS, otherwise=len(REASONS) - 1), SCORED),
        "predicted_N": _indices(table["predicted"], run.classes, otherwise=-1),  # invalid for a scored row
        "confidence_N": table["confidence"].to_numpy().astype(np.float64),
        "review_N": pc.fill_null(table["review"], False).to_numpy(),
        "probs_NK": np.stack([table[prob_column(name)] for name in run.classes], axis=1, dtype=np.float64),
    }


def _indices(column: pa.ChunkedArray, names: Sequence[str], *, otherwise: int) -> Ints:
    """The index of each value in `names`; `otherwise` for null and for other values."""
    found = pc.index_in(column, value_set=pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(found, otherwise), np.int64)


def _series_source(run: RunValues, found: _Found) -> SeriesSource:
    """The rows of which series are made."""
    counts = found.counts
    return SeriesSource(
        run_uri=run.uri,
        shards=sorted({*found.with_series, *found.with_failed}) if found.with_series else (),
        rows=counts.ok + counts.failed + counts.excluded,
        classes=run.classes,
        later=run.later,
        series_by=run.series_by,
        names=run.names if run.series_by else None,  # of headers the same comes out without names
    )


def _figures(run: RunValues, found: _Found, levels: Sequence[GroupLevel]) -> dict[str, Any]:
    """The content of summary.json."""
    counts, throughput, highlights = found.counts, found.throughput, found.highlights
    unscored = dict(zip(REASONS, counts.unscored.sum(axis=(0, 1)).tolist(), strict=True))
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": run.fingerprint,
        "classes": list(run.classes),
        **outcome_figures(counts, run.classes, seen=found.seen),
        "failures": {name: n for name, n in unscored.items() if n and name not in EXCLUSION_REASONS},
        "excluded": {name: n for name, n in unscored.items() if n and name in EXCLUSION_REASONS},
        "gone": run.gone,
        "skipped": run.skipped,
        "labels_given": run.labels_given,
        "calibration": {
            **calibration_figures(found.unseen),
            "bins": metrics.calibration_bins(found.unseen),
        },
        "drift": _drift(run, found),
        "confidence_histogram": counts.histogram.sum(axis=0).tolist(),
        "formats": dict(highlights.formats),
        **highlights.appearance.figures(),
        "review_list": review_figures(highlights),
        "throughput": throughput.figures(),
        "first_scored_at": iso(throughput.scored_at[0]) if throughput.scored_at else None,
        "last_scored_at": iso(throughput.scored_at[-1]) if throughput.scored_at else None,
        "groups": levels[-1].listed() if levels else {},
        "group_levels": [level.name for level in levels],
        "groups_above": {level.name: level.listed() for level in levels[:-1]},
    }


def _drift(run: RunValues, found: _Found) -> dict[str, float] | None:
    """How far predictions and images are from those of the model's validation, each as a PSI; None for no record."""
    predictions = metrics.drift(found.counts, run.classes, run.reference) if run.reference else None
    return {**(predictions or {}), **found.highlights.appearance.drift(run.reference_images)} or None
