"""Whole series in, a row for each out: what its slices say, what the rule says of it, and where to look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray.evaluation.series import NO_FINDING, NOTHING, SeriesFindings, SeriesRule, judge
from brainray.scoring.prediction_schema import prob_column

from .rows import EXCLUDED, FAILED, OK, TOLD, order_of

_GAP = 1.5  # times the usual distance of slices: one is missing
_TOUCHING_MM = 0.01  # slices that are nearer are at one place
# Why the rule says something, or nothing.
REASONS = ("finding", "no_finding", "mean", "too_few", "too_many_failed", "none_scored", "none_eligible")
_FINDING, _NO_FINDING, _MEAN, _TOO_FEW, _TOO_MANY_FAILED, _NONE_SCORED, _NONE_ELIGIBLE = range(len(REASONS))

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
            *(pa.field(name, count, nullable=False) for name in ("doubled", "gaps", "sizes")),
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
        self._position_N = table["position"].to_numpy(zero_copy_only=False).astype(np.float64)

    def rows(self) -> pa.Table:
        classes, count = self._rollup.classes, self._count
        probs_NK = self._probs()
        said_N = np.where(self._ok_N, np.nan_to_num(probs_NK).argmax(axis=1), NOTHING)
        findings, place_S = self._judged(probs_NK)
        scored_S, failed_S, excluded_S = count(self._ok_N), count(self._failed_N), count(self._excluded_N)
        predicted_S, reason_S = self._decided(findings, scored_S, failed_S, excluded_S)
        sums = np.zeros((self._series, len(classes)))
        np.add.at(sums, self._series_N[self._ok_N], probs_NK[self._ok_N])
        means = np.divide(sums, scored_S[:, None], out=np.full(sums.shape, np.nan), where=scored_S[:, None] > 0)
        first_S = np.searchsorted(self._series_N, np.arange(self._series))
        uris = self._table["uri"].combine_chunks()
        columns = self._told() | {
            "series": self._names,
            "label": self._labels(),
            "predicted": _names(classes, predicted_S),
            "reason": _names(REASONS, reason_S),
            "confidence": np.where(predicted_S == NOTHING, np.nan, findings.confidence_S),
            "suspicion": findings.suspicion_S,
            "review": findings.review_S,
            "uri": uris.take(pa.array(np.where(place_S < 0, first_S, place_S))),
            "slices": count(),
            "scored": scored_S,
            "failed": failed_S,
            "excluded": excluded_S,
            "finding_slices": findings.found_S,
            "unsure_slices": count(self._flags("review")),
            "seen_slices": count(self._flags("seen")),
            **{slices_column(name): count(said_N == k) for k, name in enumerate(classes)},
            **{prob_column(name): means[:, k] for k, name in enumerate(classes)},
            **self._defects(),
        }
        schema = series_schema(classes)
        return pa.table([pa.array(columns[f.name], from_pandas=True).cast(f.type) for f in schema], schema=schema)

    def _count(self, which_N: Bools | None = None) -> Ints:
        """The number of slices of each series, or of those that something is true of."""
        return np.bincount(self._series_N if which_N is None else self._series_N[which_N], minlength=self._series)

    def _flags(self, name: str) -> Bools:
        return np.asarray(self._table[name].to_numpy(zero_copy_only=False), bool)

    def _probs(self) -> Reals:
        columns = [self._table[prob_column(name)] for name in self._rollup.classes]
        return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1).astype(np.float64)

    def _judged(self, probs_NK: Reals) -> tuple[SeriesFindings, Ints]:
        """What the rule says by the scored slices; and the slice that shows most. Slices at one place count as one."""
        scored = np.flatnonzero(self._ok_N)
        series_N, position_N = self._series_N[scored], self._position_N[scored]
        apart = (np.diff(series_N) != 0) | ~self._placed_S[series_N[1:]]
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

    def _decided(self, findings: SeriesFindings, scored_S: Ints, failed_S: Ints, excluded_S: Ints) -> tuple[Ints, Ints]:
        """What is said of each series, and why. Nothing is found only where nearly all was looked at."""
        negative, rule = self._rollup.negative, self._rollup.rule
        predicted_S = findings.predicted_S
        unseen_S = (predicted_S == negative) & (failed_S > rule.most_failed * (scored_S + failed_S))
        none_S = np.where(scored_S + failed_S == 0, _NONE_ELIGIBLE, np.where(scored_S == 0, _NONE_SCORED, _TOO_FEW))
        said = _MEAN if negative is None else np.where(predicted_S == negative, _NO_FINDING, _FINDING)
        reason_S = np.where(predicted_S == NOTHING, none_S, said)
        return np.where(unseen_S, NOTHING, predicted_S), np.where(unseen_S, _TOO_MANY_FAILED, reason_S)

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
        """Study, group and what headers tell: the first value; a group only where all slices have the same."""
        table = self._table.append_column("code", pa.array(self._series_N))
        wanted = [("study", "first"), ("group", "min"), ("group", "max"), *((name, "first") for name in TOLD)]
        found = table.group_by("code", use_threads=False).aggregate(wanted)
        one = pc.equal(found["group_min"], found["group_max"])
        told = {name: found[f"{name}_first"].combine_chunks() for name in ("study", *TOLD)}
        return told | {"group": pc.if_else(one, found["group_min"], None).combine_chunks()}

    def _defects(self) -> dict[str, Ints]:
        """Slices at the place of another, places where one seems to be missing, and how many sizes pictures have."""
        steps, within = np.diff(self._position_N), np.diff(self._series_N) == 0
        within &= self._placed_S[self._series_N[1:]]
        doubled, apart = within & (steps <= _TOUCHING_MM), within & (steps > _TOUCHING_MM)
        of = self._series_N[1:]
        usual_S = _medians(of[apart], steps[apart], self._series)
        gaps = apart & (steps > _GAP * usual_S[of])
        sized = self._table.select(["size"]).append_column("code", pa.array(self._series_N))
        sizes = sized.group_by("code", use_threads=False).aggregate([("size", "count_distinct")])
        return {
            "doubled": np.bincount(of[doubled], minlength=self._series),
            "gaps": np.bincount(of[gaps], minlength=self._series),
            "sizes": sizes["size_count_distinct"].to_numpy(),
        }


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
