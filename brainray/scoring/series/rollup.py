"""Whole series in, a row for each out: what its slices say, what the rule says of it, and where to look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray.evaluation.series import NO_FINDING, NOTHING, SeriesFindings, SeriesRule, judge
from brainray.scoring.prediction_schema import prob_column

from .rows import EXCLUDED, FAILED, MOST_ROWS, OK, TOLD, order_of, planes_of

_GAP = 1.5  # times the usual distance of slices: one is missing
_TOUCHING_MM = 0.01  # slices that are nearer are at one place
# Why the rule says nothing; and why it says something, or nothing.
UNDECIDED = ("too_few", "too_many_failed", "none_scored", "none_eligible", "too_large", "several_studies")
REASONS = ("finding", "no_finding", "mean", *UNDECIDED)
_FINDING, _NO_FINDING, _MEAN = range(3)
_TOO_FEW, _TOO_MANY_FAILED, _NONE_SCORED, _NONE_ELIGIBLE, _TOO_LARGE, _SEVERAL_STUDIES = range(3, len(REASONS))

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]


def series_schema(classes: Sequence[str]) -> pa.Schema:
    """The columns of `series/*.parquet`."""
    text, count, real = pa.string(), pa.int32(), pa.float32()
    return pa.schema(
        [
            pa.field("series", text, nullable=False),
            pa.field("study", text),
            pa.field("group", text),
            pa.field("label", text),
            pa.field("predicted", text),
            pa.field("reason", text, nullable=False),
            pa.field("confidence", real),
            pa.field("suspicion", real),
            pa.field("review", pa.bool_(), nullable=False),
            pa.field("uri", text, nullable=False),
            *(pa.field(name, count, nullable=False) for name in ("slices", "scored", "failed", "excluded")),
            *(pa.field(name, count, nullable=False) for name in ("finding_slices", "unsure_slices", "seen_slices")),
            *(pa.field(slices_column(name), count, nullable=False) for name in classes),
            *(pa.field(prob_column(name), real) for name in classes),
            *(pa.field(name, text) for name in TOLD if name != "scan_field_t"),
            pa.field("scan_field_t", real),
            *(pa.field(name, count, nullable=False) for name in ("doubled", "gaps", "sizes", "stray")),
        ]
    )


def slices_column(class_name: str) -> str:
    """The column with the number of slices that say a class."""
    return f"slices_{class_name}"


@dataclass(frozen=True, kw_only=True)
class Rollup:
    """Turns tables of whole series into their rows."""

    classes: tuple[str, ...]
    rule: SeriesRule = field(default_factory=SeriesRule)
    labels: Mapping[str, str] = field(default_factory=dict)  # given to series by name

    @property
    def negative(self) -> int | None:
        """The place of the class that stands for nothing found."""
        return self.classes.index(NO_FINDING) if NO_FINDING in self.classes else None

    def rows(self, table: pa.Table) -> pa.Table:
        """The rows of the series in a table of `rows.schema_of`, which is sorted by series."""
        codes = table["series"].combine_chunks().dictionary_encode()
        order, placed_S = order_of(table, codes.indices.to_numpy().astype(np.int64))
        table = table.take(pa.array(order)).combine_chunks()
        series_N = codes.indices.to_numpy().astype(np.int64)[order]
        return _SeriesTable(self, table, series_N, codes.dictionary, placed_S).rows()


class _SeriesTable:
    """The slices of some series, in order; S series, N slices."""

    def __init__(self, rollup: Rollup, table: pa.Table, series_N: Ints, names: pa.Array, placed_S: Bools) -> None:
        self._rollup, self._table, self._series_N, self._names = rollup, table, series_N, names
        self._series, self._placed_S = len(names), placed_S
        status = table["status"].to_numpy()
        self._ok_N, self._failed_N, self._excluded_N = (status == which for which in (OK, FAILED, EXCLUDED))
        self._times_N = pc.fill_null(table["times"], 1).to_numpy()
        self._position_N = table["position"].to_numpy(zero_copy_only=False).astype(np.float64)
        self._plane_N = planes_of(table)

    def rows(self) -> pa.Table:
        classes, count = self._rollup.classes, self._count
        probs_NK = self._probs()
        said_N = np.where(self._ok_N, np.nan_to_num(probs_NK).argmax(axis=1), NOTHING)
        findings, place_S = self._judged(probs_NK)
        scored_S, failed_S, excluded_S = count(self._ok_N), count(self._failed_N), count(self._excluded_N)
        predicted_S, reason_S, review_S = self._decided(findings, scored_S, failed_S)
        small_S = count() <= MOST_ROWS
        sums = np.zeros((self._series, len(classes)))
        np.add.at(sums, self._series_N[self._ok_N], probs_NK[self._ok_N])
        means = np.divide(sums, scored_S[:, None], out=np.full(sums.shape, np.nan), where=scored_S[:, None] > 0)
        means[~small_S] = np.nan
        first_S = np.searchsorted(self._series_N, np.arange(self._series))
        uris = self._table["uri"].combine_chunks()
        columns = self._told() | {
            "series": self._names,
            "label": self._labels(),
            "predicted": _names(classes, predicted_S),
            "reason": _names(REASONS, reason_S),
            "confidence": np.where(predicted_S == NOTHING, np.nan, findings.confidence_S),
            "suspicion": np.where(small_S, findings.suspicion_S, np.nan),
            "review": review_S,
            "uri": uris.take(pa.array(np.where(place_S < 0, first_S, place_S))),
            "slices": count(),
            "scored": scored_S,
            "failed": failed_S,
            "excluded": excluded_S,
            "finding_slices": findings.found_S * small_S,
            "unsure_slices": count(self._flags("review")),
            "seen_slices": count(self._flags("seen")),
            **{slices_column(name): count(said_N == k) * small_S for k, name in enumerate(classes)},
            **{prob_column(name): means[:, k] for k, name in enumerate(classes)},
            **{name: counts * small_S for name, counts in self._defects().items()},
            "stray": self._beside()[0],
        }
        schema = series_schema(classes)
        return pa.table([pa.array(columns[f.name], from_pandas=True).cast(f.type) for f in schema], schema=schema)

    def _count(self, which_N: Bools | None = None) -> Ints:
        """The number of slices of each series, or of those that something is true of."""
        which = slice(None) if which_N is None else which_N
        counts = np.bincount(self._series_N[which], weights=self._times_N[which], minlength=self._series)
        return counts.astype(np.int64)

    def _beside(self) -> tuple[Ints, Ints]:
        """Failed images that may be slices of each series; and how many slices of any series lie in their folders."""
        table = self._table.select(["folder", "stray", "beside"]).append_column("code", pa.array(self._series_N))
        folders = table.filter(table["folder"].is_valid()).group_by(["code", "folder"], use_threads=False)
        found = folders.aggregate([("stray", "max"), ("beside", "max")])
        sums = [np.bincount(found["code"], found[f"{name}_max"], self._series) for name in ("stray", "beside")]
        return sums[0].astype(np.int64), sums[1].astype(np.int64)

    def _flags(self, name: str) -> Bools:
        return np.asarray(self._table[name].to_numpy(zero_copy_only=False), bool)

    def _probs(self) -> Reals:
        columns = [self._table[prob_column(name)] for name in self._rollup.classes]
        return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1).astype(np.float64)

    def _judged(self, probs_NK: Reals) -> tuple[SeriesFindings, Ints]:
        """What the rule says by the scored slices; and the slice that shows most. Slices at one place count as one."""
        scored = np.flatnonzero(self._ok_N)
        series_N, position_N = self._series_N[scored], self._position_N[scored]
        apart = (np.diff(series_N) != 0) | (np.diff(self._plane_N[scored]) != 0) | ~self._placed_S[series_N[1:]]
        begins = np.flatnonzero(np.r_[True, apart | (np.diff(position_N) > _TOUCHING_MM)][: len(scored)])
        held = np.diff(np.r_[begins, len(scored)])
        sure_N = ~self._flags("review")[scored]
        findings = judge(
            series_N[begins],
            np.add.reduceat(probs_NK[scored], begins) / held[:, None] if len(scored) else probs_NK[scored],
            np.logical_or.reduceat(sure_N, begins) if len(scored) else sure_N,
            series=self._series,
            negative=self._rollup.negative,
            rule=self._rollup.rule,
        )
        places = np.where(findings.place_S < 0, -1, np.r_[scored[begins], -1][findings.place_S])
        return findings, places

    def _decided(self, findings: SeriesFindings, scored_S: Ints, failed_S: Ints) -> tuple[Ints, Ints, Bools]:
        """What is said of each series, why, and whether for review. Nothing is found only where nearly all was seen.

        Nothing is said, either, where too many failed in the folders of its slices, and where these are of several
        studies, as an anonymiser leaves them that has one UID for all: heads of several people would be one.
        Where too many of its own would have failed if all of the stray ones were its slices, a person should look.
        """
        negative, most = self._rollup.negative, self._rollup.rule.most_failed
        stray_S, beside_S = self._beside()
        predicted_S, lost_S = findings.predicted_S, failed_S + stray_S
        none_found_S = predicted_S == negative
        many_S = (failed_S > most * (scored_S + failed_S)) | (lost_S > most * (beside_S + stray_S)) & (stray_S > 0)
        unseen_S = none_found_S & many_S
        doubtful_S = none_found_S & (stray_S > 0) & (lost_S > most * (scored_S + lost_S))
        large_S = self._count() > MOST_ROWS
        mixed_S = (self._distinct("study") > 1) & (scored_S > 0)
        none_S = np.where(scored_S + failed_S == 0, _NONE_ELIGIBLE, np.where(scored_S == 0, _NONE_SCORED, _TOO_FEW))
        said = _MEAN if negative is None else np.where(predicted_S == negative, _NO_FINDING, _FINDING)
        reason_S = np.where(predicted_S == NOTHING, none_S, said)
        said_less = ((unseen_S, _TOO_MANY_FAILED), (mixed_S, _SEVERAL_STUDIES), (large_S, _TOO_LARGE))
        for which_S, reason in said_less:
            reason_S = np.where(which_S, reason, reason_S)
        review_S = (findings.review_S | doubtful_S | mixed_S) & ~large_S
        return np.where(unseen_S | mixed_S | large_S, NOTHING, predicted_S), reason_S, review_S

    def _labels(self) -> list[str | None]:
        """The label that was given to the series; else the one class that its labelled slices name.

        Slices without a finding belong to a series with one, too. Where slices name two findings, there is none.
        """
        classes, negative = self._rollup.classes, self._rollup.negative
        label_N = self._table["label"].to_numpy().astype(np.int64)
        named = np.stack([self._count(label_N == k) > 0 for k in range(len(classes))], axis=1)
        if negative is not None:
            named[:, negative] &= named.sum(axis=1) == 1
        of_slices = np.where(named.sum(axis=1) == 1, named.argmax(axis=1), NOTHING).tolist()
        given = self._rollup.labels
        return [
            given.get(name) or (None if k == NOTHING else classes[k])
            for name, k in zip(self._names.to_pylist(), of_slices, strict=True)
        ]

    def _told(self) -> dict[str, pa.Array]:
        """What headers tell: the first value; study and group only where all slices have the same."""
        table = self._table.append_column("code", pa.array(self._series_N))
        ends = [(name, end) for name in ("study", "group") for end in ("min", "max")]
        found = table.group_by("code", use_threads=False).aggregate([*ends, *((name, "first") for name in TOLD)])
        told = {name: found[f"{name}_first"].combine_chunks() for name in TOLD}
        for name in ("study", "group"):
            one = pc.equal(found[f"{name}_min"], found[f"{name}_max"])
            told[name] = pc.if_else(one, found[f"{name}_min"], None).combine_chunks()
        return told

    def _defects(self) -> dict[str, Ints]:
        """Slices at the place of another, places where one seems to be missing, and how many sizes pictures have."""
        steps, within = np.diff(self._position_N), (np.diff(self._series_N) == 0) & (np.diff(self._plane_N) == 0)
        within &= self._placed_S[self._series_N[1:]]
        doubled, apart = within & (steps <= _TOUCHING_MM), within & (steps > _TOUCHING_MM)
        of = self._series_N[1:]
        usual_S = _medians(of[apart], steps[apart], self._series)
        gaps = apart & (steps > _GAP * usual_S[of])
        return {
            "doubled": np.bincount(of[doubled], minlength=self._series),
            "gaps": np.bincount(of[gaps], minlength=self._series),
            "sizes": self._distinct("size"),
        }

    def _distinct(self, name: str) -> Ints:
        """How many different values the slices of each series have; null is none."""
        values = self._table.select([name]).append_column("code", pa.array(self._series_N))
        found = values.group_by("code", use_threads=False).aggregate([(name, "count_distinct")])
        return np.asarray(found[f"{name}_count_distinct"].to_numpy(), np.int64)


def _medians(of: Ints, values: Reals, series: int) -> Reals:
    """The median of the values of each series (the lower one of two); infinity without any."""
    order = np.lexsort((values, of))
    counts = np.bincount(of, minlength=series)
    ends = np.cumsum(counts)
    middle = np.minimum(ends - counts + np.maximum(counts - 1, 0) // 2, max(0, len(values) - 1))
    found = values[order][middle] if len(values) else np.zeros(series)
    return np.where(counts > 0, found, np.inf)


def _names(names: Sequence[str], places: Ints) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(places, mask=places < 0))
