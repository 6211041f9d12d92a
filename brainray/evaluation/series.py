"""From what a model says of each slice to what can be said of a series: the rule, and nothing else.

A tumour shows in neighbouring slices, a mistake of a model often in one. Shape suffixes: N scored slices, which are
sorted by series and by their order in it; S series; K classes.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NO_FINDING = "notumor"  # the class that stands for nothing found; without it a series is what its slices are on average
NOTHING = -1  # in place of a class: nothing can be said

Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SeriesRule:
    """When a series has a finding, and when it has none. `scoring/README.md` has what it was measured on."""

    neighbours: int = 3  # that many neighbouring slices must say a finding
    suspicion: float = 0.8  # probability of a finding, of whatever class, that each of them must have
    least: int = 10  # scored slices, below which nothing found means nothing: thick slices of a head are 20
    most_failed: float = 0.2  # share of failed slices, above which nothing found means nothing, either
    agreement: float = 2 / 3  # share of the slices of a finding that name its class; below, a person should look

    def to_json(self) -> dict[str, float]:
        return asdict(self)


class SeriesFindings(NamedTuple):
    """What is said of each series."""

    predicted_S: Ints  # class, or NOTHING
    confidence_S: Reals  # mean probability of that class in the slices that decide; NaN where nothing is said
    suspicion_S: Reals  # highest mean probability of a finding in neighbouring slices; NaN for too few slices
    place_S: Ints  # index of the slice that shows most of it, or is most suspicious; -1 without slices
    found_S: Ints  # slices of the findings
    review_S: Bools


def judge(
    series_N: Ints, probs_NK: Reals, sure_N: Bools, *, series: int, negative: int | None, rule: SeriesRule
) -> SeriesFindings:
    """Apply the rule. `series_N` is the place of each slice's series, ascending; `sure_N`: it needs no review itself.

    With a class for nothing found (`negative`): a finding is `rule.neighbours` neighbouring slices or more whose
    prediction is another class, each with `rule.suspicion` for all such classes together. Its class is that of the
    highest summed probability over all such slices. Without one, nothing is found where `rule.least` slices were
    scored; else nothing can be said. Without such a class, the series is of the class with the highest mean
    probability.
    """
    counts_S = np.bincount(series_N, minlength=series)
    if negative is None:
        return _by_mean(series_N, probs_NK, sure_N, counts_S, rule)
    best_N = probs_NK.argmax(axis=1)
    suspect_N = 1 - probs_NK[:, negative]
    found_N = _in_runs(series_N, (best_N != negative) & (suspect_N >= rule.suspicion), rule.neighbours)
    without = probs_NK.copy()
    without[:, negative] = 0
    class_S = _sums(series_N[found_N], without[found_N], series).argmax(axis=1)
    found_S = np.bincount(series_N[found_N], minlength=series)
    predicted_S = np.where(found_S > 0, class_S, np.where(counts_S >= rule.least, negative, NOTHING))
    suspicion_S = _highest_window(series_N, suspect_N, series, rule.neighbours)
    own_N = probs_NK[np.arange(len(probs_NK)), class_S[series_N]]
    found_confidence_S = _mean(_sums(series_N[found_N], own_N[found_N], series), found_S)
    confidence_S = np.where(found_S > 0, found_confidence_S, np.where(predicted_S == negative, 1 - suspicion_S, np.nan))
    return SeriesFindings(
        predicted_S=predicted_S,
        confidence_S=confidence_S,
        suspicion_S=suspicion_S,
        place_S=_highest_place(series_N, np.where(found_N, own_N + 1, suspect_N), series),
        found_S=found_S,
        review_S=_for_review(series_N, best_N, sure_N, found_N, class_S, found_S, negative, rule),
    )


def _for_review(
    series_N: Ints,
    best_N: Ints,
    sure_N: Bools,
    found_N: Bools,
    class_S: Ints,
    found_S: Ints,
    negative: int,
    rule: SeriesRule,
) -> Bools:
    """Where slices disagree: on the class of a finding, or one is sure of something that its neighbours do not show.

    Also a finding of which no slice is sure, and neighbouring slices that say one with too low a probability.
    """
    series = len(found_S)
    named_S = np.bincount(series_N[found_N & (best_N == class_S[series_N])], minlength=series)
    sure_S = np.bincount(series_N[found_N & sure_N], minlength=series)
    said_N = best_N != negative
    other_N = ~found_N & said_N & (sure_N | _in_runs(series_N, said_N, rule.neighbours))
    other_S = np.bincount(series_N[other_N], minlength=series)
    disagree_S = (named_S < rule.agreement * found_S) | (sure_S == 0)
    return np.where(found_S > 0, disagree_S, other_S > 0)


def _by_mean(series_N: Ints, probs_NK: Reals, sure_N: Bools, counts_S: Ints, rule: SeriesRule) -> SeriesFindings:
    series = len(counts_S)
    mean_SK = _mean(_sums(series_N, probs_NK, series), counts_S[:, None])
    enough_S = counts_S >= rule.neighbours
    class_S = np.nan_to_num(mean_SK).argmax(axis=1)
    named_N = probs_NK.argmax(axis=1) == class_S[series_N]
    named_S, sure_S = (np.bincount(series_N[of], minlength=series) for of in (named_N, named_N & sure_N))
    return SeriesFindings(
        predicted_S=np.where(enough_S, class_S, NOTHING),
        confidence_S=np.where(enough_S, mean_SK[np.arange(series), class_S], np.nan),
        suspicion_S=np.full(series, np.nan),
        place_S=_highest_place(series_N, probs_NK[np.arange(len(probs_NK)), class_S[series_N]], series),
        found_S=named_S,
        review_S=enough_S & ((named_S < rule.agreement * counts_S) | (sure_S == 0)),
    )


def _in_runs(series_N: Ints, said_N: Bools, least: int) -> Bools:
    """Whether a slice is one of `least` or more in a row that say something."""
    begins = np.flatnonzero(np.r_[True, (said_N[1:] != said_N[:-1]) | (series_N[1:] != series_N[:-1])][: len(said_N)])
    lengths = np.diff(np.r_[begins, len(said_N)])
    return np.asarray(said_N & np.repeat(lengths >= least, lengths))


def _highest_window(series_N: Ints, values_N: Reals, series: int, width: int) -> Reals:
    """The highest mean of `width` neighbouring values of each series; NaN where it has fewer."""
    highest = np.full(series, -np.inf)
    if len(values_N) >= width:
        means = np.lib.stride_tricks.sliding_window_view(values_N, width).mean(axis=1)
        within = series_N[: len(means)] == series_N[width - 1 :]
        np.maximum.at(highest, series_N[: len(means)][within], means[within])
    return np.where(np.isneginf(highest), np.nan, highest)


def _highest_place(series_N: Ints, values_N: Reals, series: int) -> Ints:
    """The index of the first highest value of each series; -1 where it has none."""
    place = np.full(series, -1, np.int64)
    order = np.lexsort((-np.arange(len(values_N)), values_N, series_N))  # the last one of a series is written last
    place[series_N[order]] = order
    return place


def _sums(series_N: Ints, values: Reals, series: int) -> Reals:
    sums = np.zeros((series, *values.shape[1:]))
    np.add.at(sums, series_N, values)
    return sums


def _mean(sums: Reals, counts: Ints) -> Reals:
    return np.asarray(
        np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=np.broadcast_to(counts > 0, sums.shape))
    )
