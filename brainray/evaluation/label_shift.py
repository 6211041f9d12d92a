"""How common each class is in an archive without labels, and how accurate a model is there, if only its mix differs.

Label shift: pictures of a class look as in the reference of the model, and only the shares of the classes differ. Then
the shares are those of greatest likelihood, found by expectation maximisation (Saerens et al., Neural Computation 14,
2002) on probabilities that are calibrated on the reference by bias-corrected temperature scaling, without which they
would be off (Alexandari et al., ICML 2020). Accuracy follows in two ways whose gap is a warning: the mean confidence
that is so adapted; and the share of images above a threshold that, for each predicted class, is exceeded in the
reference by as many pictures as are right (average thresholded confidence, Garg et al., ICLR 2022).

Intervals resample groups of the reference and of the archive. Whether label shift is all there is, is for `shift` to
say. Axes: N rows, K classes, P parameters, M figures; R and A are rows of
reference and archive. Must not read files.
"""

from typing import NamedTuple

import numpy as np

from .counts import Flags, Ints, Reals
from .metrics import IntervalEstimate
from .stratified import clopper_pearson, effective

DRAWS = 199
_ENDS = (0.025, 0.975)
_LEAST_PROB = 1e-7  # probabilities are float32, and 0 has no logarithm
_RIDGE = 1e-6  # of the curvature in calibration: perfect probabilities have none
_MOST_SLOPE = 50.0  # of log probabilities, for a perfect classifier has no best one
_NEWTON, _NEWTON_AGAIN, _LONGEST = 30, 3, 2.0  # steps of calibration, at first and from its result; their length
_STEPS, _CLOSE = 1_000, 1e-6  # of expectation maximisation


class Rows(NamedTuple):
    """Images with their probabilities; of a reference with labels, which are classes."""

    probs_NK: Reals
    group_N: Ints  # any numbers; images without a group have one each
    label_N: Ints  # [N] or, of an archive, [0]


class LabelShiftEstimates(NamedTuple):
    """Figures of an archive under label shift."""

    prevalence: list[IntervalEstimate]  # of each class
    by_confidence: IntervalEstimate  # accuracy
    by_threshold: IntervalEstimate  # accuracy


class _Fit(NamedTuple):
    """Calibration on a reference: the slope of log probabilities, what is added for each class, and its shares."""

    slope: float
    bias_K: Reals
    share_K: Reals


def estimate(reference: Rows, archive: Rows, *, strangers: float = 0.0) -> LabelShiftEstimates:
    """The estimates with 95 % intervals; each class has pictures in the reference, and the archive has an image.

    `strangers`: the share of images of the archive that are like none of the reference. They may be of any class or
    of none, so each interval is wider by so much at both ends.
    """
    known, other = _Side(reference), _Side(archive)
    whole = _calibrate(known, known.ones_N)
    prior_K = _shares(other, whole, other.ones_N)
    value_M = _figures(known, other, known.ones_N, other.ones_N, whole, prior_K)
    rng, draws = np.random.default_rng(0), []
    for _ in range(DRAWS):
        weight_R, weight_A = known.resampled(rng), other.resampled(rng)
        fit = _calibrate(known, weight_R, start=whole)
        share_K = _shares(other, fit, weight_A, start=prior_K)
        draws.append(_figures(known, other, weight_R, weight_A, fit, share_K))
    low_M, high_M = np.quantile(draws, _ENDS, axis=0)
    # Errors come by the patient here too, which no resampling shows without labels: as much as in the reference.
    wider_M = np.ones(len(value_M))
    wider_M[-2:] = np.sqrt(1 + len(known.place_N) / len(other.place_N))
    low_M, high_M = (value_M + wider_M * (end_M - value_M) for end_M in (low_M, high_M))
    trials = effective(other.place_N)
    found = [
        _interval(*map(float, each), trials=trials, slack=strangers)
        for each in zip(value_M, low_M, high_M, strict=True)
    ]
    return LabelShiftEstimates(found[:-2], found[-2], found[-1])


def shares_of(reference: Rows, archive: Rows) -> Reals:
    """[K] the shares of the classes in the archive under label shift, without intervals."""
    known, other = _Side(reference), _Side(archive)
    return _shares(other, _calibrate(known, known.ones_N), other.ones_N)


def separation(reference: Rows) -> float:
    """How well a model tells its classes apart, 0 to 1: the least singular value of its mean probabilities by class.

    At 0 different mixes of classes give the same probabilities, so that none can be told (Lipton et al., ICML 2018).
    """
    known = _Side(reference)
    probs_KN = _calibrated(known, _calibrate(known, known.ones_N))
    mean_KK = np.stack([probs_KN[:, reference.label_N == k].mean(axis=1) for k in range(len(probs_KN))])
    return float(np.linalg.svd(mean_KK, compute_uv=False)[-1])


def fewest_groups(reference: Rows) -> tuple[int, float]:
    """The class with the fewest groups in a reference, and how many equal ones would say as much (Kish, 1965)."""
    counts = []
    for k in range(reference.probs_NK.shape[1]):
        own = reference.group_N[reference.label_N == k]
        counts.append(effective(np.unique(own, return_inverse=True)[1]) if len(own) else 0.0)
    k = int(np.argmin(counts))
    return k, counts[k]


class _Side:
    """Rows as they are computed with. Classes come first, for sums over a short last axis are slow."""

    def __init__(self, rows: Rows) -> None:
        self.log_KN: Reals = np.log(np.maximum(rows.probs_NK.T, _LEAST_PROB))
        self.called_N = np.asarray(rows.probs_NK.argmax(axis=1), np.int64)
        self.label_N = rows.label_N
        self.place_N: Ints = np.unique(rows.group_N, return_inverse=True)[1]
        self.ones_N = np.ones(len(self.place_N))
        self._groups = int(self.place_N.max()) + 1

    def resampled(self, rng: np.random.Generator) -> Reals:
        """[N] how often each row is drawn, where groups are drawn with replacement."""
        times_G = np.bincount(rng.integers(0, self._groups, self._groups), minlength=self._groups)
        return times_G[self.place_N].astype(np.float64)


def _shares(side: _Side, fit: _Fit, weight_N: Reals, *, start: Reals | None = None) -> Reals:
    """[K] the shares of greatest likelihood, by expectation maximisation.

    Two steps at a time and their extrapolation: SQUAREM (Varadhan and Roland, Scandinavian Journal of Statistics 35,
    2008).
    """
    ratio_KN = _calibrated(side, fit) / np.maximum(fit.share_K, 1e-12)[:, None]
    weight_N = weight_N / weight_N.sum()
    share_K = fit.share_K if start is None else 0.98 * start + 0.02 / len(start)  # a share of 0 would stay 0
    for _ in range(_STEPS):
        first_K = _step(ratio_KN, weight_N, share_K)
        second_K = _step(ratio_KN, weight_N, first_K)
        if np.abs(second_K - first_K).max() < _CLOSE:
            return second_K
        change_K, bend_K = first_K - share_K, second_K - 2 * first_K + share_K
        length = max(1.0, float(np.sqrt((change_K**2).sum() / max((bend_K**2).sum(), 1e-30))))
        far_K = share_K + 2 * length * change_K + length**2 * bend_K
        share_K = _step(ratio_KN, weight_N, far_K / far_K.sum()) if (far_K > 0).all() else second_K
    return share_K


def _step(ratio_KN: Reals, weight_N: Reals, share_K: Reals) -> Reals:
    likelihood_N = np.maximum(share_K @ ratio_KN, 1e-300)
    return np.asarray(share_K * (ratio_KN @ (weight_N / likelihood_N)), np.float64)


def _calibrate(side: _Side, weight_N: Reals, *, start: _Fit | None = None) -> _Fit:
    """Bias-corrected temperature scaling, by Newton's steps on the log likelihood, which is concave."""
    K, N = side.log_KN.shape
    weight_N = weight_N / weight_N.sum()
    share_K = np.bincount(side.label_N, weight_N, minlength=K).astype(np.float64)
    fit = _Fit(1.0, np.zeros(K), share_K) if start is None else start._replace(share_K=share_K)
    for _ in range(_NEWTON if start is None else _NEWTON_AGAIN):
        probs_KN = _calibrated(side, fit)
        rest_KN = -probs_KN
        rest_KN[side.label_N, np.arange(N)] += 1
        gradient_P = np.r_[((rest_KN * side.log_KN).sum(axis=0)) @ weight_N, rest_KN @ weight_N]
        step_P = np.linalg.solve(_curvature(side.log_KN, probs_KN, weight_N), gradient_P)
        step_P *= min(1.0, _LONGEST / max(1e-12, float(np.abs(step_P).max())))
        slope = float(np.clip(fit.slope + step_P[0], 0.0, _MOST_SLOPE))
        fit = _Fit(slope, fit.bias_K + step_P[1:], share_K)
        if np.abs(step_P).max() < 1e-6:
            break
    return fit


def _curvature(log_KN: Reals, probs_KN: Reals, weight_N: Reals) -> Reals:
    """[P, P] minus the second derivatives by slope and biases, with a ridge, for all biases may grow together."""
    K = len(log_KN)
    both_KN = probs_KN * log_KN
    mean_N = both_KN.sum(axis=0)
    found_PP = np.empty((K + 1, K + 1))
    found_PP[0, 0] = ((both_KN * log_KN).sum(axis=0) - mean_N**2) @ weight_N
    found_PP[0, 1:] = found_PP[1:, 0] = (both_KN - probs_KN * mean_N) @ weight_N
    weighted_KN = probs_KN * weight_N
    found_PP[1:, 1:] = np.diag(weighted_KN.sum(axis=1)) - weighted_KN @ probs_KN.T
    return np.asarray(found_PP + _RIDGE * np.eye(K + 1), np.float64)


def _calibrated(side: _Side, fit: _Fit) -> Reals:
    """[K, N] the probabilities of the classes after calibration."""
    powers_KN = fit.slope * side.log_KN + fit.bias_K[:, None]
    powers_KN -= powers_KN.max(axis=0)
    np.exp(powers_KN, out=powers_KN)
    return np.asarray(powers_KN / powers_KN.sum(axis=0), np.float64)


def _figures(known: _Side, other: _Side, weight_R: Reals, weight_A: Reals, fit: _Fit, share_K: Reals) -> Reals:
    """[K + 2] the shares of the classes, and accuracy by confidence and by thresholds."""
    ratio_K = share_K / np.maximum(fit.share_K, 1e-12)
    sure_R, sure_A = _confidence(known, fit, ratio_K), _confidence(other, fit, ratio_K)
    weight_A = weight_A / weight_A.sum()
    weight_R = weight_R * ratio_K[known.label_N]
    above = 0.0
    for k in range(len(share_K)):
        own_R, own_A = known.called_N == k, other.called_N == k
        if own_A.any() and weight_R[own_R].sum() > 0:
            least = _threshold(sure_R[own_R], known.label_N[own_R] == k, weight_R[own_R])
            above += float(weight_A[own_A] @ (sure_A[own_A] >= least))
        else:  # nothing in the reference is called so
            above += float(weight_A[own_A] @ sure_A[own_A])
    return np.asarray(np.r_[share_K, weight_A @ sure_A, above], np.float64)


def _confidence(side: _Side, fit: _Fit, ratio_K: Reals) -> Reals:
    """[N] the probability of the called class, calibrated and adapted to a mix that is `ratio_K` times the reference's.

    0 where the mix has none of the classes that an image may be of.
    """
    scores_KN = _calibrated(side, fit) * ratio_K[:, None]
    own_N = scores_KN[side.called_N, np.arange(len(side.called_N))]
    total_N = np.maximum(scores_KN.sum(axis=0), 1e-300)
    return np.asarray(np.divide(own_N, total_N), np.float64)


def _threshold(sure_N: Reals, right_N: Flags, weight_N: Reals) -> float:
    """The confidence that as many rows reach as are right."""
    right = float(weight_N @ right_N)
    if right <= 0:
        return np.inf
    order = np.argsort(-sure_N)
    place = int(np.searchsorted(np.cumsum(weight_N[order]), right - 1e-12))
    return float(sure_N[order[min(place, len(order) - 1)]])


def _interval(value: float, low: float, high: float, *, trials: float, slack: float) -> IntervalEstimate:
    """The ends, at least as far as those of a proportion of so many trials: near 0 and 1 resamples hardly vary.

    A share of less than half an image may be none.
    """
    value, least = min(1.0, max(0.0, value)), 0.5 / trials
    ends = clopper_pearson(value, trials)
    low, high = min(low, value, ends[0]) - slack, max(high, value, ends[1]) + slack
    return IntervalEstimate(value, low if low > least else 0.0, high if high < 1 - least else 1.0)
