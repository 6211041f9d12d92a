"""Strata and the order in which they are drawn from."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.each import each

from brainray.evaluation.counts import UNITS
from brainray.evaluation.sampling import BINS, Strata, cut_strata, draw_order, error_bin, stratum_of

ERRORS = st.lists(st.sampled_from([0, 1e-9, 1e-5, 0.001, 0.01, 0.03, 0.2, 0.4, 0.75, 1]), min_size=1, max_size=60).map(
    lambda errors: np.array(errors, np.float64)
)


def strata_of(errors) -> Strata:
    bins = error_bin(errors)
    sums = np.zeros(BINS, np.int64)
    np.add.at(sums, bins, np.rint(errors * UNITS).astype(np.int64))
    return cut_strata(np.bincount(bins, minlength=BINS), sums)


@given(ERRORS)
def test_every_unit_is_in_one_stratum_and_the_surest_are_in_the_last(errors):
    strata = strata_of(errors)
    stratum_U = stratum_of(error_bin(errors), strata)
    assert np.bincount(stratum_U, minlength=len(strata.units)).tolist() == strata.units.tolist()
    assert strata.units.min() > 0
    order = np.argsort(-error_bin(errors), kind="stable")
    assert (np.diff(stratum_U[order]) >= 0).all()


@given(ERRORS, st.integers(1, 100), st.integers(1, 100))
def test_a_sample_for_fewer_labels_is_the_first_part_of_that_for_more(errors, first, second):
    strata = strata_of(errors)
    fewer, more = (draw_order(strata, n) for n in sorted((first, second)))
    assert fewer.tolist() == more[: len(fewer)].tolist()
    assert len(more) == min(max(first, second), len(errors))
    assert (np.bincount(more, minlength=len(strata.units)) <= strata.units).all()


def test_unsure_images_are_drawn_more_often_and_sure_ones_often_enough():
    errors = np.concatenate([np.full(9000, 0.001), np.full(1000, 0.3)])
    strata = strata_of(errors)
    drawn = np.bincount(draw_order(strata, 200), minlength=len(strata.units))
    shares = drawn / strata.units
    assert shares[0] > 2 * shares[-1]
    assert drawn[-1] >= 100  # half of the labels are proportional


def test_each_stratum_is_drawn_from_before_any_is_drawn_from_thrice():
    strata = Strata(np.array([200, 100, 0]), np.array([10, 10, 100_000]), np.array([0.4, 0.2, 0.001]))
    assert sorted(draw_order(strata, 6).tolist()) == [0, 0, 1, 1, 2, 2]


@each("error", [0.0, 0.2, 1.0])
def test_units_that_are_alike_make_one_stratum(error):
    assert strata_of(np.full(50, error)).units.tolist() == [50]
