"""Compares two models on the same images: McNemar's test, and intervals of the difference of their accuracies.

Every function takes counts of pairs, so that nothing here grows with the number of images. The difference is that of
the second model less the first. Must not read files.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .counts import Ints, Reals
from .metrics import wilson

_RESAMPLES, _CHUNK = 2_000, 1_000_000  # draws, and the most numbers that are held at once
_SEED = 20_251_128  # fixed, so that equal counts give equal intervals
Method = Literal["newcombe", "cluster_bootstrap"]


class Difference(NamedTuple):
    """A difference of two accuracies on the same images with its 95 % interval."""

    value: float
    low: float
    high: float
    method: Method


class Pairs(NamedTuple):
    """Counts of labelled images by which of the two models are right."""

    both_right: int
    only_first: int
    only_second: int
    both_wrong: int


def mcnemar(pairs: Pairs) -> float:
    """The two-sided p-value that both models are equally often right, images being independent; 1 without discordance.

    McNemar, Psychometrika 12 (1947), by the exact binomial distribution for any number of discordant images: its
    approximation by chi-squared needs at least 25 of them.
    """
    from scipy.special import bdtr  # `scipy.stats`, whose `binomtest` says the same, takes two seconds to import

    fewer = min(pairs.only_first, pairs.only_second)
    # At one half both tails are alike; they overlap where the models are even.
    return min(1.0, 2 * float(bdtr(fewer, pairs.only_first + pairs.only_second, 0.5)))


def newcombe(pairs: npt.ArrayLike) -> tuple[Reals, Reals, Reals]:
    """The differences of `Pairs` [..., 4], with the ends of their 95 % intervals; NaN without images.

    Newcombe, Statistics in Medicine 17:2635-2650 (1998), method 10: Wilson's intervals of both proportions, joined by
    their correlation with a correction for continuity.
    """
    both, first, second, neither = np.moveaxis(np.asarray(pairs, np.float64), -1, 0)
    n = both + first + second + neither
    share_1, share_2 = ((both + own) / np.where(n > 0, n, np.nan) for own in (first, second))
    (low_1, high_1), (low_2, high_2) = (wilson(both + own, n) for own in (first, second))
    phi = _correlation(both, first, second, neither)
    value = share_2 - share_1
    down_2, up_1, up_2, down_1 = share_2 - low_2, high_1 - share_1, high_2 - share_2, share_1 - low_1
    low = value - np.sqrt(np.maximum(down_2**2 - 2 * phi * down_2 * up_1 + up_1**2, 0))
    high = value + np.sqrt(np.maximum(up_2**2 - 2 * phi * up_2 * down_1 + down_1**2, 0))
    return value, low, high


def _correlation(both: Reals, first: Reals, second: Reals, neither: Reals) -> Reals:
    """The correlation phi, whose positive covariance is less half the images but not below 0; 0 where it has none."""
    n = both + first + second + neither
    covariance = both * neither - first * second
    covariance = np.where(covariance > 0, np.maximum(covariance - n / 2, 0), covariance)
    spread = np.sqrt((both + first) * (second + neither)) * np.sqrt((both + second) * (first + neither))
    return np.asarray(np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0), np.float64)


def difference(pairs: Pairs, clusters: Ints | None = None) -> Difference | None:
    """The difference of the accuracies; None without images.

    `clusters` [C, 3] are the kinds of groups: images of a group, images right by the second less those by the first,
    number of such groups. With two groups or more the interval is the bootstrap's, which draws whole groups, as images
    of a patient are alike; else it is Newcombe's.
    """
    if not sum(pairs):
        return None
    value, low, high = (float(each) for each in newcombe(pairs))
    if clusters is None or clusters[:, 2].sum() < 2:
        return Difference(value, low, high, "newcombe")
    low_drawn, high_drawn = _bootstrap(clusters)
    if low_drawn == high_drawn:  # the draws do not vary, which is no certainty: groups count as trials
        trials = np.asarray(pairs, np.float64) * (clusters[:, 2].sum() / sum(pairs))
        _, low, high = (float(each) for each in newcombe(trials))
        return Difference(value, low, high, "newcombe")
    return Difference(value, low_drawn, high_drawn, "cluster_bootstrap")


def _bootstrap(clusters: Ints) -> tuple[float, float]:
    """The percentile interval over draws of groups with replacement (Davison and Hinkley, 1997, section 3.8).

    Groups of equal counts are drawn together, by a multinomial distribution: the same draws for less work.
    """
    ordered = clusters[np.lexsort(clusters.T)]
    images, gained, groups = ordered.T
    random, shares = np.random.default_rng(_SEED), groups / groups.sum()
    rows = max(1, _CHUNK // len(groups))
    sizes = [min(rows, _RESAMPLES - start) for start in range(0, _RESAMPLES, rows)]
    chunks = (random.multinomial(groups.sum(), shares, size=size) for size in sizes)
    values = np.concatenate([(draws @ gained) / (draws @ images) for draws in chunks])
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
