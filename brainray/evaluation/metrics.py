"""Counts of prediction rows -> every figure that brainray reports. Axes are those of `tally`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .counts import CALIBRATION_BINS, UNITS, Counts, Ints, Reals, count_probabilities

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution: 95 % intervals


class IntervalEstimate(NamedTuple):
    """A proportion with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: npt.ArrayLike, trials: npt.ArrayLike) -> tuple[Reals, Reals]:
    """Ends of the 95 % score interval of a proportion (Wilson, JASA 22, 1927); NaN where there are no trials."""
    k, n = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    share, weight = _ratio(k, n), _Z**2 / np.maximum(n, 1)
    centre, scale = share + weight / 2, 1 + weight
    spread = np.sqrt(weight * (share * (1 - share) + weight / 4))
    # 0 and 1 are exact ends; rounding would miss them by an ulp, and could leave [0, 1].
    low = np.where((k == 0) & (n > 0), 0.0, (centre - spread) / scale)
    high = np.where((k == n) & (n > 0), 1.0, (centre + spread) / scale)
    return low, high


def _ratio(k: npt.ArrayLike, n: npt.ArrayLike) -> Reals:
    """k / n, NaN where n is 0: undefined is never 0.0."""
    k, n = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    return np.asarray(np.divide(k, n, out=np.full(k.shape, np.nan), where=n > 0))


def per_class(confusion: Ints) -> dict[str, npt.NDArray[Any]]:
    """Columns of figures, each of shape [..., K], from confusion matrices [..., K, K]. NaN where undefined.

    F1's interval is approximate: the Wilson interval of the Jaccard index J = TP / (TP + FP + FN), taken as a
    proportion, goes through F1 = 2 J / (1 + J), which rises with J ("Wilson indirect", Lam et al., arXiv:2309.14621).
    """
    hits = confusion.diagonal(axis1=-2, axis2=-1)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    columns = {"support": support, "predicted": predicted}
    for name, trials in (("precision", predicted), ("recall", support), ("f1", support + predicted - hits)):
        ends = (_ratio(hits, trials), *wilson(hits, trials))
        values = [2 * end / (1 + end) for end in ends] if name == "f1" else ends
        columns.update(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return columns


def accuracy(tally: Counts) -> IntervalEstimate | None:
    """The share of scored and labelled images whose prediction is right; None without such images."""
    return _estimate(int(tally.confusion.trace()), tally.scored_and_labelled)


def accepted_accuracy(tally: Counts) -> IntervalEstimate | None:
    """The same of what is not for review."""
    _, images, correct = tally.review.sum(axis=0).tolist()
    return _estimate(correct, images)


def _estimate(hits: int, images: int) -> IntervalEstimate | None:
    return IntervalEstimate(hits / images, *map(float, wilson(hits, images))) if images else None


def macro_f1(tally: Counts) -> float | None:
    """The plain mean over the classes that have labelled images; None if there are none."""
    return _mean_over_supported(tally.confusion, "f1")


def balanced_accuracy(tally: Counts) -> float | None:
    """The mean recall of the classes that have labelled images; None if there are none."""
    return mean_recall(tally.confusion)


def share_right(confusion_KK: Ints) -> float | None:
    """Accuracy from a confusion matrix; None if it is empty."""
    images = int(confusion_KK.sum())
    return int(confusion_KK.trace()) / images if images else None


def mean_recall(confusion_KK: Ints) -> float | None:
    """Balanced accuracy from a confusion matrix: the mean over the classes that have images; None if there are none."""
    return _mean_over_supported(confusion_KK, "recall")


def _mean_over_supported(confusion_KK: Ints, figure: str) -> float | None:
    columns = per_class(confusion_KK)
    values = columns[figure][columns["support"] > 0]
    return math.fsum(values) / len(values) if len(values) else None


def mean_confidence(tally: Counts) -> float | None:
    return _mean(tally.confidence, tally.ok)


def _mean(units: Ints, images: int) -> float | None:
    return int(units.sum()) / UNITS / images if images else None


def brier(tally: Counts) -> float | None:
    """The mean of the multi-class Brier score over scored and labelled images: 0 is perfect, 2 the worst."""
    return _mean(tally.squared_error, tally.scored_and_labelled)


def expected_calibration_error(tally: Counts) -> float | None:
    """Naeini et al., AAAI 2015: |share correct - mean confidence| by bin, weighted with the images in it."""
    _, correct, confidence = tally.calibration.sum(axis=0).T
    return _mean(np.abs(correct * UNITS - confidence), tally.scored_and_labelled)


def calibration_bins(tally: Counts) -> list[dict[str, float | int | None]]:
    """For a reliability plot; mean confidence and share correct are None in an empty bin."""
    return [
        {
            "low": b / CALIBRATION_BINS,
            "high": (b + 1) / CALIBRATION_BINS,
            "images": images,
            "mean_confidence": confidence / UNITS / images if images else None,
            "accuracy": correct / images if images else None,
        }
        for b, (images, correct, confidence) in enumerate(tally.calibration.sum(axis=0).tolist())
    ]


def population_stability(reference: npt.ArrayLike, observed: npt.ArrayLike) -> float:
    """The population stability index of two distributions over the same cells, as counts or shares; 0 if equal.

    sum((o - r) * ln(o / r)); by custom below 0.1 is stable, above 0.25 shifted (Siddiqi, Credit Risk Scorecards, 2006).
    1e-4 is added to every share, and shares scaled back to sum 1, so that an empty cell is finite. Two samples of n
    and m like images give about (cells - 1) * (1/n + 1/m): read nothing into it below some hundred images.
    """
    counts = (np.asarray(values, np.float64) for values in (reference, observed))
    shares = (values / values.sum() + 1e-4 for values in counts)
    r, o = (values / values.sum() for values in shares)
    return math.fsum((o - r) * np.log(o / r))


def reference_distribution(probs_NK: Reals, classes: Sequence[str]) -> dict[str, Any]:
    """What a model says of images as they should be, for `drift` to compare a run with. Needs one image or more."""
    tally = count_probabilities(np.full(len(probs_NK), len(classes), np.int64), probs_NK)
    return {
        "predicted_share": dict(zip(classes, (tally.predicted / tally.ok).tolist(), strict=True)),
        "confidence_histogram": (tally.histogram[0] / tally.ok).tolist(),
    }


def drift(tally: Counts, classes: Sequence[str], reference: Mapping[str, Any]) -> dict[str, float] | None:
    """How far a run's predictions and confidences lie from the reference; None where nothing was scored."""
    if not tally.ok:
        return None
    shares = [reference["predicted_share"].get(name, 0.0) for name in classes]
    confidence = population_stability(reference["confidence_histogram"], tally.histogram.sum(axis=0))
    return {"predicted_psi": population_stability(shares, tally.predicted), "confidence_psi": confidence}
