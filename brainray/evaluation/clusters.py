"""95 % intervals by cluster bootstrap: whole clusters of images, such as patients, are resampled.

Errors come by the patient, so that an interval from images alone would be too narrow for new patients (Field and Welsh,
JRSS B 69, 2007). Axes: N images, U clusters, K classes, M proportions, R resamples. Must not read files.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .counts import CALIBRATION_BINS, Flags, Ints, Reals, confidence_bin
from .metrics import IntervalEstimate, wilson

RESAMPLES = 2000
_AT_ONCE = 1_000_000  # weights of clusters in memory at a time: 8 MB, and as much for each step to them
_ENDS = (0.025, 0.975)


class ClusterIntervals(NamedTuple):
    """Intervals of the figures of a classifier; NaN for a class without images."""

    accuracy: IntervalEstimate
    macro_f1: IntervalEstimate
    balanced_accuracy: IntervalEstimate
    per_class: dict[str, Reals]  # [K] each: low and high ends, named as the columns of `metrics.per_class`


def cluster_intervals(label_N: Ints, predicted_N: Ints, cluster_N: Ints, *, classes: int) -> ClusterIntervals:
    """The intervals of one labelled image or more; `cluster_N` are any numbers."""
    K, right_N = classes, label_N == predicted_N
    # Columns: recall, precision and F1 of each class, accuracy. F1 = 2 TP / (labelled + predicted) is the share of
    # right ones where each image is a row of its label and one of its prediction.
    column_N = np.concatenate([label_N, K + predicted_N, 2 * K + label_N, 2 * K + predicted_N, 0 * label_N + 3 * K])
    rows = (np.tile(cluster_N, 5), column_N, np.tile(right_N, 5))
    shares_RM, value_M, clusters_M = _resampled_shares(*rows, columns=3 * K + 1)
    low_M, high_M = _ends(shares_RM, clusters_M)
    ends = {
        f"{name}_{end}": values_M[place * K : (place + 1) * K]
        for place, name in enumerate(("recall", "precision", "f1"))
        for end, values_M in (("low", low_M), ("high", high_M))
    }
    recall_RK, f1_RK = shares_RM[:, :K], np.where(np.isnan(shares_RM[:, :K]), np.nan, shares_RM[:, 2 * K : 3 * K])
    supported_K = clusters_M[:K] > 0
    means_R2 = np.stack([np.nanmean(each_RK, axis=1) for each_RK in (f1_RK, recall_RK)], axis=1)
    mean_low, mean_high = _ends(means_R2, np.repeat(clusters_M[-1:], 2))
    means = [value_M[2 * K : 3 * K][supported_K].mean(), value_M[:K][supported_K].mean()]
    macro_f1, balanced = (IntervalEstimate(*map(float, ends)) for ends in zip(means, mean_low, mean_high, strict=True))
    accuracy = IntervalEstimate(float(value_M[-1]), float(low_M[-1]), float(high_M[-1]))
    return ClusterIntervals(accuracy=accuracy, macro_f1=macro_f1, balanced_accuracy=balanced, per_class=ends)


def bootstrap(cluster_N: Ints, column_N: Ints, right_N: Flags, *, columns: int) -> tuple[Reals, Reals]:
    """Low and high end of the share of right rows in each column, [M] each, by the percentiles of the resamples.

    A resample draws U of the U clusters with replacement; one that holds no row of a column does not count there.
    Where resamples do not vary (all is right, or there is one cluster), the ends are those of `wilson` with clusters
    as trials. The seed is fixed, so that equal rows give equal ends.
    """
    shares_RM, _, clusters_M = _resampled_shares(cluster_N, column_N, right_N, columns=columns)
    return _ends(shares_RM, clusters_M)


def calibration_interval(cluster_N: Ints, confidence_N: Reals, right_N: Flags) -> IntervalEstimate:
    """The expected calibration error of one image or more, 0 to 1, with its interval.

    Noise raises the error of a resample above that of the sample, so the percentiles are moved down by the mean
    excess. One cluster says nothing of others: 0 to 1.
    """
    clusters, place_N = np.unique(cluster_N, return_inverse=True)
    cell_N = place_N * CALIBRATION_BINS + confidence_bin(confidence_N, CALIBRATION_BINS)
    gap_UB = np.bincount(cell_N, right_N - confidence_N, minlength=len(clusters) * CALIBRATION_BINS)
    gap_UB, size_U = gap_UB.reshape(len(clusters), CALIBRATION_BINS), np.bincount(place_N)
    value = float(np.abs(gap_UB.sum(axis=0)).sum() / len(cluster_N))
    if len(clusters) == 1:
        return IntervalEstimate(value, 0.0, 1.0)
    errors_R = np.concatenate(
        [np.abs(weights_RU @ gap_UB).sum(axis=1) / (weights_RU @ size_U) for weights_RU in resample(len(clusters))]
    )
    low, high = np.quantile(errors_R, _ENDS) - max(0.0, errors_R.mean() - value)
    return IntervalEstimate(value, float(np.clip(low, 0, value)), float(np.clip(high, value, 1)))


def resample(clusters: int) -> Iterator[Reals]:
    """[R, U] how often each of U clusters is drawn, for some of the resamples at a time; always the same draws."""
    rng = np.random.default_rng(0)
    at_once = max(1, _AT_ONCE // max(1, clusters))
    for start in range(0, RESAMPLES, at_once):
        number = min(at_once, RESAMPLES - start)
        drawn_RU = rng.integers(0, clusters, (number, clusters))
        drawn_RU += clusters * np.arange(number)[:, None]  # so that one count is of all resamples
        times = np.bincount(drawn_RU.ravel(), minlength=number * clusters)
        yield times.reshape(number, clusters).astype(np.float64)


def _resampled_shares(cluster_N: Ints, column_N: Ints, right_N: Flags, *, columns: int) -> tuple[Reals, Reals, Ints]:
    """The share of right rows in each column: [R, M] of resamples, [M] of all rows; and [M] the clusters it has.

    NaN where a column has no row.
    """
    from scipy.sparse import coo_array

    clusters, place_N = np.unique(cluster_N, return_inverse=True)
    shape = (len(clusters), columns)
    trials_UM, hits_UM = (
        coo_array((rows.astype(np.float64), (place_N, column_N)), shape=shape).tocsr()
        for rows in (np.ones(len(column_N)), right_N)
    )
    shares = [_ratio(weights_RU @ hits_UM, weights_RU @ trials_UM) for weights_RU in resample(len(clusters))]
    value_M = _ratio(hits_UM.sum(axis=0), trials_UM.sum(axis=0))
    return np.concatenate(shares), value_M, (trials_UM > 0).sum(axis=0)


def _ratio(hits: Reals, trials: Reals) -> Reals:
    return np.asarray(np.divide(hits, trials, out=np.full(trials.shape, np.nan), where=trials > 0))


def _ends(shares_RM: Reals, clusters_M: Ints) -> tuple[Reals, Reals]:
    """The percentiles of each column, or Wilson's interval for the number of its clusters; NaN without one."""
    low_M, high_M = np.full((2, shares_RM.shape[1]), np.nan)
    for m in np.flatnonzero(clusters_M):
        low_M[m], high_M[m] = np.nanquantile(shares_RM[:, m], _ENDS)
        if low_M[m] == high_M[m]:
            low_M[m], high_M[m] = map(float, wilson(low_M[m] * clusters_M[m], clusters_M[m]))
    return low_M, high_M
