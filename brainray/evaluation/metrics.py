"""The metrics that brainray reports, computed from `Counts` or confusion matrices.

A metric without data is None or NaN, never 0. Images that were judged wrong without a class count where that is enough,
as in accuracy; a metric that needs their class is None with them, as without them it would flatter. Axes are those of
`counts`. Must not read files or prediction rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .counts import CALIBRATION_BINS, UNITS, Counts, Ints, Reals, count_probabilities

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution, for 95 % intervals


class IntervalEstimate(NamedTuple):
    """A proportion with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: npt.ArrayLike, trials: npt.ArrayLike) -> tuple[Reals, Reals]:
    """Low and high end of the 95 % interval of a proportion (Wilson, JASA 22, 1927); NaN without trials."""
    k, n = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    share, weight = _ratio(k, n), _Z**2 / np.maximum(n, 1)
    centre, scale = share + weight / 2, 1 + weight
    spread = np.sqrt(weight * (share * (1 - share) + weight / 4))
    # 0 and 1 are exact ends, which rounding would miss by an ulp, maybe outside [0, 1].
    low = np.where((k == 0) & (n > 0), 0.0, (centre - spread) / scale)
    high = np.where((k == n) & (n > 0), 1.0, (centre + spread) / scale)
    return low, high


def share_of(successes: int, trials: int) -> dict[str, float] | None:
    """A proportion with the ends of its 95 % interval (`wilson`), for JSON; None without trials."""
    if not trials:
        return None
    low, high = map(float, wilson(successes, trials))
    return {"value": successes / trials, "low": low, "high": high}


def _ratio(k: npt.ArrayLike, n: npt.ArrayLike) -> Reals:
    """k / n; NaN where n is 0."""
    k, n = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    return np.asarray(np.divide(k, n, out=np.full(k.shape, np.nan), where=n > 0))


def per_class(confusion: Ints, judged_wrong: Ints | None = None) -> dict[str, npt.NDArray[Any]]:
    """Support, predictions, precision, recall and F1 with 95 % intervals, as columns [..., K]; NaN where undefined.

    `confusion` is [..., K, K]. `judged_wrong` [..., K] are images without a class whose prediction is wrong: false ones
    of it, and at the low ends of recall and F1 missed ones of each other class. The interval of F1 is approximate: the
    Wilson interval of the Jaccard index J = TP / (TP + FP + FN), taken as a proportion and mapped by
    F1 = 2 J / (1 + J), which is monotonic ("Wilson indirect", Lam et al., arXiv:2309.14621).
    """
    hits = confusion.diagonal(axis1=-2, axis2=-1)
    wrong = np.zeros_like(hits) if judged_wrong is None else judged_wrong
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2) + wrong
    missed = np.where(support > 0, wrong.sum(axis=-1, keepdims=True) - wrong, 0)  # at most
    columns = {"support": support, "predicted": predicted}
    for name, trials, more in (
        ("precision", predicted, 0),
        ("recall", support, missed),
        ("f1", support + predicted - hits, missed),
    ):
        ends = (_ratio(hits, trials), wilson(hits, trials + more)[0], wilson(hits, trials)[1])
        values = [2 * end / (1 + end) for end in ends] if name == "f1" else ends
        columns.update(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return columns


def accuracy(counts: Counts) -> IntervalEstimate | None:
    """The share of measured images that are predicted correctly; None without such images."""
    return _estimate(int(counts.confusion.trace()), counts.measured)


def accepted_accuracy(counts: Counts) -> IntervalEstimate | None:
    """The accuracy of images that are not for review; None without measured ones."""
    _, images, correct = counts.review.sum(axis=0).tolist()
    return _estimate(correct, images)


def _estimate(hits: int, images: int) -> IntervalEstimate | None:
    """hits / images with its interval by the formula of `wilson`, to the last digit; None without images.

    A run may have 200,000 groups with four of these each: numpy takes 40 times as long for one number.
    """
    if not images:
        return None
    share, weight = hits / images, _Z**2 / images
    centre, scale = share + weight / 2, 1 + weight
    spread = math.sqrt(weight * (share * (1 - share) + weight / 4))
    low = 0.0 if hits == 0 else (centre - spread) / scale
    return IntervalEstimate(share, low, 1.0 if hits == images else (centre + spread) / scale)


def macro_f1(counts: Counts) -> float | None:
    """The unweighted mean of F1 over the classes that have labelled images; None without such classes.

    None, too, where images were judged wrong without a class, of which it would know nothing.
    """
    return None if counts.judged_wrong.any() else _mean_over_supported(counts.confusion, "f1")


def balanced_accuracy(counts: Counts) -> float | None:
    """The mean recall over the classes that have labelled images; None as `macro_f1`."""
    return None if counts.judged_wrong.any() else mean_recall(counts.confusion)


def share_right(confusion_KK: Ints) -> float | None:
    """The accuracy of a confusion matrix; None for an empty one."""
    images = int(confusion_KK.sum())
    return int(confusion_KK.trace()) / images if images else None


def mean_recall(confusion_KK: Ints) -> float | None:
    """The balanced accuracy of a confusion matrix: mean recall over the classes with images; None without any."""
    return _mean_over_supported(confusion_KK, "recall")


def _mean_over_supported(confusion_KK: Ints, figure: str) -> float | None:
    """The mean of "recall" or "f1", as `per_class` has them, over the classes with images."""
    hits, support = confusion_KK.diagonal(), confusion_KK.sum(axis=1)
    known = support > 0
    others = confusion_KK.sum(axis=0) - hits if figure == "f1" else 0
    share = hits[known] / (support + others)[known]
    values = 2 * share / (1 + share) if figure == "f1" else share
    return math.fsum(values) / len(values) if len(values) else None


def mean_confidence(counts: Counts) -> float | None:
    """The mean confidence of scored images; None without any."""
    return _mean(counts.confidence, counts.ok)


def _mean(units: Ints, images: int) -> float | None:
    """The mean of a real whose sum is given in `UNITS`."""
    return int(units.sum()) / UNITS / images if images else None


def brier(counts: Counts) -> float | None:
    """The mean multi-class Brier score of scored and labelled images, from 0 (perfect) to 2; None as `macro_f1`."""
    return None if counts.judged_wrong.any() else _mean(counts.squared_error, counts.scored_and_labelled)


def expected_calibration_error(counts: Counts) -> float | None:
    """The ECE: |accuracy - mean confidence| of each bin, weighted by its images; None without images.

    Naeini et al., AAAI 2015.
    """
    _, correct, confidence = counts.calibration.sum(axis=0).T
    return _mean(np.abs(correct * UNITS - confidence), counts.measured)


def calibration_bins(counts: Counts) -> list[dict[str, float | int | None]]:
    """The bins of a reliability diagram; mean confidence and accuracy of an empty bin are None."""
    return [
        {
            "low": b / CALIBRATION_BINS,
            "high": (b + 1) / CALIBRATION_BINS,
            "images": images,
            "mean_confidence": confidence / UNITS / images if images else None,
            "accuracy": correct / images if images else None,
        }
        for b, (images, correct, confidence) in enumerate(counts.calibration.sum(axis=0).tolist())
    ]


def population_stability(reference: npt.ArrayLike, observed: npt.ArrayLike) -> float:
    """The population stability index (PSI) of two distributions over the same cells, as counts or shares; 0 if equal.

    PSI = sum((o - r) * ln(o / r)). By convention a value below 0.1 is stable and one above 0.25 shifted (Siddiqi,
    Credit Risk Scorecards, 2006). 1e-4 is added to every share and shares are scaled back to sum 1, so that an empty
    cell gives a finite value. Two samples of n and m images of one distribution give about
    (cells - 1) * (1/n + 1/m), so below some hundred images the index means nothing.
    """
    cells = (np.asarray(values, np.float64) for values in (reference, observed))
    shares = (values / values.sum() + 1e-4 for values in cells)
    r, o = (values / values.sum() for values in shares)
    return math.fsum((o - r) * np.log(o / r))


def reference_distribution(probs_NK: Reals, classes: Sequence[str]) -> dict[str, Any]:
    """The predictions of a model on its validation images, which `drift` compares a run with.

    `probs_NK` are probabilities of one image or more.
    """
    counts = count_probabilities(np.full(len(probs_NK), len(classes), np.int64), probs_NK)
    return {
        "predicted_share": dict(zip(classes, (counts.predicted / counts.ok).tolist(), strict=True)),
        "confidence_histogram": (counts.histogram[0] / counts.ok).tolist(),
    }


def drift(counts: Counts, classes: Sequence[str], reference: Mapping[str, Any]) -> dict[str, float] | None:
    """PSI of the predicted classes and of the confidences against the reference; None where nothing was scored."""
    if not counts.ok:
        return None
    shares = [reference["predicted_share"].get(name, 0.0) for name in classes]
    confidence = population_stability(reference["confidence_histogram"], counts.histogram.sum(axis=0))
    return {"predicted_psi": population_stability(shares, counts.predicted), "confidence_psi": confidence}
