"""Prediction rows -> counts, from which every figure is computed. Pure numpy: opens nothing, knows no column names.

A `Tally` holds integers only; reals are rounded to units of 2**-30 image by image, before they are added. So figures
agree to the last digit however rows are cut into parts and in whatever order the parts are added.

Axes: G groups, N rows, K classes, L = K + 1 labels (the last is "no label"), R failure reasons, B bins.
In a confusion matrix rows are truth, columns are prediction.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainray.errors import IMAGE_REASONS

Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
ALL = "all"  # the one group where images are not grouped
SCORED = -1  # the reason of a row that has a prediction
REASONS = (*IMAGE_REASONS, "other")  # "other": a reason this version does not know
HISTOGRAM_BINS = 20  # of confidence, for drift
CALIBRATION_BINS = 15  # Guo et al., ICML 2017
UNITS = 2**30  # an image adds at most 2.0, the largest Brier score: int64 has room for four billion images


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """What was counted in some rows; `+` gives what would have been counted in both. Properties span all groups."""

    groups: tuple[str, ...]
    scored: Ints  # [G, L, K]: images with a prediction, by label and prediction
    unscored: Ints  # [G, L, R]: images without, by label and reason
    histogram: Ints  # [G, B]: the scored by confidence
    confidence: Ints  # [G]: units, summed over the scored
    calibration: Ints  # [G, B, 3], of scored and labelled images by confidence: images, correct ones, units
    squared_error: Ints  # [G]: units of Brier score, summed over the scored and labelled
    review: Ints  # [G, 3]: the scored that are for review; of the others that have a label: images, correct ones

    def __add__(self, other: "Counts") -> "Counts":
        return total((self, other))

    def by_group(self) -> Iterator[tuple[str, "Counts"]]:
        for g, name in enumerate(self.groups):
            yield name, Counts(groups=(name,), **{field: getattr(self, field)[g : g + 1] for field in _COUNTS})

    @property
    def confusions(self) -> Ints:
        """[G, K, K] of scored and labelled images; rows are truth, columns are prediction."""
        return self.scored[:, :-1]

    @property
    def confusion(self) -> Ints:
        return _sum(self.confusions, axis=0)

    @property
    def predicted(self) -> Ints:
        """[K]: scored images by prediction, labelled or not."""
        return _sum(self.scored, axis=(0, 1))

    @property
    def ok(self) -> int:
        return int(self.scored.sum())

    @property
    def failed(self) -> int:
        return int(self.unscored.sum())

    @property
    def unlabelled(self) -> int:
        return int(self.scored[:, -1].sum() + self.unscored[:, -1].sum())

    @property
    def scored_and_labelled(self) -> int:
        return int(self.confusions.sum())


_COUNTS = tuple(name for name in Counts.__dataclass_fields__ if name != "groups")


def _sum(counts: Ints, axis: int | tuple[int, ...]) -> Ints:
    return np.asarray(counts.sum(axis=axis), np.int64)


def total(tallies: Iterable[Counts]) -> Counts:
    """The sum of one tally or more; groups come out sorted. Cheaper than `+` where there are many groups."""
    parts = list(tallies)
    groups = tuple(sorted(set().union(*(part.groups for part in parts))))
    place = dict(zip(groups, range(len(groups)), strict=True))
    places = [[place[name] for name in part.groups] for part in parts]
    sums = {field: np.zeros((len(groups), *getattr(parts[0], field).shape[1:]), np.int64) for field in _COUNTS}
    for field, counts in sums.items():
        for part, where in zip(parts, places, strict=True):
            counts[where] += getattr(part, field)
    return Counts(groups=groups, **sums)


def count_rows(
    groups: Sequence[str],
    group_N: Ints,
    label_N: Ints,
    reason_N: Ints,
    *,
    predicted_N: Ints,
    confidence_N: Reals,
    probs_NK: Reals,
    review_N: npt.NDArray[np.bool_],
) -> Counts:
    """Integers are indices: labels of classes or K for none, reasons of `REASONS` or `SCORED`.

    The last four are ignored where a row failed. Raises ValueError for an index out of range and a number not finite.
    """
    G, K = len(groups), probs_NK.shape[1]
    ok, bad = reason_N == SCORED, reason_N != SCORED
    group, label, predicted = group_N[ok], label_N[ok], predicted_N[ok]
    confidence, probs = confidence_N[ok], probs_NK[ok]
    if not (np.isfinite(confidence).all() and np.isfinite(probs).all()):
        raise ValueError("a scored image has a probability that is no number")
    known, review = label < K, review_N[ok]
    correct, accepted = label == predicted, known & ~review
    return Counts(
        groups=tuple(groups),
        scored=_grid((G, K + 1, K), group, label, predicted),
        unscored=_grid((G, K + 1, len(REASONS)), group_N[bad], label_N[bad], reason_N[bad]),
        histogram=_grid((G, HISTOGRAM_BINS), group, _bin(confidence, HISTOGRAM_BINS)),
        confidence=_grid((G,), group, weights=_units(confidence)),
        calibration=_calibration(G, group[known], correct[known], confidence[known]),
        squared_error=_grid((G,), group[known], weights=_units(_squared_error(label[known], probs[known]))),
        review=np.stack([_grid((G,), group[which]) for which in (review, accepted, accepted & correct)], axis=1),
    )


def count_probabilities(label_N: Ints, probs_NK: Reals) -> Counts:
    """The tally of scored images in one group. A label of K is none; of equal classes the first is predicted."""
    probs = np.asarray(probs_NK, np.float64)
    zeros = np.zeros(len(probs), np.int64)
    scores = {"predicted_N": probs.argmax(axis=1), "confidence_N": probs.max(axis=1), "probs_NK": probs}
    return count_rows((ALL,), zeros, label_N, zeros + SCORED, review_N=zeros > 0, **scores)


def count_confusion(label_N: Ints, predicted_N: Ints, classes: int) -> Ints:
    """[K, K] of images that all have a label; rows are truth, columns are prediction."""
    return _grid((classes, classes), label_N, predicted_N)


def _grid(shape: tuple[int, ...], *index_N: Ints, weights: Ints | None = None) -> Ints:
    """Rows counted, or their weights added, by their place in `shape`."""
    place = np.ravel_multi_index(index_N, shape)
    if weights is None:
        return np.bincount(place, minlength=math.prod(shape)).reshape(shape).astype(np.int64)
    sums = np.zeros(math.prod(shape), np.int64)
    np.add.at(sums, place, weights)  # bincount would add them as floats, which are exact only up to 2**53
    return sums.reshape(shape)


def _units(values: Reals) -> Ints:
    return np.rint(values * UNITS).astype(np.int64)


def _bin(confidence: Reals, bins: int) -> Ints:
    """Equal bins over [0, 1], closed on the left; the last is closed on both sides."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def _calibration(G: int, group: Ints, correct: npt.NDArray[np.bool_], confidence: Reals) -> Ints:
    shape, place = (G, CALIBRATION_BINS), _bin(confidence, CALIBRATION_BINS)
    values = (None, correct.astype(np.int64), _units(confidence))
    return np.stack([_grid(shape, group, place, weights=weights) for weights in values], axis=-1)


def _squared_error(label: Ints, probs: Reals) -> Reals:
    """Brier, Monthly Weather Review 78 (1950): the squared distance of the probabilities from the truth, 0 to 2."""
    error = 1 - 2 * probs[np.arange(len(probs)), label]
    for k in range(probs.shape[1]):  # class by class: `sum` would pick its order by the layout of the array
        error += probs[:, k] ** 2
    return error
