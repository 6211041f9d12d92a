"""95 % intervals by cluster bootstrap: whole clusters of images, such as patients, are resampled.

Errors come by the patient, so that an interval from images alone would be too narrow for new patients (Field and Welsh,
JRSS B 69, 2007). Axes: N images, U clusters, K classes, M proportions, R resamples. Must not read files.
"""

from typing import NamedTuple

import numpy as np

from .counts import Flags, Ints, Reals
from .metrics import IntervalEstimate, wilson

RESAMPLES = 2000
_AT_ONCE = 4_000_000  # weights of clusters in memory at a time: 32 MB
_ENDS = (0.025, 0.975)


class ClusterIntervals(NamedTuple):
    """Accuracy, and the recall of each class; NaN for a class without images."""

    accuracy: IntervalEstimate
    recall_low: Reals  # [K]
    recall_high: Reals  # [K]


def cluster_intervals(label_N: Ints, predicted_N: Ints, cluster_N: Ints, *, classes: int) -> ClusterIntervals:
    """The intervals of one labelled image or more; `cluster_N` are any numbers."""
    right_N = label_N == predicted_N
    column_N = np.concatenate([label_N, np.full_like(label_N, classes)])  # the last column counts every image
    low_M, high_M = bootstrap(np.tile(cluster_N, 2), column_N, np.tile(right_N, 2), columns=classes + 1)
    accuracy = IntervalEstimate(float(right_N.mean()), float(low_M[-1]), float(high_M[-1]))
    return ClusterIntervals(accuracy=accuracy, recall_low=low_M[:-1], recall_high=high_M[:-1])


def bootstrap(
    cluster_N: Ints, column_N: Ints, right_N: Flags, *, columns: int, resamples: int = RESAMPLES
) -> tuple[Reals, Reals]:
    """Low and high end of the share of right rows in each column, [M] each, by the percentiles of the resamples.

    A resample draws U of the U clusters with replacement; one that holds no row of a column does not count there.
    Where resamples do not vary (all is right, or there is one cluster), the ends are those of `wilson` with clusters
    as trials. The seed is fixed, so that equal rows give equal ends.
    """
    from scipy.sparse import coo_array

    clusters, place_N = np.unique(cluster_N, return_inverse=True)
    shape = (len(clusters), columns)
    trials_UM, hits_UM = (
        coo_array((rows.astype(np.float64), (place_N, column_N)), shape=shape).tocsr()
        for rows in (np.ones(len(column_N)), right_N)
    )
    rng = np.random.default_rng(0)
    shares = []
    at_once = max(1, _AT_ONCE // max(1, len(clusters)))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        weights_RU = np.stack([_draw(rng, len(clusters)) for _ in range(rows)])
        trials_RM, hits_RM = weights_RU @ trials_UM, weights_RU @ hits_UM
        shares.append(np.divide(hits_RM, trials_RM, out=np.full(trials_RM.shape, np.nan), where=trials_RM > 0))
    return _ends(np.concatenate(shares), (trials_UM > 0).sum(axis=0))


def _draw(rng: np.random.Generator, clusters: int) -> Reals:
    """How often each cluster is drawn."""
    return np.bincount(rng.integers(0, clusters, clusters), minlength=clusters).astype(np.float64)


def _ends(shares_RM: Reals, clusters_M: Ints) -> tuple[Reals, Reals]:
    """The percentiles of each column, or Wilson's interval for the number of its clusters; NaN without one."""
    low_M, high_M = np.full((2, shares_RM.shape[1]), np.nan)
    for m in np.flatnonzero(clusters_M):
        low_M[m], high_M[m] = np.nanquantile(shares_RM[:, m], _ENDS)
        if low_M[m] == high_M[m]:
            low_M[m], high_M[m] = map(float, wilson(low_M[m] * clusters_M[m], clusters_M[m]))
    return low_M, high_M
