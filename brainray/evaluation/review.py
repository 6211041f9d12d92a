"""The confidence below which a person reviews a prediction, chosen so that accepted ones keep a promise.

The promise is about new patients: it is the lower end of an interval by patients, not the accuracy on those at hand.
Axes: N images, K classes, U units (patients, or single images without one), M thresholds, R resamples. Must not read
files.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .calibration import AnyReals, Labels, fit_temperature, softmax
from .clusters import bootstrap, resample
from .counts import Flags, Ints, Reals
from .metrics import wilson

# Least accuracy among accepted images that is promised: the first that the images can show. 98 % is what a person who
# checks a sample of accepted images may expect; few patients cannot show it, and a model that promises less, and says
# so, serves better than one whose every prediction must be reviewed. Below 90 % a mark would promise nothing.
PROMISES = (0.98, 0.95, 0.9)
# Share of the images that a promise must leave to the model; a lower promise is of more use than one for a few images.
_LEAST_ACCEPTED = 0.5
_ACCEPTS_NOTHING = 1.01  # a threshold above every confidence; of 1.0 itself there are some, by rounding
_MOST_THRESHOLDS = 200  # that are tried: one for each 0.5 % of the images
_LOW_END = 0.025  # of a two-sided interval of 95 %
# Units, all wrong and of mean size, that are added for patients not met yet, like the half trial of Jeffreys' interval.
# Without it few errors, of one patient, give too narrow an interval. In simulations of 377 to 1,000 patients of unequal
# size, most errors those of 3 to 8 % of them, 98 % was kept on new patients by 83 to 98 % of the thresholds; by 67 to
# 92 % without this half, and by 63 to 90 % of those chosen by pictures.
_UNMET_UNITS = 0.5


class Review(NamedTuple):
    """The threshold of confidence below which an image is for review, and its effect."""

    below: float  # images with a lower confidence are for review
    promise: float | None  # one of `PROMISES`, which `right_low` keeps; None: every image is for review
    accepted: float  # share of accepted images, of those the threshold was chosen on
    right: float | None  # accuracy of accepted images; None without any
    right_low: float | None  # lower end of its 95 % interval; None without accepted images
    # The same when each fold is judged by the temperature and threshold of the others; None for a single fold.
    accepted_unseen: float | None = None
    right_unseen: float | None = None
    right_unseen_low: float | None = None
    right_unseen_high: float | None = None


class Calibrated(NamedTuple):
    """The temperature and threshold of a model, and what each image gets from those of the other folds."""

    temperature: float  # of all images
    review: Review  # its threshold is for probabilities at `temperature`
    probs_NK: npt.NDArray[np.float64]  # at the temperature of the other folds; of all images where there is one fold


def calibrate_review(
    logits_NK: AnyReals,
    labels_N: Labels,
    *,
    fold_N: Ints,
    unit_N: Ints | None = None,
    class_bias: tuple[float, ...] = (),
) -> Calibrated:
    """Fit temperature and threshold to all images, and measure them by cross-validation over folds.

    `unit_N` are any numbers, equal for images of one patient, none of which lies in two folds; None: no image has one.
    """
    temperature = fit_temperature(logits_NK, labels_N)
    probs_NK, confidence_N, right_N = _judge(logits_NK, labels_N, temperature, class_bias)
    review, folds = choose_review(confidence_N, right_N, unit_N), np.unique(fold_N)
    if len(folds) < 2:
        return Calibrated(temperature, review, probs_NK)
    accepted_N, promises = np.zeros(len(fold_N), bool), () if review.promise is None else (review.promise,)
    for fold in folds:
        own_N, other_N = fold_N == fold, fold_N != fold
        others = fit_temperature(logits_NK[other_N], labels_N[other_N])
        by_others_NK, confidence_N, right_N = _judge(logits_NK, labels_N, others, class_bias)
        units = None if unit_N is None else unit_N[other_N]
        chosen = choose_review(confidence_N[other_N], right_N[other_N], units, promises=promises)
        probs_NK[own_N], accepted_N[own_N] = by_others_NK[own_N], confidence_N[own_N] >= chosen.below
    right_N = probs_NK.argmax(axis=1) == labels_N
    return Calibrated(temperature, _with_unseen(review, accepted_N, right_N, unit_N), probs_NK)


def withhold(logits_NK: AnyReals, labels_N: Labels, *, class_bias: tuple[float, ...] = ()) -> Calibrated:
    """What a model gets that was measured on images which it may know by heart: no promise, and all is for review.

    The temperature is 1 or more, so that what is known by heart makes the model no surer of other images.
    """
    temperature = max(1.0, fit_temperature(logits_NK, labels_N))
    review = Review(below=_ACCEPTS_NOTHING, promise=None, accepted=0.0, right=None, right_low=None)
    return Calibrated(temperature, review, softmax(logits_NK, temperature, class_bias))


def _judge(
    logits_NK: AnyReals, labels_N: Labels, temperature: float, class_bias: tuple[float, ...]
) -> tuple[npt.NDArray[np.float64], AnyReals, Flags]:
    """Probabilities, their confidence as scoring rounds it, and which images are right."""
    probs_NK = softmax(logits_NK, temperature, class_bias)
    return probs_NK, probs_NK.max(axis=1).astype(np.float32), probs_NK.argmax(axis=1) == labels_N


def choose_review(
    confidence_N: AnyReals, right_N: Flags, unit_N: Ints | None = None, *, promises: tuple[float, ...] = PROMISES
) -> Review:
    """The lowest threshold whose accepted images, half of all or more, keep the first promise that any threshold keeps.

    Where no threshold with half of the images keeps any, it is the first promise that fewer keep. A promise is kept
    where the lower end of the 95 % interval of accuracy reaches it: by units, or by images (Wilson) where `unit_N` is
    None. Where no promise is kept, no image is accepted.
    """
    below_M, place_N = _thresholds(confidence_N.astype(np.float64))
    low_M = _low_ends(place_N, right_N, unit_N, len(below_M))
    found = None
    for promise in promises:
        kept = np.flatnonzero(low_M >= promise)
        if not len(kept):
            continue
        accepted_N = place_N <= kept[-1]
        review = Review(
            below=float(below_M[kept[-1]]),
            promise=promise,
            accepted=float(accepted_N.mean()),
            right=float(right_N[accepted_N].mean()),
            right_low=float(low_M[kept[-1]]),
        )
        if review.accepted >= _LEAST_ACCEPTED:
            return review
        found = found or review
    return found or Review(below=_ACCEPTS_NOTHING, promise=None, accepted=0.0, right=None, right_low=None)


def _thresholds(confidence_N: Reals) -> tuple[Reals, Ints]:
    """[M] thresholds, each a confidence, falling to the least one; [N] the first that accepts the image."""
    falling_N = -np.sort(-confidence_N)
    tried = np.linspace(0, len(falling_N) - 1, min(len(falling_N), _MOST_THRESHOLDS)).astype(np.int64)
    below_M = np.unique(falling_N[tried])[::-1]
    return below_M, np.searchsorted(-below_M, -confidence_N)


def _low_ends(place_N: Ints, right_N: Flags, unit_N: Ints | None, thresholds: int) -> Reals:
    """[M] the lower end of the accuracy of the images that each threshold accepts."""
    M = thresholds
    if unit_N is None or not M:
        trials_M, hits_M = (np.bincount(place_N[rows], minlength=M).cumsum() for rows in (slice(None), right_N))
        return wilson(hits_M, trials_M)[0]
    from scipy import sparse

    units, row_N = np.unique(unit_N, return_inverse=True)
    # Images by unit and by the first threshold that accepts them: as many entries as images, however many units.
    trials_MU, hits_MU = (
        sparse.csr_matrix((np.ones(int(rows.sum())), (place_N[rows], row_N[rows])), shape=(M, len(units)))
        for rows in (np.ones(len(right_N), bool), right_N)
    )
    first_U = np.full(len(units), M)
    np.minimum.at(first_U, row_N, place_N)
    mean_size_M = np.bincount(place_N, minlength=M).cumsum() / np.bincount(first_U, minlength=M).cumsum()
    rng = np.random.default_rng(1)
    shares = []
    for weights_RU in resample(len(units)):
        unmet_R1 = rng.gamma(_UNMET_UNITS, size=(len(weights_RU), 1))  # how often they are drawn
        trials_RM, hits_RM = ((by_MU @ weights_RU.T).T.cumsum(axis=1) for by_MU in (trials_MU, hits_MU))
        shares.append(hits_RM / (trials_RM + unmet_R1 * mean_size_M))
    return np.asarray(np.quantile(np.concatenate(shares), _LOW_END, axis=0))


def _with_unseen(review: Review, accepted_N: Flags, right_N: Flags, unit_N: Ints | None) -> Review:
    """Add the accuracy of accepted images, judged by other folds, with its interval by units or images."""
    review = review._replace(accepted_unseen=float(accepted_N.mean()))
    if not accepted_N.any():
        return review
    right = right_N[accepted_N]
    if unit_N is None:
        low, high = wilson(right.sum(), len(right))
    else:
        low, high = bootstrap(unit_N[accepted_N], np.zeros(len(right), np.int64), right, columns=1)
    ends = {"right_unseen_low": float(low.item()), "right_unseen_high": float(high.item())}
    return review._replace(right_unseen=float(right.mean()), **ends)
