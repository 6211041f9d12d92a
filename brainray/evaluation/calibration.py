"""Calibrates probabilities: temperature scaling, and bias for rare classes.

Axes: N images, K classes. Must not read files.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .counts import Ints

AnyReals = npt.NDArray[np.floating[Any]]  # of any precision
Labels = Ints  # [N] classes

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
