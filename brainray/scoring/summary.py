"""The Parquet of a run -> `summary/`: tables, a picture, and `summary.json`, which is written last.

Everything is computed from the parts and `run.json`, with no clock: a rebuilt summary is the same to the last byte.
Parts are read a few at a time and only counts are kept, so memory does not grow with the archive. Imports neither Ray
nor torch, and matplotlib only to draw.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import BadRequest, StorageError
from brainray.evaluation import metrics
from brainray.evaluation.counts import ALL, REASONS, SCORED, Counts, Ints, count_rows, total
from brainray.evaluation.plots import draw_confusion

from .parts import PartInfo, part_info, part_uri, present_shards, prob_column
from .run_folder import RUN, check_is_run

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """When and how long workers were busy, in microseconds: integers, so that the order of parts does not matter."""

    intervals: tuple[tuple[int, int], ...]  # disjoint and sorted; pauses between runs lie outside
    stages: Mapping[str, int]
    scored_at: tuple[int, ...]  # the first and the last; nothing for no rows
    images: int = 0  # scored in those intervals
    retries: int = 0

    @classmethod
    def of_part(cls, info: PartInfo, scored_at: pa.ChunkedArray) -> Self:
        times = [(_microseconds(work.started_at), _microseconds(work.finished_at)) for work in info.work]
        stages: Counter[str] = Counter()
        for work in info.work:
            stages.update({stage: round(seconds * 1e6) for stage, seconds in work.seconds.items()})
        return cls(
            intervals=tuple((start, max(start, end)) for start, end in times),  # a clock may have been set back
            stages=stages,
            scored_at=tuple(v for v in pc.min_max(scored_at.cast(pa.int64())).as_py().values() if v is not None),
            images=sum(work.images for work in info.work),
            retries=info.retries,
        )

    @classmethod
    def total(cls, works: Sequence[Self]) -> Self:
        stages: Counter[str] = Counter()
        for work in works:
            stages.update(work.stages)
        times = [time for work in works for time in work.scored_at]
        intervals = _union(interval for work in works for interval in work.intervals)
        return cls(
            intervals=intervals,
            stages=stages,
            scored_at=(min(times), max(times)) if times else (),
            images=sum(work.images for work in works),
            retries=sum(work.retries for work in works),
        )

    def figures(self) -> dict[str, Any]:
        """`seconds` of the clock in which any worker was busy, and of all workers together by stage."""
        busy = sum(end - start for start, end in self.intervals)
        return {
            "images_per_second": self.images * 1e6 / busy if busy else None,
            "read_retries": self.retries,
            "seconds": busy / 1e6,
            "worker_seconds": {stage: self.stages[stage] / 1e6 for stage in sorted(self.stages)},
            "worker_seconds_sum": sum(self.stages.values()) / 1e6,
        }


def _microseconds(iso: str) -> int:
    return (datetime.fromisoformat(iso) - _EPOCH) // _MICROSECOND


def _union(intervals: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same time without overlaps."""
    starts, ends = np.array(sorted(intervals), np.int64).reshape(-1, 2).T
    if not len(starts):
        return ()
    reach = np.maximum.accumulate(ends)
    pause = starts[1:] > reach[:-1]
    return tuple(zip(starts[np.r_[True, pause]].tolist(), reach[np.r_[pause, True]].tolist(), strict=True))


def iso(microseconds: int) -> str:
    """A time since 1970, UTC, as ISO 8601."""
    return (_EPOCH + microseconds * _MICROSECOND).isoformat(timespec="microseconds")


SCHEMA_VERSION = 1
_FOLDER = "summary"
_NO_GROUP = "(none)"
_THREADS = 4  # a million rows in 1,000 parts, 2 cores: 1 thread 2.1 s, 2: 1.5, 4: 1.8, 8: 2.6; more help a bucket
_PARTS_A_TASK = 64


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was written: `figures` is summary.json, the tables are confusion.parquet and per_class.parquet."""

    figures: dict[str, Any]
    confusion: pa.Table
    per_class: pa.Table


@dataclass(frozen=True, kw_only=True)
class _Run:
    uri: str
    classes: tuple[str, ...]
    fingerprint: str
    grouped: bool
    gone: int
    skipped: dict[str, int]
    reference: dict[str, Any] | None


def build_summary(run_uri: str, writer: storage.Writer = storage.UNLEASED) -> Summary:
    """Read a run and write its `summary/`. Raises `StorageError` naming a part that cannot be read."""
    run = _read_run(storage.normalise(run_uri))
    tally, work = _read_parts(run)
    summary = Summary(
        figures=_figures(run, tally, work),
        confusion=_confusion_table(tally, run.classes),
        per_class=_per_class_table(tally, run),
    )
    folder = storage.join(run.uri, _FOLDER)
    writer.write_parquet(storage.join(folder, "confusion.parquet"), summary.confusion)
    writer.write_parquet(storage.join(folder, "per_class.parquet"), summary.per_class)
    writer.write_bytes(storage.join(folder, "confusion.png"), draw_confusion(tally, run.classes))
    writer.write_json(storage.join(folder, "summary.json"), summary.figures)
    return summary


def read_summary(run_uri: str) -> Summary:
    """The summary as it was last written, for a run that has not changed since. Builds it where there is none."""
    folder = storage.join(run_uri, _FOLDER)
    if not storage.exists(storage.join(folder, "summary.json")):
        return build_summary(run_uri)
    return Summary(
        figures=storage.read_json(storage.join(folder, "summary.json")),
        confusion=storage.read_parquet(storage.join(folder, "confusion.parquet")),
        per_class=storage.read_parquet(storage.join(folder, "per_class.parquet")),
    )


def _read_run(uri: str) -> _Run:
    values = check_is_run(uri)
    try:
        return _Run(
            uri=uri,
            classes=tuple(values["classes"]),
            fingerprint=values["fingerprint"],
            grouped=values.get("group_by") is not None,
            gone=values.get("gone") or 0,
            skipped=values.get("skipped") or {},
            reference=values.get("reference"),
        )
    except KeyError as exc:
        raise StorageError("read_failed", f"{storage.join(uri, RUN)}: holds no {exc}") from exc


def _read_parts(run: _Run) -> tuple[Counts, Throughput]:
    uris = [part_uri(run.uri, shard_id) for shard_id in sorted(present_shards(run.uri))]
    if not uris:
        raise BadRequest(f"{run.uri}: nothing is scored yet; run `brainray score` with it as --output")
    tasks = [uris[i : i + _PARTS_A_TASK] for i in range(0, len(uris), _PARTS_A_TASK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        read = pool.map(lambda task: _total(_read_part(run, uri) for uri in task), tasks)
        return reduce(lambda before, task: _total((before, task)), read)


def _total(read: Iterable[tuple[Counts, Throughput]]) -> tuple[Counts, Throughput]:
    tallies, works = zip(*read, strict=True)
    return total(tallies), Throughput.total(works)


def _read_part(run: _Run, uri: str) -> tuple[Counts, Throughput]:
    """A part is one shard, 100,000 rows at most: its few columns are read at once."""
    probs = [prob_column(name) for name in run.classes]
    columns = ["label", "predicted", "confidence", "review", "status", "error", "scored_at", *probs]
    columns += ["group"] if run.grouped else []
    with storage.open_parquet(uri) as file:
        info = part_info(uri, file)
        table = file.read(columns=columns, use_threads=False)
    try:
        if info.model != run.fingerprint:
            raise ValueError(f"it is of model {info.model}")
        return _count(run, table), Throughput.of_part(info, table["scored_at"])
    except (KeyError, TypeError, ValueError, pa.ArrowException) as exc:
        message = f"{uri}: not a part of this run; delete it and score again ({type(exc).__name__}: {exc})"
        raise StorageError("read_failed", message) from exc


def _count(run: _Run, table: pa.Table) -> Counts:
    groups, group_N = _groups(table["group"]) if run.grouped else ((ALL,), np.zeros(len(table), np.int64))
    failed = pc.not_equal(table["status"], "ok").to_numpy()
    return count_rows(
        groups,
        group_N,
        label_N=_indices(table["label"], run.classes, otherwise=len(run.classes)),
        reason_N=np.where(failed, _indices(table["error"], REASONS, otherwise=len(REASONS) - 1), SCORED),
        predicted_N=_indices(table["predicted"], run.classes, otherwise=-1),  # which no scored row may have
        confidence_N=table["confidence"].to_numpy().astype(np.float64),
        review_N=pc.fill_null(table["review"], False).to_numpy(),
        probs_NK=np.stack([table[prob_column(name)] for name in run.classes], axis=1, dtype=np.float64),
    )


def _indices(column: pa.ChunkedArray, names: Sequence[str], *, otherwise: int) -> Ints:
    found = pc.index_in(column, value_set=pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(found, otherwise), np.int64)


def _groups(column: pa.ChunkedArray) -> tuple[tuple[str, ...], Ints]:
    named = pc.fill_null(column, _NO_GROUP)
    named = pc.if_else(pc.equal(named, ALL), f"{ALL} (group)", named)  # "all" is the block of all groups
    encoded = named.combine_chunks().dictionary_encode()
    return tuple(encoded.dictionary.to_pylist()), np.asarray(encoded.indices, np.int64)


def _figures(run: _Run, tally: Counts, work: Throughput) -> dict[str, Any]:
    failures = zip(REASONS, tally.unscored.sum(axis=(0, 1)).tolist(), strict=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": run.fingerprint,
        "classes": list(run.classes),
        **_outcome(tally, run.classes),
        "failures": {reason: images for reason, images in failures if images},
        "gone": run.gone,
        "skipped": run.skipped,
        "calibration": {
            "ece": metrics.expected_calibration_error(tally),
            "brier": metrics.brier(tally),
            "bins": metrics.calibration_bins(tally),
        },
        "drift": metrics.drift(tally, run.classes, run.reference) if run.reference else None,
        "throughput": work.figures(),
        "first_scored_at": iso(work.scored_at[0]) if work.scored_at else None,
        "last_scored_at": iso(work.scored_at[-1]) if work.scored_at else None,
        "groups": {name: _outcome(group, run.classes) for name, group in tally.by_group()} if run.grouped else {},
    }


def _outcome(tally: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """What is said of the whole run and of each group."""
    images, accuracy, accepted = tally.ok + tally.failed, metrics.accuracy(tally), metrics.accepted_accuracy(tally)
    return {
        "totals": {
            "images": images,
            "ok": tally.ok,
            "failed": tally.failed,
            "labelled": images - tally.unlabelled,
            "unlabelled": tally.unlabelled,
            "scored_and_labelled": tally.scored_and_labelled,
        },
        "predicted": dict(zip(classes, tally.predicted.tolist(), strict=True)),
        "mean_confidence": metrics.mean_confidence(tally),
        "accuracy": accuracy and accuracy._asdict(),
        "for_review": int(tally.review[:, 0].sum()),
        "accepted_accuracy": accepted and accepted._asdict(),
        "macro_f1": metrics.macro_f1(tally),
        "balanced_accuracy": metrics.balanced_accuracy(tally),
    }


def _confusion_table(tally: Counts, classes: Sequence[str]) -> pa.Table:
    """The full grid of scored and labelled images for each group, zeros too. No block of all groups: images add up."""
    G, K = len(tally.groups), len(classes)
    columns = {
        "group": np.repeat(np.array(tally.groups, object), K * K),
        "label": np.tile(np.repeat(np.array(classes, object), K), G),
        "predicted": np.tile(np.array(classes, object), G * K),
        "images": tally.confusions.reshape(-1),
    }
    kinds = {"images": pa.int64()}
    return pa.table({name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()})


def _per_class_table(tally: Counts, run: _Run) -> pa.Table:
    """Of scored and labelled images, but for `failed`: images of the class that could not be scored."""
    names = (ALL, *tally.groups) if run.grouped else (ALL,)
    failed = tally.unscored[:, :-1].sum(axis=2)
    blocks = {
        "confusion": np.concatenate((tally.confusion[None], tally.confusions))[: len(names)],
        "failed": np.concatenate((failed.sum(axis=0)[None], failed))[: len(names)],
    }
    figures = metrics.per_class(blocks["confusion"])
    columns = {
        "group": np.repeat(np.array(names, object), len(run.classes)),
        "class": np.tile(np.array(run.classes, object), len(names)),
        "support": figures.pop("support").reshape(-1),
        "failed": blocks["failed"].reshape(-1),
        **{name: values.reshape(-1) for name, values in figures.items()},
    }
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
