"""Builds `summary/` of a run from its parts: tables, a plot, a page, and `summary.json`, which is written last.

A summary is computed from the parts and run.json only, without a clock, so a rebuilt one has the same bytes; the
thumbnails of the page are read from the archive. Parts are read a few at a time and only their counts and a bounded
selection of their rows are kept, so memory does not grow with the number of images. Must not import Ray or torch.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.config import PageOptions
from brainray.errors import EXCLUSION_REASONS, BadRequest, StorageError
from brainray.evaluation import metrics
from brainray.evaluation.counts import ALL, IS_EXCLUSION, REASONS, SCORED, Counts, Ints, count_rows, merged, total
from brainray.evaluation.plots import draw_confusion
from brainray.scoring.parts import holds_series, part_info, part_uri, present_shards
from brainray.scoring.prediction_schema import prob_column
from brainray.scoring.pseudonyms.names import KeyedNames
from brainray.scoring.run_folder import SUMMARY
from brainray.scoring.series.build import SeriesSummary, build_series
from brainray.scoring.series.rows import SeriesSource

from .group_levels import cut, named
from .highlights import Highlights, columns, select
from .maps import MapSource, delete_others
from .review import review_csv, review_figures, review_table
from .run_values import RunValues, read_run_values
from .territory import join_samples, sample_columns, select_sample, territory_figures, write_features
from .throughput import Throughput, iso
from .unseen import calibration_figures, quality_figures, unseen_of

# 1: groups had no levels, and no figure told which images the model has learned from. 2: nothing of series, nor of
# whether the archive is like what the model knows.
SCHEMA_VERSION = 3
_PREVIOUS = "previous.json"  # summary.json of the generation before, which --rescore has replaced
_PAGE = "report.html"
# Threads that read parts. Time for a million rows in 1,000 parts on a disk, 2 cores (a bucket gains from more threads):
#   threads  1      2      4      8
#   time     2.1 s  1.5 s  1.8 s  2.6 s
_THREADS = 4
_PARTS_A_TASK = 64


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A summary: `figures` is summary.json, the tables are confusion.parquet and per_class.parquet."""

    figures: dict[str, Any]
    confusion: pa.Table
    per_class: pa.Table


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
    summary = Summary(
        figures=_figures(run, found)
        | {"series": series.figures if series else None, "territory": known | {"before": features}},
        confusion=_confusion_table(found.unseen, run.classes),
        per_class=_per_class_table(found.unseen, run),
    )
    folder = storage.join(run.uri, SUMMARY)
    previous = _previous(folder, run.fingerprint)
    if previous is not None:
        writer.write_json(storage.join(folder, _PREVIOUS), previous)
    review = review_table(found.highlights)
    writer.write_parquet(storage.join(folder, "confusion.parquet"), summary.confusion)
    writer.write_parquet(storage.join(folder, "per_class.parquet"), summary.per_class)
    writer.write_parquet(storage.join(folder, "review.parquet"), review)
    writer.write_bytes(storage.join(folder, "review.csv"), review_csv(review))
    writer.write_bytes(storage.join(folder, "confusion.png"), draw_confusion(found.unseen, run.classes))
    if maps is not None:
        maps.write(run.uri, run.values, folder, found.highlights, summary.figures["failures"], writer)
    else:
        delete_others(folder, run.fingerprint, writer)
    _write_page(run, summary, found.highlights, series, previous, page, writer)
    writer.write_json(storage.join(folder, "summary.json"), summary.figures)
    return summary


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
        confusion=summary.confusion,
        per_class=summary.per_class,
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
    return Summary(
        figures=storage.read_json(storage.join(folder, "summary.json")),
        confusion=storage.read_parquet(storage.join(folder, "confusion.parquet")),
        per_class=storage.read_parquet(storage.join(folder, "per_class.parquet")),
    )


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

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """What is kept of all parts together."""
        parts = list(parts)
        return cls(
            counts=total(part.counts for part in parts),
            seen_counts=total(part.seen_counts for part in parts),
            tells_seen=any(part.tells_seen for part in parts),
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
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(lambda task: _Found.total(_read_part(run, uri) for uri in task), tasks)
        return reduce(lambda first, second: _Found.total((first, second)), sums)


def _read_part(run: RunValues, uri: str) -> _Found:
    """What is kept of one part, whose columns are read at once: it has at most 100,000 rows."""
    selected = columns(run.classes, grouped=run.grouped, later=run.later)
    sampled = sample_columns(run.classes, run.later)
    wanted = list(dict.fromkeys([*selected, *sampled, "scored_at"]))
    with storage.open_parquet(uri) as file:
        info = part_info(uri, file)
        table = file.read(columns=wanted, use_threads=False)
        is_of_series = run.series_by is not None or holds_series(file)
    try:
        if info.model != run.fingerprint:
            raise ValueError(f"it is of model {info.model}")
        seen = table["seen"] if "seen" in run.later else pa.chunked_array([pa.nulls(len(table), pa.bool_())])
        return _Found(
            counts=_count(run, table),
            seen_counts=_count(run, table, where=pc.fill_null(seen, False)),
            tells_seen=seen.null_count < len(seen),
            throughput=Throughput.of_part(info, table["scored_at"]),
            highlights=select(table.select(selected), run.classes),
            with_series=(info.shard_id,) if is_of_series else (),
            with_failed=(info.shard_id,) if info.failed else (),
            sample=select_sample(table.select(sampled), run.images),
        )
    except (KeyError, TypeError, ValueError, pa.ArrowException) as exc:
        message = f"{uri}: not a part of this run; delete it and score again ({type(exc).__name__}: {exc})"
        raise StorageError("read_failed", message) from exc


def _count(run: RunValues, table: pa.Table, *, where: pa.ChunkedArray | None = None) -> Counts:
    """The counts of the rows of a part, or of some of them."""
    groups, group_N = _groups(table["group"]) if run.grouped else ((ALL,), np.zeros(len(table), np.int64))
    if where is not None:
        table, group_N = table.filter(where), group_N[where.to_numpy()]
    failed = pc.not_equal(table["status"], "ok").to_numpy()
    return count_rows(
        groups,
        group_N,
        label_N=_indices(table["label"], run.classes, otherwise=len(run.classes)),
        reason_N=np.where(failed, _indices(table["error"], REASONS, otherwise=len(REASONS) - 1), SCORED),
        predicted_N=_indices(table["predicted"], run.classes, otherwise=-1),  # invalid for a scored row
        confidence_N=table["confidence"].to_numpy().astype(np.float64),
        review_N=pc.fill_null(table["review"], False).to_numpy(),
        probs_NK=np.stack([table[prob_column(name)] for name in run.classes], axis=1, dtype=np.float64),
    )


def _indices(column: pa.ChunkedArray, names: Sequence[str], *, otherwise: int) -> Ints:
    """The index of each value in `names`; `otherwise` for null and for other values."""
    found = pc.index_in(column, value_set=pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(found, otherwise), np.int64)


def _groups(column: pa.ChunkedArray) -> tuple[tuple[str, ...], Ints]:
    """The names of the groups in a column, and the index of each row's group among them."""
    encoded = named(column).combine_chunks().dictionary_encode()
    return tuple(encoded.dictionary.to_pylist()), np.asarray(encoded.indices, np.int64)


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


def _figures(run: RunValues, found: _Found) -> dict[str, Any]:
    """The content of summary.json."""
    counts, throughput, highlights = found.counts, found.throughput, found.highlights
    unscored = dict(zip(REASONS, counts.unscored.sum(axis=(0, 1)).tolist(), strict=True))
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": run.fingerprint,
        "classes": list(run.classes),
        **_outcome(counts, run.classes, seen=found.seen),
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
        "groups": _outcomes(counts, found.seen, run) if run.grouped else {},
        "group_levels": list(run.levels) if run.grouped else [],
        "groups_above": {
            level: _outcomes(above, found.seen and _cut(found.seen, depth), run)
            for depth, (level, above) in enumerate(_levels_above(counts, run), 1)
        },
    }


def _drift(run: RunValues, found: _Found) -> dict[str, float] | None:
    """How far predictions and images are from those of the model's validation, each as a PSI; None for no record."""
    predictions = metrics.drift(found.counts, run.classes, run.reference) if run.reference else None
    return {**(predictions or {}), **found.highlights.appearance.drift(run.reference_images)} or None


def _outcomes(counts: Counts, seen: Counts | None, run: RunValues) -> dict[str, Any]:
    """The figures of each group; `seen` are the counts of the images that the model has learned from."""
    seen_by_group = dict(seen.by_group()) if seen else {}
    return {name: _outcome(group, run.classes, seen=seen_by_group.get(name)) for name, group in counts.by_group()}


def _levels_above(counts: Counts, run: RunValues) -> list[tuple[str, Counts]]:
    """Name and counts of the levels above the last one, from the top."""
    levels = run.levels[:-1] if run.grouped else ()
    return [(level, _cut(counts, depth)) for depth, level in enumerate(levels, 1)]


def _cut(counts: Counts, depth: int) -> Counts:
    """The counts of the level above, whose groups are beginnings of these: their first `depth` parts."""
    return merged(counts, cut(pa.chunked_array([counts.groups], pa.string()), depth).to_pylist())


def _outcome(counts: Counts, classes: Sequence[str], *, seen: Counts | None) -> dict[str, Any]:
    """The figures of a whole run or of one group."""
    images = counts.ok + counts.failed + counts.excluded
    return {
        "totals": {
            "images": images,
            "ok": counts.ok,
            "failed": counts.failed,
            "excluded": counts.excluded,
            "labelled": images - counts.unlabelled,
            "unlabelled": counts.unlabelled,
            "scored_and_labelled": counts.scored_and_labelled,
        },
        "predicted": dict(zip(classes, counts.predicted.tolist(), strict=True)),
        "mean_confidence": metrics.mean_confidence(counts),
        "for_review": int(counts.review[:, 0].sum()),
        **quality_figures(counts, seen),
    }


def _confusion_table(counts: Counts, classes: Sequence[str]) -> pa.Table:
    """confusion.parquet: scored and labelled images by group, label and prediction, zeros included.

    There are no rows for all groups together, which are the sums over the groups.
    """
    G, K = len(counts.groups), len(classes)
    columns = {
        "group": np.repeat(np.array(counts.groups, object), K * K),
        "label": np.tile(np.repeat(np.array(classes, object), K), G),
        "predicted": np.tile(np.array(classes, object), G * K),
        "images": counts.confusions.reshape(-1),
    }
    kinds = {"images": pa.int64()}
    return pa.table({name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()})


def _per_class_table(counts: Counts, run: RunValues) -> pa.Table:
    """per_class.parquet: metrics of each group and class, first those of all groups together, then level by level.

    They are of scored and labelled images; `failed` counts the images of a class that could not be scored.
    """
    levels = [*_levels_above(counts, run), (run.levels[-1], counts)] if run.grouped else []
    names = [ALL, *(name for _, each in levels for name in each.groups)]
    level_of = [None, *(level for level, each in levels for _ in each.groups)]
    confusions = np.concatenate([counts.confusion[None], *(each.confusions for _, each in levels)])
    failed = [each.unscored[:, :-1, ~IS_EXCLUSION].sum(axis=2) for each in (counts, *(each for _, each in levels))]
    failed[0] = failed[0].sum(axis=0)[None]
    figures = metrics.per_class(confusions)
    columns = {
        "group": np.repeat(np.array(names, object), len(run.classes)),
        "class": np.tile(np.array(run.classes, object), len(names)),
        "support": figures.pop("support").reshape(-1),
        "failed": np.concatenate(failed).reshape(-1),
        **{name: values.reshape(-1) for name, values in figures.items()},
        "level": np.repeat(np.array(level_of, object), len(run.classes)),
    }
    kinds = {"level": pa.string()}
    return pa.table({name: pa.array(v, kinds.get(name), from_pandas=True) for name, v in columns.items()})
