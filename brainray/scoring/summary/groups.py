"""The groups of a run: summary.json lists a bounded number of each level, and `groups.parquet` has a row for each.

A run may have hundreds of thousands. Figures are computed a few thousand groups at a time, in columns.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa

from brainray.evaluation import metrics
from brainray.evaluation.counts import IS_EXCLUSION, UNITS, Counts, Ints, Reals
from brainray.evaluation.group_counts import GroupCounts

from .group_levels import cut
from .outcome import outcome_figures

MOST_LISTED = 1_000  # groups of a level in summary.json: 1.3 kB each with four classes
_WORST = MOST_LISTED // 2  # of them, where there are more; the others are the largest
_WORST_UNSCORED = MOST_LISTED // 10  # of the worst: more without a scored image tell nothing new
_Columns = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class GroupLevel:
    """The groups of one level, by name."""

    name: str
    counts: GroupCounts
    unseen: GroupCounts  # of the images that accuracy and the like are of; it has the same groups
    tells_seen: bool  # whether rows say which images the model has learned from
    classes: tuple[str, ...]

    @property
    def number(self) -> int:
        return len(self.counts.names)

    @cached_property
    def worst_first(self) -> Ints:
        """[G] the places of the groups, those first of which the most that is known is bad; see `_badness`."""
        nothing, best, images, _ = self._keys
        return np.lexsort((np.arange(self.number), -images, best, nothing))

    @cached_property
    def _keys(self) -> tuple[Reals, Reals, Ints, Ints]:
        """[G] what groups are sorted by and listed by, see `_badness`, of all groups in one pass."""
        chunks = [_badness(*self._counts(groups)) for groups in self.counts.chunks()]
        empty: tuple[Reals, Reals, Ints, Ints] = (*np.zeros((2, 0)), *np.zeros((2, 0), np.int64))
        nothing, best, images, ok = (np.concatenate(column) for column in zip(empty, *chunks, strict=True))
        return nothing, best, images, ok

    def listed(self) -> dict[str, Any]:
        """The figures of groups for summary.json, by name: of all, or of the worst and the largest.

        Of the worst at most a tenth of all are groups without a scored image, which say nothing of the model.
        """
        figures = {}
        for groups in self.counts.chunks(self._listed()):
            counts, unseen = self._counts(groups)
            seen = dict(counts.without(unseen).by_group()) if self.tells_seen else {}
            for name, group in counts.by_group():
                figures[name] = outcome_figures(group, self.classes, seen=seen.get(name))
        return figures

    @property
    def unscored(self) -> int:
        """The number of groups without a scored image."""
        *_, ok = self._keys
        return int((ok == 0).sum())

    def _listed(self) -> Ints:
        if self.number <= MOST_LISTED:
            return np.arange(self.number)
        *_, images, ok = self._keys
        scored = ok[self.worst_first] > 0
        unscored = self.worst_first[~scored][:_WORST_UNSCORED]
        worst = np.concatenate([unscored, self.worst_first[scored][: _WORST - len(unscored)]])
        largest = np.argsort(np.where(np.isin(np.arange(self.number), worst), 1, -images), kind="stable")
        return np.sort(np.concatenate([worst, largest[: MOST_LISTED - len(worst)]]))

    def tables(self) -> Iterator[pa.Table]:
        """The rows of groups.parquet, worst first."""
        start = 1
        for groups in self.counts.chunks(self.worst_first):
            yield self._table(groups, start)
            start += len(groups)

    def _table(self, groups: Ints, start: int) -> pa.Table:
        counts, unseen = self._counts(groups)
        schema = groups_schema(self.classes)
        predicted = counts.scored.sum(axis=1).T
        columns = {
            "level": pa.repeat(self.name, len(groups)),
            "place": np.arange(start, start + len(groups)),
            "group": self.counts.names.take(pa.array(groups)),
            **_images(counts, unseen),
            **_certainty(counts, unseen),
            **_quality(unseen),
            "learned_from": counts.without(unseen).scored.sum(axis=(1, 2)) if self.tells_seen else None,
            **{f"predicted_{name}": n for name, n in zip(self.classes, predicted, strict=True)},
        }
        return pa.table(
            {field.name: _array(columns[field.name], field.type, len(groups)) for field in schema}, schema=schema
        )

    def _counts(self, groups: Ints) -> tuple[Counts, Counts]:
        return self.counts.take(groups), self.unseen.take(groups)

    def above(self, name: str, depth: int) -> Self:
        """The level above whose groups are the first `depth` parts of these."""
        names = cut(pa.chunked_array([self.counts.names]), depth)
        return type(self)(
            name=name,
            counts=self.counts.renamed(names),
            unseen=self.unseen.renamed(names),
            tells_seen=self.tells_seen,
            classes=self.classes,
        )


def levels_of(
    names: Sequence[str], counts: GroupCounts, seen: GroupCounts | None, classes: tuple[str, ...]
) -> list[GroupLevel]:
    """The levels of a run, from the top; `counts` are those of the last one."""
    unseen = counts if seen is None else counts.without(seen)
    last = GroupLevel(name=names[-1], counts=counts, unseen=unseen, tells_seen=seen is not None, classes=classes)
    return [*(last.above(name, depth) for depth, name in enumerate(names[:-1], 1)), last]


def groups_schema(classes: Sequence[str]) -> pa.Schema:
    """Of groups.parquet. `place` counts from the worst group of a level, 1; what is undefined is null."""
    counted = ("images", "ok", "failed", "excluded", "labelled", "unlabelled", "for_review", "measured", "judged_wrong")
    shares = [f"{name}{end}" for name in ("accuracy", "accepted_accuracy") for end in ("", "_low", "_high")]
    fields: dict[str, pa.DataType] = {"level": pa.string(), "place": pa.int64(), "group": pa.string()}
    fields |= dict.fromkeys(counted, pa.int64())
    fields |= dict.fromkeys([*shares, "macro_f1", "balanced_accuracy", "mean_confidence"], pa.float64())
    fields |= dict.fromkeys(["learned_from", *(f"predicted_{name}" for name in classes)], pa.int64())
    return pa.schema(fields)


def _array(values: Any, kind: pa.DataType, rows: int) -> pa.Array:  # noqa: ANN401  arrays of both libraries
    return pa.nulls(rows, kind) if values is None else pa.array(values, kind, from_pandas=True)


def _images(counts: Counts, unseen: Counts) -> _Columns:
    """What became of the images of each group."""
    ok = counts.scored.sum(axis=(1, 2))
    excluded = counts.unscored[..., IS_EXCLUSION].sum(axis=(1, 2))
    failed = counts.unscored[..., ~IS_EXCLUSION].sum(axis=(1, 2))
    unlabelled = counts.scored[:, -2:].sum(axis=(1, 2)) + counts.unscored[:, -1].sum(axis=1)
    images = ok + failed + excluded
    return {
        "images": images,
        "ok": ok,
        "failed": failed,
        "excluded": excluded,
        "labelled": images - unlabelled,
        "unlabelled": unlabelled,
        "for_review": counts.review[:, 0],
        "measured": _measured(unseen),
        "judged_wrong": unseen.judged_wrong.sum(axis=1),
    }


def _certainty(counts: Counts, unseen: Counts) -> _Columns:
    """Accuracy and confidence of each group, to the digit that `metrics` gives for one; NaN where undefined."""
    return {
        **_share("accuracy", np.trace(unseen.confusions, axis1=1, axis2=2), _measured(unseen)),
        "mean_confidence": _ratio(counts.confidence / UNITS, counts.scored.sum(axis=(1, 2))),
    }


def _measured(unseen: Counts) -> Ints:
    """[G] the images of which it is known whether their prediction is right."""
    return np.asarray(unseen.confusions.sum(axis=(1, 2)) + unseen.judged_wrong.sum(axis=1), np.int64)


def _quality(unseen: Counts) -> _Columns:
    """How else the model is right in each group; as `_certainty`."""
    _, accepted, accepted_right = unseen.review.T
    figures = metrics.per_class(unseen.confusions)
    support = np.where(unseen.judged_wrong.any(axis=1, keepdims=True), 0, figures["support"])  # see `metrics.macro_f1`
    return {
        **_share("accepted_accuracy", accepted_right, accepted),
        "macro_f1": _mean_over_supported(figures["f1"], support),
        "balanced_accuracy": _mean_over_supported(figures["recall"], support),
    }


def _share(name: str, hits: Ints, images: Ints) -> _Columns:
    low, high = metrics.wilson(hits, images)
    return {name: _ratio(hits, images), f"{name}_low": low, f"{name}_high": high}


def _ratio(k: Ints | Reals, n: Ints) -> Reals:
    return np.asarray(np.divide(k, n, out=np.full(len(n), np.nan), where=n > 0))


def _mean_over_supported(values: Reals, support: Ints) -> Reals:
    """[G] the mean of [G, K] figures over the classes with images; the sum is exact, as that of `metrics`."""
    known = support > 0
    sums = np.fromiter(map(math.fsum, np.where(known, values, 0.0).tolist()), np.float64, len(values))
    return _ratio(sums, known.sum(axis=1))


def _badness(counts: Counts, unseen: Counts) -> tuple[Reals, Reals, Ints, Ints]:
    """What groups are sorted by: first those in which nothing could be scored, then by the most that accuracy may be.

    Last those whose images are all excluded: nothing is wrong with them. Then the larger ones, by their images, which
    come third; then by name. Fourth come the images that were scored.
    """
    images, certainty = _images(counts, unseen), _certainty(counts, unseen)
    nothing = np.where((images["ok"] > 0) | (images["images"] == 0), 1.0, np.where(images["failed"] > 0, 0.0, 2.0))
    confidence = np.nan_to_num(certainty["mean_confidence"])
    best = np.where(images["measured"] > 0, certainty["accuracy_high"], confidence)
    return nothing, best, images["images"], images["ok"]
