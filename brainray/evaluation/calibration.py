"""Calibrates probabilities: temperature scaling, bias for rare classes, and the confidence below which people review.

Axes: N images, K classes. Must not read files.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .counts import Flags, Ints

AnyReals = npt.NDArray[np.floating[Any]]  # of any precision
Labels = Ints  # [N] classes

# Accuracy aimed at among the accepted images that the threshold is chosen on, so that it is at least 99 % on others.
# With 2,000 accepted images the accuracy has a standard deviation of 0.2 % between sets of images; this is two of them
# above 99 %.
_LEAST_ACCEPTED_ACCURACY = 0.994
# Exponent of the class shares in the bias. The loss weighs classes by their share to the power of -0.5; the bias adds
# the other half of a correction to equally common classes.
_BIAS_EXPONENT = 0.5
_TEMPERATURES = np.logspace(math.log10(0.25), math.log10(4), 161)  # each 1.7 % above the one before


def fit_temperature(logits_NK: AnyReals, labels_N: Labels) -> float:
    """The temperature, 0.25 to 4, that gives scaled logits the greatest likelihood (Guo et al., ICML 2017)."""
    losses = [cross_entropy(logits_NK, labels_N, temperature=temperature) for temperature in _TEMPERATURES]
    return round(float(_TEMPERATURES[np.argmin(losses)]), 4)


def cross_entropy(logits_NK: AnyReals, labels_N: Labels, *, temperature: float = 1.0) -> float:
    """The mean of -ln(probability of the label) over one image or more."""
    from scipy.special import log_softmax

    log_probs_NK = log_softmax(logits_NK.astype(np.float64) / temperature, axis=1)
    return -float(np.take_along_axis(log_probs_NK, labels_N[:, None], axis=1).mean())


def softmax(logits_NK: AnyReals, temperature: float, class_bias: Sequence[float] = ()) -> npt.NDArray[np.float64]:
    """[N, K] the probabilities as scoring computes them: softmax(logits / temperature + bias); no bias if empty."""
    from scipy import special

    bias_K = np.array(class_bias or (0.0,))
    return np.asarray(special.softmax(logits_NK.astype(np.float64) / temperature + bias_K, axis=1))


def rare_class_bias(counts_K: npt.NDArray[np.integer[Any]]) -> tuple[float, ...]:
    """[K] the bias to add to logits so that rare classes are recognised as well as common ones; its mean is 0.

    Logit adjustment (Menon et al., ICLR 2021). `counts_K` are the training pictures of each class.
    """
    shares_K = np.maximum(counts_K, 1) / max(1, int(counts_K.sum()))
    bias_K = -_BIAS_EXPONENT * np.log(shares_K)
    return tuple(round(float(value), 4) for value in bias_K - bias_K.mean())


class Review(NamedTuple):
    """The threshold of confidence below which an image is for review, and its effect."""

    below: float  # images with a lower confidence are for review
    accepted: float  # share of accepted images, of those the threshold was chosen on
    right: float | None  # accuracy of accepted images; None without any
    # The same when each fold is judged by the threshold chosen on the others; None for a single fold.
    accepted_unseen: float | None = None
    right_unseen: float | None = None


def cross_review(confidence_N: AnyReals, right_N: Flags, fold_N: Ints) -> Review:
    """The threshold of `choose_review`, with its effect measured by cross-validation over folds."""
    review, folds = choose_review(confidence_N, right_N), np.unique(fold_N)
    if len(folds) < 2:
        return review
    accepted_N = np.zeros(len(fold_N), bool)
    for fold in folds:
        own_N = fold_N == fold
        accepted_N[own_N] = confidence_N[own_N] >= choose_review(confidence_N[~own_N], right_N[~own_N]).below
    right = float(right_N[accepted_N].mean()) if accepted_N.any() else None
    return review._replace(accepted_unseen=float(accepted_N.mean()), right_unseen=right)


def choose_review(confidence_N: AnyReals, right_N: Flags, *, least_right: float = _LEAST_ACCEPTED_ACCURACY) -> Review:
    """The lowest threshold at which the accuracy of accepted images is at least `least_right`; 1 for none."""
    order = np.argsort(-confidence_N, kind="stable")
    confidence, right = confidence_N[order].astype(np.float64), right_N[order]
    shares = np.cumsum(right) / np.arange(1, len(right) + 1)
    last_of_equals = np.append(confidence[1:] != confidence[:-1], True) if len(confidence) else np.zeros(0, bool)
    good = np.flatnonzero((shares >= least_right) & last_of_equals)
    if not len(good):
        return Review(below=1.0, accepted=0.0, right=None)
    last = good[-1]
    return Review(below=float(confidence[last]), accepted=float((last + 1) / len(right)), right=float(shares[last]))
