"""Two models on the same images: against published figures, sums, and simulation."""

import math

import numpy as np
import pytest

from brainray.evaluation import paired
from brainray.evaluation.paired import Pairs


def test_the_interval_of_the_difference_is_the_published_one():
    """Newcombe 1998: 36, 12, 2 and 0 of 50 give 0.2000 (0.0569 to 0.3404)."""
    found = paired.difference(Pairs(36, 2, 12, 0))
    assert found.method == "newcombe"
    assert found[:3] == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


def test_swapping_the_models_turns_the_interval_round():
    value, low, high, _ = paired.difference(Pairs(30, 4, 11, 5))
    assert paired.difference(Pairs(30, 11, 4, 5))[:3] == pytest.approx((-value, -high, -low))


def test_many_tables_at_once_are_each_alone():
    tables = np.array([(36, 2, 12, 0), (10, 0, 0, 0), (0, 5, 0, 5), (0, 0, 0, 0)])
    together = np.stack(paired.newcombe(tables), axis=1)
    for row, table in zip(together[:3], tables[:3], strict=True):
        assert row == pytest.approx(paired.difference(Pairs(*table.tolist()))[:3])
    assert np.isnan(together[3]).all()
    assert paired.difference(Pairs(0, 0, 0, 0)) is None


def test_mcnemar_is_the_exact_binomial_test_of_the_discordant():
    tail = sum(math.comb(12, k) for k in range(3)) / 2**12
    assert paired.mcnemar(Pairs(50, 10, 2, 3)) == paired.mcnemar(Pairs(50, 2, 10, 3)) == pytest.approx(2 * tail)
    assert paired.mcnemar(Pairs(50, 4, 4, 3)) == 1
    assert paired.mcnemar(Pairs(50, 0, 0, 3)) == 1
    assert paired.mcnemar(Pairs(500_000, 40_000, 41_000, 3)) < 0.001


def test_groups_whose_images_stand_alone_give_almost_the_interval_of_images():
    clusters = np.array([(1, 0, 360), (1, -1, 20), (1, 1, 120)])
    found, plain = paired.difference(Pairs(360, 20, 120, 0), clusters), paired.difference(Pairs(360, 20, 120, 0))
    assert found.method == "cluster_bootstrap"
    assert found[:3] == pytest.approx(plain[:3], abs=0.01)


def test_images_that_flip_together_make_the_interval_wider_and_order_changes_nothing():
    clusters = np.array([(10, 0, 36), (10, -10, 2), (10, 10, 12)])
    found, again = (paired.difference(Pairs(360, 20, 120, 0), kinds) for kinds in (clusters, clusters[::-1]))
    plain = paired.difference(Pairs(360, 20, 120, 0))
    assert found == again
    assert found.high - found.low > 2 * (plain.high - plain.low)


def test_one_group_says_nothing_about_groups():
    assert paired.difference(Pairs(4, 1, 2, 0), np.array([(7, 1, 1)])).method == "newcombe"


def test_many_kinds_of_groups_are_drawn_in_pieces(monkeypatch):
    clusters = np.array([(size, size % 3 - 1, 4) for size in range(1, 60)])
    whole = paired.difference(Pairs(900, 90, 90, 0), clusters)
    monkeypatch.setattr(paired, "_CHUNK", 500)
    assert paired.difference(Pairs(900, 90, 90, 0), clusters) == whole
