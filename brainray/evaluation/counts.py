"""Counts prediction rows. Every figure of brainray is computed from these counts.

`Counts` holds integers only: the reals of each image are rounded to multiples of 2**-30 before they are added. So
figures are equal to the last digit however rows are divided into parts, and in whatever order parts are added.
Pure numpy: must not read files, nor depend on names of columns.

Axes: G groups, N rows, K classes, L = K + 1 labels (the last is "no label"), R failure reasons, B bins. Scored images
have one label more, the last: "judged wrong", where a person said that the prediction is wrong and named no class.
In a confusion matrix rows are labels, columns are predictions.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from brainray.errors import EXCLUSION_REASONS, IMAGE_REASONS

# The array types of this package.
Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

ALL = "all"  # name of the only group of a run without groups
SCORED = -1  # instead of an index into `REASONS`, for a row with a prediction
REASONS = (*IMAGE_REASONS, *EXCLUSION_REASONS, "other")  # "other": a reason unknown to this version
IS_EXCLUSION = np.isin(REASONS, EXCLUSION_REASONS)  # [R]
CALIBRATION_BINS = 15  # Guo et al., ICML 2017
# Units of a sum of reals. An image adds at most 2.0, the largest Brier score, so int64 holds four billion images.
UNITS = 2**30
_HISTOGRAM_BINS = 20  # of confidence, for drift


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Counts of some rows. `+` gives the counts of both sets of rows. The properties sum over all groups."""

    groups: tuple[str, ...]
    scored: Ints  # [G, L + 1, K] images with a prediction, by label and prediction
    unscored: Ints  # [G, L, R] images without a prediction, by label and reason
    histogram: Ints  # [G, B] scored images by confidence
    confidence: Ints  # [G] sum of the confidence of scored images, in units
    calibration: Ints  # [G, B, 3] measured images by confidence: images, correct images, confidence in units
    squared_error: Ints  # [G] sum of the Brier score of scored and labelled images, in units
    review: Ints  # [G, 3] scored images for review; of the other measured ones: images, correct images

    def __add__(self, other: "Counts") -> "Counts":
        return total((self, other))

    def without(self, others: "Counts") -> "Counts":
        """The counts of these rows less `others`, which are some of them and have the same groups."""
        return Counts(groups=self.groups, **{field: getattr(self, field) - getattr(others, field) for field in _FIELDS})

    def by_group(self) -> Iterator[tuple[str, "Counts"]]:
        """The name and the counts of each group."""
        for g, name in enumerate(self.groups):
            yield name, Counts(groups=(name,), **{field: getattr(self, field)[g : g + 1] for field in _FIELDS})

    @property
    def confusions(self) -> Ints:
        """[G, K, K] scored and labelled images; rows are labels, columns are predictions."""
        return self.scored[:, :-2]

    @property
    def confusion(self) -> Ints:
        """[K, K] scored and labelled images; rows are labels, columns are predictions."""
        return _sum(self.confusions, axis=0)

    @property
    def judged_wrong(self) -> Ints:
        """[G, K] scored images that a person judged wrong without naming a class, by prediction."""
        return self.scored[:, -1]

    @property
    def predicted(self) -> Ints:
        """[K] scored images by prediction, labelled or not."""
        return _sum(self.scored, axis=(0, 1))

    @property
    def ok(self) -> int:
        """The number of scored images."""
        return int(self.scored.sum())

    @property
    def failed(self) -> int:
        """The number of images that could not be read or decoded."""
        return int(self.unscored[..., ~IS_EXCLUSION].sum())

    @property
    def excluded(self) -> int:
        """The number of images that are whole, and none that the model knows."""
        return int(self.unscored[..., IS_EXCLUSION].sum())

    @property
    def unlabelled(self) -> int:
        """The number of images without a label, scored or not."""
        return int(self.scored[:, -2:].sum() + self.unscored[:, -1].sum())

    @property
    def scored_and_labelled(self) -> int:
        """The number of images in the confusion matrix."""
        return int(self.confusions.sum())

    @property
    def measured(self) -> int:
        """The number of images of which it is known whether their prediction is right."""
        return self.scored_and_labelled + int(self.judged_wrong.sum())


_FIELDS = tuple(name for name in Counts.__dataclass_fields__ if name != "groups")


def _sum(values: Ints, axis: int | tuple[int, ...]) -> Ints:
    return np.asarray(values.sum(axis=axis), np.int64)


def total(parts: Iterable[Counts]) -> Counts:
    """The sum of one `Counts` or more, with its groups sorted. Cheaper than `+` for many groups."""
    parts = list(parts)
    groups = tuple(sorted(set().union(*(part.groups for part in parts))))
    place = dict(zip(groups, range(len(groups)), strict=True))
    places = [[place[name] for name in part.groups] for part in parts]
    sums = {field: np.zeros((len(groups), *getattr(parts[0], field).shape[1:]), np.int64) for field in _FIELDS}
    for field, summed in sums.items():
        for part, rows in zip(parts, places, strict=True):
            summed[rows] += getattr(part, field)
    return Counts(groups=groups, **sums)


class RowArrays(TypedDict):
    """What is counted of N rows. Of a row that is not scored the last four are ignored."""

    label_N: Ints  # classes, K for no label, or K + 1 for a prediction that was judged wrong
    reason_N: Ints  # indices into `REASONS`, or `SCORED`
    predicted_N: Ints  # classes
    confidence_N: Reals  # 0 to 1
    probs_NK: Reals  # 0 to 1
    review_N: Flags


def count_rows(groups: Sequence[str], group_N: Ints, **rows: Unpack[RowArrays]) -> Counts:
    """Count N rows by group, label, prediction, confidence and reason. `group_N` are indices into `groups`.

    Raises ValueError for an index out of range and for a probability that is not finite.
    """
    shapes = {name: (len(groups), *shape) for name, shape in field_shapes(rows["probs_NK"].shape[1]).items()}
    sums = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
    for name, index, addend in additions(group_N, rows):
        sums[name] += _count_in_grid(shapes[name], *index, weights=addend)
    return Counts(groups=tuple(groups), **sums)


def field_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """The shape of each field of `Counts` for one group, in the order of the fields."""
    labels, bins = classes + 1, CALIBRATION_BINS
    shapes = ((labels + 1, classes), (labels, len(REASONS)), (_HISTOGRAM_BINS,), (), (bins, 3), (), (3,))
    return dict(zip(_FIELDS, shapes, strict=True))


def additions(group_N: Ints, rows: RowArrays) -> Iterator[tuple[str, tuple[Ints, ...], Ints | None]]:
    """What rows add to `Counts`: a field, places in it, and what is added at each; None: 1."""
    label_N, reason_N, K = rows["label_N"], rows["reason_N"], rows["probs_NK"].shape[1]
    ok, bad = reason_N == SCORED, reason_N != SCORED
    group, label, predicted = group_N[ok], label_N[ok], rows["predicted_N"][ok]
    confidence, probs = rows["confidence_N"][ok], rows["probs_NK"][ok]
    if not (np.isfinite(confidence).all() and np.isfinite(probs).all()):
        raise ValueError("a scored image has a probability that is no number")
    labelled, review = label < K, rows["review_N"][ok]
    measured, correct = labelled | (label == K + 1), label == predicted
    accepted = measured & ~review
    yield "scored", (group, label, predicted), None
    yield "unscored", (group_N[bad], np.minimum(label_N[bad], K), reason_N[bad]), None
    yield "histogram", (group, confidence_bin(confidence, _HISTOGRAM_BINS)), None
    yield "confidence", (group,), _units(confidence)
    known, place = group[measured], confidence_bin(confidence[measured], CALIBRATION_BINS)
    for k, addend in enumerate((None, correct[measured].astype(np.int64), _units(confidence[measured]))):
        yield "calibration", (known, place, np.full(len(known), k)), addend
    yield "squared_error", (group[labelled],), _units(_squared_error(label[labelled], probs[labelled]))
    for k, those in enumerate((review, accepted, accepted & correct)):
        yield "review", (group[those], np.full(np.count_nonzero(those), k)), None


def count_probabilities(label_N: Ints, probs_NK: Reals) -> Counts:
    """The counts of N scored images in one group. A label of K is none; of equal probabilities the first class wins."""
    probs = np.asarray(probs_NK, np.float64)
    zeros = np.zeros(len(probs), np.int64)
    return count_rows(
        (ALL,),
        zeros,
        label_N=label_N,
        reason_N=zeros + SCORED,
        predicted_N=probs.argmax(axis=1),
        confidence_N=probs.max(axis=1),
        probs_NK=probs,
        review_N=zeros > 0,
    )


def count_confusion(label_N: Ints, predicted_N: Ints, classes: int) -> Ints:
    """[K, K] the confusion matrix of labelled images; rows are labels, columns are predictions."""
    return _count_in_grid((classes, classes), label_N, predicted_N)


def _count_in_grid(shape: tuple[int, ...], *index_N: Ints, weights: Ints | None = None) -> Ints:
    """The number of rows at each index of `shape`, or the sum of their weights there."""
    place = np.ravel_multi_index(index_N, shape)
    if weights is None:
        return np.bincount(place, minlength=math.prod(shape)).reshape(shape).astype(np.int64)
    sums = np.zeros(math.prod(shape), np.int64)
    np.add.at(sums, place, weights)  # bincount adds weights as floats, which are exact only up to 2**53
    return sums.reshape(shape)


def _units(values: Reals) -> Ints:
    """Reals as integers, in multiples of 1 / `UNITS`."""
    return np.rint(values * UNITS).astype(np.int64)


def confidence_bin(confidence: Reals, bins: int) -> Ints:
    """The bin of each confidence: equal bins over [0, 1], closed on the left, the last also on the right."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def _squared_error(label: Ints, probs: Reals) -> Reals:
    """[N] the Brier score: the squared distance of the probabilities from the label as one-hot, 0 to 2.

    Brier, Monthly Weather Review 78 (1950).
    """
    error = 1 - 2 * probs[np.arange(len(probs)), label]
    for k in range(
        probs.shape[1]
    ):  # class by class, because the order in which `sum` adds depends on the memory layout
        error += probs[:, k] ** 2
    return error
