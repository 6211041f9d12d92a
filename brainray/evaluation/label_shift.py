"""How common each class is in an archive without labels, and how accurate a model is there, if only its mix differs.

Label shift: pictures of a class look as in the reference of the model, and only the shares of the classes differ. Then
the shares are those of greatest likelihood, found by expectation maximisation (Saerens et al., Neural Computation 14,
2002) on probabilities that are calibrated on the reference by bias-corrected temperature scaling, without which they
would be off (Alexandari et al., ICML 2020). Accuracy follows in two ways whose gap is a warning: the mean confidence
that is so adapted; and the share of images above a threshold that, for each predicted class, is exceeded in the
reference by as many pictures as are right (average thresholded confidence, Garg et al., ICLR 2022).

Intervals are of an archive of which the images are drawn one by one: they resample its images, and groups of the
reference. Errors come by the patient in both, which widens them. Whether label shift is all there is, is for `shift` to
say. Axes: N rows, K classes, P parameters, M figures; R and A are rows of reference and archive. Must not read files.
"""

import itertools
from typing import NamedTuple

import numpy as np

from .counts import Flags, Ints, Reals
from .metrics import IntervalEstimate
from .stratified import clopper_pearson, effective

DRAWS = 199
# Of resamples, for 95 % intervals of shares and of accuracy. Those of shares lie further out, for such intervals are
# too narrow (Hesterberg, American Statistician 69, 2015): with 0.025 shares were held in 93.6 % of 77 draws as in
# `tests/bench/territory_coverage.py`, and the class held least in 88 %. Accuracy has one interval over both ways.
_ENDS_OF_SHARES, _ENDS = (0.0125, 0.9875), (0.025, 0.975)
_LEAST_PROB = 1e-7  # probabilities are float32, and 0 has no logarithm
_RIDGE = 1e-6  # of the curvature in calibration: perfect probabilities have none
_MOST_SLOPE = 50.0  # of log probabilities, for a perfect classifier has no best one
_TINY = 1e-12
_NEWTON, _NEWTON_AGAIN, _LONGEST = 30, 3, 2.0  # steps of calibration, at first and from its result; their length
_STEPS, _CLOSE = 1_000, 1e-6  # of expectation maximisation


class Rows(NamedTuple):
    """Images with their probabilities; of a reference with labels, which are classes."""

    probs_NK: Reals
    group_N: Ints  # any numbers; images without a group have one each
    label_N: Ints  # [N] or, of an archive, [0]


class Strangers(NamedTuple):
    """Images of an archive that are like none of the reference: they may be of any class, or of none."""

    most: float  # the share that they have at most
    is_one_n: Flags  # of the first images of the archive


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


def estimate(reference: Rows, archive: Rows, *, strangers: Strangers | None = None) -> LabelShiftEstimates:
    """The estimates with 95 % intervals; each class has pictures in the reference, and the archive has an image."""
    known, other = _Side.of(reference), _Side.of(archive)
    times, images = _patients_add(known, other), other.of_single_images()
    whole = _calibrate(known)
    start_M = _figures(known, images, whole)
    rng, draws, fits = np.random.default_rng(0), [], []
    for _ in range(DRAWS):
        drawn_known, drawn_other = known.resampled(rng), images.resampled(rng)
        fits.append(_calibrate(drawn_known, start=whole))
        fit = _moved(fits[-1], whole, times)
        draws.append(_figures(drawn_known, drawn_other, fit, start=start_M[:-2]))
    share_RK, accuracy_R2 = np.split(np.array(draws), [-2], axis=1)
    ends = np.quantile(share_RK, _ENDS_OF_SHARES, axis=0), np.quantile(accuracy_R2, _ENDS, axis=0)
    fit = _shrunk(whole, fits)
    value_M = _figures(known, images, fit, start=start_M[:-2])
    # The errors of the model in the archive vary by the patient too, which no resampling shows without labels.
    wider_M = np.r_[np.ones(len(whole.share_K)), times, times]
    low_M, high_M = (value_M + wider_M * (end_M - start_M) for end_M in np.concatenate(ends, axis=1))
    below_M, above_M = _slack(images, fit, strangers)
    trials = float(len(images.row_N))
    found = [
        _interval(*map(float, each), trials=trials)
        for each in zip(value_M, low_M, high_M, below_M, above_M, strict=True)
    ]
    return LabelShiftEstimates(found[:-2], found[-2], found[-1])


def shares_of(reference: Rows, archive: Rows) -> Reals:
    """[K] the shares of the classes in the archive under label shift, without intervals."""
    fit = _calibrate(_Side.of(reference))
    other = _Side.of(archive)
    return _shares(_ratios(other, fit), other.weight_N, fit.share_K)


def separation(reference: Rows) -> float:
    """How well a model tells its classes apart, 0 to 1: the least singular value of its mean probabilities by class.

    At 0 different mixes of classes give the same probabilities, so that none can be told (Lipton et al., ICML 2018).
    """
    known = _Side.of(reference)
    fit = _calibrate(known)
    probs_KN = _powers(known, fit.slope, fit.bias_K)
    probs_KN /= probs_KN.sum(axis=0)
    mean_KK = np.stack([probs_KN[:, known.label_N == k].mean(axis=1) for k in range(len(probs_KN))])
    return float(np.linalg.svd(mean_KK, compute_uv=False)[-1])


def fewest_groups(reference: Rows) -> tuple[int, float]:
    """The class with the fewest groups in a reference, and how many equal ones would say as much (Kish, 1965)."""
    counts = []
    for k in range(reference.probs_NK.shape[1]):
        own = reference.group_N[reference.label_N == k]
        counts.append(effective(np.unique(own, return_inverse=True)[1]) if len(own) else 0.0)
    k = int(np.argmin(counts))
    return k, counts[k]


class _Side(NamedTuple):
    """Rows as they are computed with, in the order of the called classes, so that those of one are a slice.

    Classes come first, for sums over a short last axis are slow.
    """

    log_KN: Reals  # of the probabilities, less the largest of the row, which changes nothing
    first_K: Ints  # the first row that is called so
    row_N: Ints  # its number in what was given
    label_N: Ints  # [N] or, of an archive, [0]
    place_N: Ints  # groups, from 0
    weight_N: Reals  # their sum is 1

    @classmethod
    def of(cls, rows: Rows) -> "_Side":
        called_N = rows.probs_NK.argmax(axis=1)
        row_N = np.argsort(called_N, kind="stable")
        # In this order in memory too: sums over the classes take a fifth of the time.
        log_KN = np.log(np.maximum(np.ascontiguousarray(rows.probs_NK[row_N].T), _LEAST_PROB))
        log_KN -= log_KN.max(axis=0)
        first_K = np.searchsorted(called_N[row_N], np.arange(len(log_KN)))
        label_N = rows.label_N[row_N] if len(rows.label_N) else rows.label_N
        place_N = np.unique(rows.group_N, return_inverse=True)[1][row_N]
        return cls(log_KN, first_K, row_N, label_N, place_N, np.full(len(row_N), 1 / max(1, len(row_N))))

    @property
    def called(self) -> list[slice]:
        """[K] the rows that are called each class."""
        return [slice(*ends) for ends in itertools.pairwise([*self.first_K.tolist(), len(self.row_N)])]

    def of_single_images(self) -> "_Side":
        """The rows, each a group of its own."""
        return self._replace(place_N=self.row_N)

    def resampled(self, rng: np.random.Generator) -> "_Side":
        """The rows of groups that are drawn with replacement, each once, weighted by how often it is drawn."""
        groups = int(self.place_N.max()) + 1
        times_N = np.bincount(rng.integers(0, groups, groups), minlength=groups).take(self.place_N)
        rows = np.flatnonzero(times_N)
        times_N = times_N.take(rows)
        return _Side(
            log_KN=self.log_KN.take(rows, axis=1),
            first_K=np.searchsorted(rows, self.first_K),
            row_N=self.row_N.take(rows),
            label_N=self.label_N.take(rows) if len(self.label_N) else self.label_N,
            place_N=self.place_N.take(rows),
            weight_N=times_N / times_N.sum(),
        )


def _patients_add(known: _Side, other: _Side) -> float:
    """How many times as far off as by the reference calibration may be, for the patients of the archive are others.

    Pictures of a patient are alike, which resamples of single images do not show. The fewer patients, the farther off:
    as many as groups of equal sizes say as much (Kish). Images without a group are taken to be of as many patients as
    so many pictures of the reference. With 600 drawn patients on either side, shares were off by 0.40 points (standard
    deviation) before any sampling of images; the reference alone makes 0.28.
    """
    size_N = np.bincount(other.place_N)[other.place_N]
    groups, images = effective(known.place_N), len(other.place_N)
    of_groups = float(size_N[size_N > 1].sum()) / images**2  # of each group the square of its share of the images
    of_singles = float((size_N == 1).sum()) / images**2 * len(known.place_N) / groups
    return float(np.sqrt(1 + groups * (of_groups + of_singles)))


def _shrunk(whole: _Fit, fits: list[_Fit]) -> _Fit:
    """A fit between that to the whole reference and the probabilities as the model gives them.

    James and Stein (Fourth Berkeley Symposium, 1961): the less sure it is that the probabilities are wrong, the nearer
    to them. `fits` to resamples say how sure it is. The intervals stay as wide as without.
    """
    off_RP = np.array([_off(fit) for fit in fits])
    off_P, P = _off(whole), off_RP.shape[1]
    if not 3 <= P < len(fits) / 4:  # two parameters cannot gain, and few resamples say too little of many
        return whole
    away = float(off_P @ np.linalg.solve(np.cov(off_RP.T) + _TINY * np.eye(P), off_P))
    left = max(0.0, 1 - (P - 2) / max(away, _TINY))
    none = whole._replace(slope=1.0, bias_K=np.log(np.maximum(whole.share_K, _TINY)))
    return _moved(whole, none, left)


def _off(fit: _Fit) -> Reals:
    """[P] how far a fit is from the probabilities as the model gives them: in slope, and in bias but for the shares."""
    own_K = fit.bias_K - np.log(np.maximum(fit.share_K, _TINY))
    return np.asarray(np.r_[fit.slope - 1, (own_K - own_K.mean())[:-1]], np.float64)


def _moved(fit: _Fit, whole: _Fit, times: float) -> _Fit:
    """A fit to a resample, so many times as far from that to the whole reference."""
    slope = float(np.clip(whole.slope + times * (fit.slope - whole.slope), 0.0, _MOST_SLOPE))
    own_K, whole_K = (each.bias_K - np.log(np.maximum(each.share_K, _TINY)) for each in (fit, whole))
    bias_K = whole_K + times * (own_K - whole_K) + np.log(np.maximum(fit.share_K, _TINY))
    return fit._replace(slope=slope, bias_K=bias_K)


def _slack(other: _Side, fit: _Fit, strangers: Strangers | None) -> tuple[Reals, Reals]:
    """[M] how much lower, and how much higher, strangers let each figure be.

    Of those that are found, a class that is given some may have none of them, or all. Those that are not may be of
    any class, or of none. Accuracy may be that with all of them wrong, or right.
    """
    K = len(fit.share_K)
    if strangers is None or strangers.most <= 0:
        return np.zeros(K + 2), np.zeros(K + 2)
    own_K, is_one_n = np.zeros(K), strangers.is_one_n
    found = 0.0
    if is_one_n.any() and not is_one_n.all():
        ratio_Kn = np.empty((K, len(other.row_N)))
        ratio_Kn[:, other.row_N] = _ratios(other, fit)
        ratio_Kn = ratio_Kn[:, : len(is_one_n)]
        with_K, without_K = (
            _shares(ratio_Kn[:, rows], np.full(rows.sum(), 1 / rows.sum()), fit.share_K)
            for rows in (np.ones(len(is_one_n), bool), ~is_one_n)
        )
        share = float(is_one_n.mean())
        own_K = np.clip((with_K - (1 - share) * without_K) / share, 0, 1)  # what a class is given of them
        found = min(share, strangers.most)
    below_K, above_K = (found * each_K + strangers.most - found for each_K in (own_K, 1 - own_K))
    return np.r_[below_K, strangers.most, strangers.most], np.r_[above_K, strangers.most, strangers.most]


def _shares(ratio_KN: Reals, weight_N: Reals, start_K: Reals) -> Reals:
    """[K] the shares of greatest likelihood, by expectation maximisation.

    Two steps at a time and their extrapolation: SQUAREM (Varadhan and Roland, Scandinavian Journal of Statistics 35,
    2008).
    """
    share_K = start_K
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


def _calibrate(side: _Side, *, start: _Fit | None = None) -> _Fit:
    """Bias-corrected temperature scaling, by Newton's steps on the log likelihood, which is concave."""
    K, N = side.log_KN.shape
    share_K = np.bincount(side.label_N, side.weight_N, minlength=K).astype(np.float64)
    found_P = np.r_[side.log_KN[side.label_N, np.arange(N)] @ side.weight_N, share_K]
    fit = _Fit(1.0, np.zeros(K), share_K) if start is None else start._replace(share_K=share_K)
    for _ in range(_NEWTON if start is None else _NEWTON_AGAIN):
        mean_P, curvature_PP = _moments(side, fit)
        step_P = np.linalg.solve(curvature_PP + _RIDGE * np.eye(K + 1), found_P - mean_P)
        step_P *= min(1.0, _LONGEST / max(1e-12, float(np.abs(step_P).max())))
        slope = float(np.clip(fit.slope + step_P[0], 0.0, _MOST_SLOPE))
        fit = _Fit(slope, fit.bias_K + step_P[1:], share_K)
        if np.abs(step_P).max() < 1e-6:
            break
    return fit


def _moments(side: _Side, fit: _Fit) -> tuple[Reals, Reals]:
    """[P] what slope and biases multiply, as calibrated probabilities expect it: its mean over all rows.

    And [P, P] the mean of its covariances within rows, which is minus the second derivatives of the log likelihood.
    """
    K, N = side.log_KN.shape
    expected_PN = np.empty((K + 1, N))
    powers_KN = _powers(side, fit.slope, fit.bias_K)
    probs_KN = np.divide(powers_KN, powers_KN.sum(axis=0), out=expected_PN[1:])
    both_KN = np.multiply(probs_KN, side.log_KN, out=powers_KN)
    both_KN.sum(axis=0, out=expected_PN[0])
    mean_P = expected_PN @ side.weight_N
    products_PP = np.diag(np.r_[0.0, mean_P[1:]])  # a class is with itself only
    products_PP[0, 1:] = products_PP[1:, 0] = both_KN @ side.weight_N
    both_KN *= side.log_KN
    products_PP[0, 0] = (both_KN @ side.weight_N).sum()
    return mean_P, products_PP - (expected_PN * side.weight_N) @ expected_PN.T


def _powers(side: _Side, slope: float, bias_K: Reals) -> Reals:
    """[K, N] what is in proportion to the probabilities of the classes in each row after calibration."""
    powers_KN = slope * side.log_KN
    powers_KN += (bias_K - bias_K.max())[:, None]
    return np.exp(powers_KN, out=powers_KN)


def _ratios(side: _Side, fit: _Fit) -> Reals:
    """[K, N] what is in proportion to the probabilities in each row if all classes were as common."""
    return _powers(side, fit.slope, fit.bias_K - np.log(np.maximum(fit.share_K, _TINY)))


def _figures(known: _Side, other: _Side, fit: _Fit, *, start: Reals | None = None) -> Reals:
    """[K + 2] the shares of the classes, and accuracy by confidence and by thresholds."""
    K = len(fit.share_K)
    ratio_KA = _ratios(other, fit)
    start_K = fit.share_K if start is None else 0.98 * start + 0.02 / K  # a share of 0 would stay 0
    share_K = _shares(ratio_KA, other.weight_N, start_K)
    sure_R = _confidence(known, _ratios(known, fit), share_K)
    sure_A = _confidence(other, ratio_KA, share_K)
    weight_R = known.weight_N * (share_K / np.maximum(fit.share_K, _TINY)).take(known.label_N)
    above_A = sure_A.copy()  # where nothing in the reference is called so
    for k, (own_R, own_A) in enumerate(zip(known.called, other.called, strict=True)):
        if weight_R[own_R].sum() > 0:
            above_A[own_A] = sure_A[own_A] >= _threshold(sure_R[own_R], known.label_N[own_R] == k, weight_R[own_R])
    return np.asarray(np.r_[share_K, other.weight_N @ sure_A, other.weight_N @ above_A], np.float64)


def _confidence(side: _Side, ratio_KN: Reals, share_K: Reals) -> Reals:
    """[N] the probability of the called class, calibrated and adapted to the mix `share_K`.

    0 where the mix has none of the classes that an image may be of.
    """
    own_N = np.concatenate([share_K[k] * ratio_KN[k, rows] for k, rows in enumerate(side.called)])
    return np.asarray(own_N / np.maximum(share_K @ ratio_KN, 1e-300), np.float64)


def _threshold(sure_N: Reals, right_N: Flags, weight_N: Reals) -> float:
    """The confidence that as many rows reach as are right."""
    right = float(weight_N @ right_N)
    if right <= 0:
        return np.inf
    order = np.argsort(-sure_N)
    place = int(np.searchsorted(np.cumsum(weight_N[order]), right - 1e-12))
    return float(sure_N[order[min(place, len(order) - 1)]])


def _interval(value: float, low: float, high: float, below: float, above: float, *, trials: float) -> IntervalEstimate:
    """The ends, at least as far as those of a proportion of so many trials: near 0 and 1 resamples hardly vary.

    `below` and `above` are what they are moved out by. A share of less than half an image may be none.
    """
    value, least = min(1.0, max(0.0, value)), 0.5 / trials
    ends = clopper_pearson(value, trials)
    low, high = min(low, value, ends[0]) - below, max(high, value, ends[1]) + above
    return IntervalEstimate(value, low if low > least else 0.0, high if high < 1 - least else 1.0)
