"""What a labelled sample says of an archive: accuracy, recall and prevalence with 95 % intervals that keep their word.

The sample is that of `sampling`: units (images, or whole groups) drawn at random from each stratum. Figures are of the
archive as it is, so images that depend on each other do no harm where single images are drawn. All follow from shares
of the archive: images predicted wrongly; of each class, those missed and those wrongly added. Such a share is bounded
in each stratum by inverting the hypergeometric tests (Buonaccorsi, American Statistician 41, 1987), as a stratum is
finite and may be drawn nearly whole. Where groups are drawn, it is by Clopper and Pearson's interval (Biometrika 26,
1934) with the effective number of labels (Korn and Graubard, Survey Methodology 24, 1998). The bounds are put together
by the method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27, 2008). Jeffreys' interval is
narrower, and covers too little where errors are few: 91.5 % in simulations of strata as `sampling` makes them.

Prevalence is the prediction-powered estimate (Angelopoulos et al., Science 382, 2023) of each stratum: predictions,
corrected by what the labels say of them. PPI++ (arXiv:2311.01453) tunes the weight of the predictions on the labels and
takes a normal interval, which covers too little where a class is rare or hardly ever mistaken.

An image without an answer is a gap that the interval spans: it counts as whatever makes the figure lowest at the low
end, and highest at the high end. The value is of the images with an answer. Axes: N sampled images, H strata,
K classes. Must not read files.
"""

from bisect import bisect_left
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .counts import Flags, Ints, Reals
from .metrics import IntervalEstimate

# Instead of a class: nobody has answered; it is not the predicted one, and nobody knows which; it is none.
UNKNOWN, WRONG, NO_CLASS = -1, -2, -3
_TAIL = 0.025
_TINY = 1e-12
_NOTHING = 0.5, 0.0, 1.0  # value and bounds of a share of which nothing is known


class Population(NamedTuple):
    """The archive that a sample is of."""

    images: Ints  # [H]
    units: Ints  # [H] images, or groups
    predicted: Ints  # [H, K] images by predicted class
    known: Ints  # [K, K] images that had a label before anything was drawn; they are in no stratum


class Sample(NamedTuple):
    """The drawn images."""

    stratum: Ints  # [N]
    unit: Ints  # [N] any numbers, equal for images that were drawn as a whole
    predicted: Ints  # [N]
    label: Ints  # [N] a class, `UNKNOWN`, `WRONG` or `NO_CLASS`

    def of(self, rows: Flags) -> "Sample":
        """Some of the images."""
        return Sample(*(column[rows] for column in self))


class LabelledEstimates(NamedTuple):
    """Figures of all images of a population."""

    accuracy: IntervalEstimate
    recall: list[IntervalEstimate | None]  # of each class; None where no image of it was found
    prevalence: list[IntervalEstimate]  # of each class


class _Share(NamedTuple):
    """A share of the images of each stratum, with its bounds, [H] each."""

    value: Reals
    low: Reals
    high: Reals


def estimate(population: Population, sample: Sample, *, times: float = 1.0) -> LabelledEstimates:
    """The figures of a population by a sample with an answer in each stratum.

    `times` as many labels with the same shares give the intervals that so many would give.
    """
    shares = _Shares(population, sample, times)
    K = population.predicted.shape[1]
    return LabelledEstimates(
        accuracy=_accuracy(shares),
        recall=[_recall(shares, k) for k in range(K)],
        prevalence=[_prevalence(shares, k) for k in range(K)],
    )


class _Shares:
    """Shares of the strata by the labels of the sample."""

    def __init__(self, population: Population, sample: Sample, times: float) -> None:
        self.population, self.sample, self._times = population, sample, times
        self.total = int(population.images.sum() + population.known.sum())
        self.weight_H = population.images / self.total
        self._rows = [np.flatnonzero(sample.stratum == h) for h in range(len(population.images))]
        self._units = [np.unique(sample.unit[rows], return_inverse=True)[1] for rows in self._rows]

    def share(self, sure_N: Flags, maybe_N: Flags) -> _Share:
        """The share of images of which something is so for sure, or only maybe as they have no answer."""
        ends = [self._stratum(h, sure_N[rows], maybe_N[rows]) for h, rows in enumerate(self._rows)]
        return _Share(*(np.array(column) for column in zip(*ends, strict=True)))

    def _stratum(self, h: int, sure_n: Flags, maybe_n: Flags) -> tuple[float, float, float]:
        if not len(sure_n):
            return _NOTHING
        unit_n, answered_n = self._units[h], self.sample.label[self._rows[h]] != UNKNOWN
        value = float(sure_n[answered_n].mean()) if answered_n.any() else _NOTHING[0]
        sure, either = int(sure_n.sum()), int((sure_n | maybe_n).sum())
        images, units, drawn = int(self.population.images[h]), int(self.population.units[h]), int(unit_n.max()) + 1
        if self._times == 1 and units == images:
            low, _ = hypergeometric_bounds(sure, drawn, units)
            _, high = hypergeometric_bounds(either, drawn, units)
        else:
            trials = _in_finite(self._times * effective(unit_n), drawn=min(1.0, self._times * drawn / units))
            low, _ = clopper_pearson(sure / len(sure_n), trials)
            _, high = clopper_pearson(either / len(sure_n), trials)
        return value, min(low, value), max(high, value)


def effective(unit_n: Ints) -> float:
    """The number of independent images that say as much as these, which were drawn unit by unit: the least it can be.

    Images of a unit count as one, with Kish's correction for unequal sizes (Survey Sampling, 1965). A design effect
    that is estimated from the labels promises too much: where 4 % of the groups are wrong as a whole and 30 groups of
    20 images are drawn, intervals of accuracy with it covered in 81 % of the draws.
    """
    size_u = np.bincount(unit_n).astype(np.float64)
    return float(size_u.sum() ** 2 / (size_u**2).sum())


def clopper_pearson(share: float, trials: float) -> tuple[float, float]:
    """The 95 % interval of a proportion."""
    from scipy.special import betaincinv

    if np.isinf(trials):
        return share, share
    k = share * trials
    low = float(betaincinv(k, trials - k + 1, _TAIL)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, trials - k, 1 - _TAIL)) if k < trials else 1.0
    return low, high


def _in_finite(trials: float, *, drawn: float) -> float:
    """The trials of an endless population that say as much as these, where this share of a finite one was drawn.

    So that the high end is the exact one where nothing is found, and wider than it elsewhere. The usual correction,
    1 - `drawn`, is for normal intervals: with no error among 160 of 200 images its high end is less than half of this.
    """
    return float("inf") if drawn == 1 else trials * -float(np.log1p(-drawn)) / drawn


@lru_cache(4096)
def hypergeometric_bounds(found: int, drawn: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share of `total` images, of which `found` of `drawn` ones have what is counted."""
    low, high = total - _most_marked(drawn - found, drawn, total), _most_marked(found, drawn, total)
    return low / total, high / total


def _most_marked(found: int, drawn: int, total: int) -> int:
    """The most images of `total` that may be marked: with more, `found` or fewer among `drawn` ones are too rare."""
    more = range(found + 1, total - drawn + found + 1)
    return found + bisect_left(more, True, key=lambda marked: _at_most(found, drawn, total, marked) <= _TAIL)


def _at_most(found: int, drawn: int, total: int, marked: int) -> float:
    """The chance to find at most `found` marked images among `drawn` ones, if `marked` of `total` are."""
    from scipy.special import gammaln

    def chosen(n: Ints | int, k: Ints | int) -> Reals:
        return np.asarray(gammaln(np.add(n, 1)) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1))

    number = np.arange(max(0, drawn - total + marked), found + 1)
    logs = chosen(marked, number) + chosen(total - marked, drawn - number) - chosen(total, drawn)
    return float(np.exp(logs).sum())


def _accuracy(shares: _Shares) -> IntervalEstimate:
    sample, known = shares.sample, shares.population.known
    gap_N = sample.label == UNKNOWN
    wrong = shares.share((sample.label != sample.predicted) & ~gap_N, gap_N)
    known_wrong = int(known.sum() - known.trace()) / shares.total
    low, value, high = _sum(shares.weight_H, wrong)
    return _within(1 - known_wrong - value, 1 - known_wrong - high, 1 - known_wrong - low)


def _missed(shares: _Shares, k: int) -> _Share:
    """Images of class k that are predicted as another one.

    Wrong images of which nobody knows the class have, by the value, those of the other wrong ones of their stratum.
    """
    sample, H = shares.sample, len(shares.population.images)
    other_N = sample.predicted != k
    share = shares.share(other_N & (sample.label == k), other_N & np.isin(sample.label, (UNKNOWN, WRONG)))
    wrong_N = other_N & (sample.label != sample.predicted) & (sample.label != UNKNOWN)
    wrong_H = np.bincount(sample.stratum[wrong_N], minlength=H)
    sorted_H = np.bincount(sample.stratum[wrong_N & (sample.label != WRONG)], minlength=H)
    value = share.value * np.where(sorted_H, wrong_H / np.maximum(1, sorted_H), 1.0)
    return share._replace(value=value, high=np.maximum(share.high, value))


def _added(shares: _Shares, k: int) -> _Share:
    """Images of another class that are predicted as k."""
    sample = shares.sample
    is_N, gap_N = sample.predicted == k, sample.label == UNKNOWN
    return shares.share(is_N & (sample.label != k) & ~gap_N, is_N & gap_N)


def _prevalence(shares: _Shares, k: int) -> IntervalEstimate:
    population, weight_H = shares.population, shares.weight_H
    known = int(population.known[k].sum() + population.predicted[:, k].sum()) / shares.total
    missed, added = _missed(shares, k), _added(shares, k)
    value = known + float(weight_H @ (missed.value - added.value))
    # The two shares exclude each other: this correlation widens the interval of their difference.
    odds_H = missed.value / np.maximum(1 - missed.value, _TINY) * added.value / np.maximum(1 - added.value, _TINY)
    down = _recovered(weight_H, missed.value - missed.low, added.high - added.value, np.sqrt(odds_H))
    up = _recovered(weight_H, missed.high - missed.value, added.value - added.low, np.sqrt(odds_H))
    return _within(value, value - down, value + up)


def _recall(shares: _Shares, k: int) -> IntervalEstimate | None:
    """Found images of the class over found and missed ones: each of the two shares moves it one way."""
    known, weight_H = shares.population.known, shares.weight_H
    missed, added = _missed(shares, k), _added(shares, k)
    called = float(shares.population.predicted[:, k].sum()) / shares.total
    found_known, missed_known = known[k, k] / shares.total, (known[k].sum() - known[k, k]) / shares.total

    def recall(missed_share: float, added_share: float) -> float:
        found = found_known + max(0.0, called - added_share)
        return found / (found + missed_known + missed_share) if found + missed_known + missed_share else 0.0

    (m_low, m, m_high), (a_low, a, a_high) = _sum(weight_H, missed), _sum(weight_H, added)
    value = recall(m, a)
    if called + found_known - a + m + missed_known <= _TINY:
        return None
    down = np.hypot(value - recall(m_high, a), value - recall(m, a_high))
    up = np.hypot(recall(m_low, a) - value, recall(m, a_low) - value)
    return _within(value, value - float(down), value + float(up))


def _sum(weight_H: Reals, share: _Share) -> tuple[float, float, float]:
    """Low end, value and high end of a share of all images."""
    value = float(weight_H @ share.value)
    down, up = (float(np.sqrt(weight_H**2 @ ends**2)) for ends in (share.value - share.low, share.high - share.value))
    return max(0.0, value - down), value, min(1.0, value + up)


def _recovered(weight_H: Reals, first_H: Reals, second_H: Reals, against_H: Reals) -> float:
    """How far the sum of two kinds of shares may be off, from how far each may be; `against` is their correlation."""
    squares_H = first_H**2 + second_H**2 + 2 * against_H * first_H * second_H
    return float(np.sqrt(weight_H**2 @ squares_H))


def _within(value: float, low: float, high: float) -> IntervalEstimate:
    return IntervalEstimate(*(min(1.0, max(0.0, end)) for end in (value, low, high)))
