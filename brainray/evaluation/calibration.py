"""How far probabilities can be trusted: temperature, what evens classes out, what is left to a person. Knows no file.

Axes: N images, K classes.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]

# Aimed at among the images measured on, so that of others at least 99 % are right: with 2,000 accepted images the share
# that is right varies by 0.2 % from one set of images to another, and this is two of those above it.
RIGHT = 0.994
# The loss weighs classes by the inverse of the square root of their share; this is the other half of what makes the
# model answer as if all were equally common.
_RARENESS = 0.5


_TEMPERATURES = np.logspace(math.log10(0.25), math.log10(4), 161)  # 1.7 % from one to the next


def fit_temperature(logits_NK: Reals, labels_N: Labels) -> float:
    """The one number that, dividing the logits, makes their likelihood greatest (Guo et al. 2017). From 0.25 to 4."""
    losses = [cross_entropy(logits_NK, labels_N, temperature=temperature) for temperature in _TEMPERATURES]
    return round(float(_TEMPERATURES[np.argmin(losses)]), 4)


def cross_entropy(logits_NK: Reals, labels_N: Labels, *, temperature: float = 1.0) -> float:
    """The mean over one image or more of -ln of the probability that its label is given."""
    from scipy.special import log_softmax

    log_probs_NK = log_softmax(logits_NK.astype(np.float64) / temperature, axis=1)
    return -float(np.take_along_axis(log_probs_NK, labels_N[:, None], axis=1).mean())


def softmax(logits_NK: Reals, temperature: float, class_bias: Sequence[float] = ()) -> npt.NDArray[np.float64]:
    """Probabilities as scoring has them."""
    from scipy import special

    bias_K = np.array(class_bias or (0.0,))
    return np.asarray(special.softmax(logits_NK.astype(np.float64) / temperature + bias_K, axis=1))


def rare_class_bias(counts_K: npt.NDArray[np.integer[Any]]) -> tuple[float, ...]:
    """What to add to the logits of each class, so that a rare one is found as well as a common one.

    Logit adjustment (Menon et al., ICLR 2021) by the pictures of each class that were learned from.
    """
    shares_K = np.maximum(counts_K, 1) / max(1, int(counts_K.sum()))
    bias_K = -_RARENESS * np.log(shares_K)
    return tuple(round(float(value), 4) for value in bias_K - bias_K.mean())


class Review(NamedTuple):
    """From which confidence a prediction is accepted, and what that gives on the images it was chosen by."""

    below: float  # a lower confidence is for review
    accepted: float  # share of the images
    right: float | None  # share of the accepted; None where none is
    accepted_unseen: float | None = None  # the same with each fold under the threshold of the others; None: one fold
    right_unseen: float | None = None


def cross_review(confidence_N: Reals, right_N: npt.NDArray[np.bool_], fold_N: npt.NDArray[np.int64]) -> Review:
    """`choose_review`, and what comes of it on images that did not choose."""
    review, folds = choose_review(confidence_N, right_N), np.unique(fold_N)
    if len(folds) < 2:
        return review
    accepted_N = np.zeros(len(fold_N), bool)
    for fold in folds:
        own_N = fold_N == fold
        accepted_N[own_N] = confidence_N[own_N] >= choose_review(confidence_N[~own_N], right_N[~own_N]).below
    right = float(right_N[accepted_N].mean()) if accepted_N.any() else None
    return review._replace(accepted_unseen=float(accepted_N.mean()), right_unseen=right)


def choose_review(confidence_N: Reals, right_N: npt.NDArray[np.bool_], *, least_right: float = RIGHT) -> Review:
    """The lowest confidence from which on so many of the accepted images are right; 1 where there is none."""
    order = np.argsort(-confidence_N, kind="stable")
    confidence, right = confidence_N[order].astype(np.float64), right_N[order]
    shares = np.cumsum(right) / np.arange(1, len(right) + 1)
    last_of_equals = np.append(confidence[1:] != confidence[:-1], True) if len(confidence) else np.zeros(0, bool)
    good = np.flatnonzero((shares >= least_right) & last_of_equals)
    if not len(good):
        return Review(below=1.0, accepted=0.0, right=None)
    last = good[-1]
    return Review(below=float(confidence[last]), accepted=float((last + 1) / len(right)), right=float(shares[last]))
