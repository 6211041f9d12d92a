"""Chooses which images a person labels: strata of confidence, an allocation, and an order that can be cut anywhere.

A unit is what is drawn as a whole: an image, or a group of images. Where the model is unsure, units are drawn more
often, which narrows intervals; where it is sure, still often enough to find what it does not know of itself. The
order is a house-monotone apportionment (Webster's method), so that the units for fewer labels are the first of those
for more, and an interrupted labelling is a sample too. Axes: U units, H strata, B bins. Must not read files.
"""

from typing import NamedTuple

import numpy as np

from .counts import UNITS, Ints, Reals

# Strata. In simulations with 200 labels three gave an interval of accuracy that is a fifth narrower than that of a
# simple random sample; more make it wider again, as each has an error rate of its own to be bounded.
STRATA = 3
_BINS_A_DECADE, _DECADES = 50, 6  # of the expected error; below 1e-6 all is one bin
BINS = _BINS_A_DECADE * _DECADES
# Share of the labels by Neyman's optimum for the expected errors; the rest is proportional. A model may be sure where
# it is wrong, and the optimum for what it expects leaves few labels there: with hidden errors of up to 5 % among the
# surest images, intervals from it were a fifth wider than from this half.
_NEYMAN = 0.5
_LEAST_ERROR = 0.01  # expected in any stratum: what a model claims beyond is not relied on
_LEAST = 2  # units of each stratum that come first


class Strata(NamedTuple):
    """Strata of units, from the least sure to the surest. Those without units are left out."""

    first_bin: Ints  # [H] the lowest bin of `error_bin` of each, falling; the last is 0
    units: Ints  # [H]
    error: Reals  # [H] expected share of wrong images


def error_bin(error_U: Reals) -> Ints:
    """[U] the bin of an expected error, 0 to `BINS` - 1: logarithmic, for nearly all errors are small."""
    with np.errstate(divide="ignore"):
        places = np.floor(_BINS_A_DECADE * (np.log10(np.asarray(error_U, np.float64)) + _DECADES))
    return np.asarray(np.clip(places, 0, BINS - 1), np.int64)


def cut_strata(units_B: Ints, error_B: Ints, *, strata: int = STRATA) -> Strata:
    """Cut units into strata of about equal sums of standard deviations (Dalenius and Hodges, JASA 54, 1959).

    `units_B` are the units of each bin of `error_bin`, `error_B` the sum of their expected errors in `UNITS`; integers,
    so that the strata do not depend on the order in which units were counted.
    """
    mean_B = np.divide(error_B / UNITS, units_B, out=np.zeros(len(units_B)), where=units_B > 0)
    spread_B = units_B * np.sqrt(np.maximum(mean_B * (1 - mean_B), 0))
    above_B = np.cumsum(spread_B[::-1])[::-1]  # of a bin and those that are less sure
    total = above_B[0]
    if total <= 0:
        return Strata(np.zeros(1, np.int64), np.array([units_B.sum()]), np.array([error_B.sum() / UNITS]))
    stratum_B = np.minimum((strata * (above_B - spread_B / 2) / total).astype(np.int64), strata - 1)
    filled = [h for h in range(strata) if units_B[stratum_B == h].any()]
    units_H = np.array([units_B[stratum_B == h].sum() for h in filled])
    first_H = np.array([np.flatnonzero(stratum_B == h)[0] for h in filled])
    first_H[-1] = 0
    error_H = np.array([error_B[stratum_B == h].sum() / UNITS for h in filled]) / units_H
    return Strata(first_H.astype(np.int64), units_H.astype(np.int64), error_H)


def stratum_of(bin_U: Ints, strata: Strata) -> Ints:
    """[U] the stratum of each unit by its bin."""
    return np.asarray((bin_U[:, None] < strata.first_bin[None, :]).sum(axis=1), np.int64)


def draw_order(strata: Strata, most: int) -> Ints:
    """[most] the stratum from which each next unit is drawn, fewer where the units are fewer.

    Each stratum gets a share of the units: the mean of its share of the population and of Neyman's (JRSS 97, 1934).
    """
    error_H = np.clip(strata.error, _LEAST_ERROR, 1 - _LEAST_ERROR)
    spread_H = strata.units * np.sqrt(error_H * (1 - error_H))
    share_H = _NEYMAN * spread_H / spread_H.sum() + (1 - _NEYMAN) * strata.units / strata.units.sum()
    places, turns = [], []
    for h, (share, units) in enumerate(zip(share_H, strata.units, strict=True)):
        turn = np.arange(min(int(units), most), dtype=np.float64)
        turn = np.where(turn < _LEAST, turn - _LEAST, (turn + 0.5) / share)  # Webster's divisors
        turns.append(turn)
        places.append(np.full(len(turn), h))
    order = np.lexsort((np.concatenate(places), np.concatenate(turns)))
    return np.asarray(np.concatenate(places)[order][:most], np.int64)
