"""What a labelled sample says of an archive, on cases whose answer is known."""

from math import comb

import numpy as np
import pytest
from support.each import each

from brainray.evaluation.stratified import (
    NO_CLASS,
    UNKNOWN,
    WRONG,
    Population,
    Sample,
    clopper_pearson,
    effective,
    estimate,
    hypergeometric_bounds,
)

NO_LABELS = np.zeros((2, 2), np.int64)


def population(predicted, known=NO_LABELS) -> Population:
    predicted = np.array(predicted)
    return Population(predicted.sum(axis=1), predicted.sum(axis=1), predicted, np.array(known))


def sample(*rows) -> Sample:
    """Rows of stratum, prediction, label, and how many such images."""
    stratum, predicted, label = np.repeat(np.array([row[:3] for row in rows]), [row[3] for row in rows], axis=0).T
    return Sample(stratum, np.arange(len(stratum)), predicted, label)


@each(("hits", "trials", "low", "high"), [(0, 10, 0, 0.30850), (1, 20, 0.00127, 0.24873), (81, 263, 0.25266, 0.36765)])
def test_an_interval_of_clopper_and_pearson_is_that_of_the_tables(hits, trials, low, high):
    """The last is in Newcombe, Statistics in Medicine 17, 1998, p. 857."""
    assert clopper_pearson(hits / trials, trials) == pytest.approx((low, high), abs=1e-4)


@each(("total", "drawn"), [(1, 1), (5, 3), (50, 40), (250, 200), (400, 20)])
def test_bounds_of_a_finite_archive_hold_whatever_its_share_is(total, drawn):
    """By the chances of every find, of every share. The usual correction held in 0.75 of the finds."""
    for marked in range(total + 1):
        held = 0.0
        for found in range(max(0, drawn - total + marked), min(drawn, marked) + 1):
            low, high = hypergeometric_bounds(found, drawn, total)
            ways = comb(marked, found) * comb(total - marked, drawn - found)
            held += ways / comb(total, drawn) * (low <= marked / total <= high)
        assert held >= 0.95


def test_bounds_of_a_large_archive_are_those_of_an_endless_one():
    assert hypergeometric_bounds(3, 150, 40_000_000) == pytest.approx(clopper_pearson(3 / 150, 150), abs=1e-5)


def test_groups_that_were_drawn_nearly_whole_leave_open_what_one_of_the_others_may_hold():
    """Of 50 groups of 4 images 40 are looked at, and all is right: one of ten others may be wrong as a whole."""
    rows = sample((0, 0, 0, 160))
    found = estimate(
        Population(np.array([200]), np.array([50]), np.array([[200, 0]]), NO_LABELS), rows._replace(unit=rows.unit // 4)
    )
    assert found.accuracy.low <= 1 - 2 / 50


def test_a_perfect_classifier_may_be_perfect():
    found = estimate(population([[500, 300], [100, 100]]), sample((0, 0, 0, 50), (0, 1, 1, 30), (1, 0, 0, 10)))
    assert (found.accuracy.value, found.accuracy.high) == (1, 1)
    assert 0.9 < found.accuracy.low < 1
    assert [each.high for each in found.recall] == [1, 1]
    assert [each.value for each in found.prevalence] == pytest.approx([0.6, 0.4])


def test_labels_of_all_images_leave_nothing_open():
    found = estimate(population([[6, 4]]), sample((0, 0, 0, 5), (0, 0, 1, 1), (0, 1, 1, 4)))
    assert found.accuracy == pytest.approx((0.9, 0.9, 0.9))
    assert found.recall[1] == pytest.approx((0.8, 0.8, 0.8))
    assert found.prevalence[0] == pytest.approx((0.5, 0.5, 0.5))


def test_images_without_an_answer_move_no_figure_if_they_are_as_the_others():
    rows = [(0, predicted, label, 80 if predicted == label else 20) for predicted in (0, 1) for label in (0, 1)]
    gaps = [(0, predicted, UNKNOWN, 100) for predicted in (0, 1)]
    whole = population([[70_000, 30_000]])
    full, with_gaps = estimate(whole, sample(*rows)), estimate(whole, sample(*rows, *gaps))
    assert with_gaps.accuracy.value == pytest.approx(full.accuracy.value)
    for name in ("recall", "prevalence"):
        for k in range(2):
            all_answered, some = getattr(full, name)[k], getattr(with_gaps, name)[k]
            assert some.value == pytest.approx(all_answered.value)
            assert some.high - some.low > all_answered.high - all_answered.low


def test_wrong_images_of_unknown_class_are_of_the_classes_of_other_wrong_ones():
    whole = Population(np.array([10_000]), np.array([10_000]), np.array([[10_000, 0, 0]]), np.zeros((3, 3), int))
    found = estimate(whole, sample((0, 0, 0, 80), (0, 0, 1, 6), (0, 0, 2, 4), (0, 0, WRONG, 10)))
    assert [each.value for each in found.prevalence] == pytest.approx([0.8, 0.12, 0.08])


def test_a_useless_classifier_is_known_as_such():
    rows = [(0, predicted, label, 50) for predicted in (0, 1) for label in (0, 1)]
    found = estimate(population([[5000, 5000]]), sample(*rows))
    assert found.accuracy.low < 0.5 < found.accuracy.high
    assert found.accuracy.high - found.accuracy.low < 0.15


def test_a_class_that_is_never_there_may_have_a_prevalence_of_nothing():
    found = estimate(population([[950, 50]]), sample((0, 0, 0, 95), (0, 1, 0, 5)))
    assert found.prevalence[1] == pytest.approx((0, 0, 0.1), abs=0.1)
    assert found.prevalence[1].low == 0
    assert found.recall[1] is None


def test_predictions_are_corrected_and_not_counted():
    """Of 100 calls of a rare class half are wrong, as the labels show."""
    found = estimate(population([[900, 100], [0, 0]]), sample((0, 0, 0, 90), (0, 1, 1, 5), (0, 1, 0, 5)))
    assert found.prevalence[1].value == pytest.approx(0.05)
    assert found.prevalence[1].low < 0.05 < found.prevalence[1].high < 0.1


def test_strata_count_by_their_images_not_by_their_labels():
    found = estimate(population([[10, 0], [990, 0]]), sample((0, 0, 1, 5), (1, 0, 0, 5)))
    assert found.accuracy.value == pytest.approx(0.99)


def test_what_had_a_label_before_counts_as_it_is():
    known = [[80, 20], [0, 0]]
    found = estimate(population([[100, 0]], known), sample((0, 0, 0, 100)))
    assert found.accuracy == pytest.approx((0.9, 0.9, 0.9))
    assert found.recall[0] == pytest.approx((0.9, 0.9, 0.9))


def test_an_image_without_an_answer_counts_as_right_at_one_end_and_wrong_at_the_other():
    whole = population([[10, 0]])
    found = estimate(whole, sample((0, 0, 0, 8), (0, 0, UNKNOWN, 2)))
    assert found.accuracy == pytest.approx((1, 0.8, 1))
    assert found.prevalence[1] == pytest.approx((0, 0, 0.2))
    found = estimate(whole, sample((0, 0, 0, 8), (0, 0, WRONG, 2)))
    assert found.accuracy == pytest.approx((0.8, 0.8, 0.8))
    assert found.prevalence[1] == pytest.approx((0, 0, 0.2))
    found = estimate(whole, sample((0, 0, 0, 8), (0, 0, NO_CLASS, 2)))
    assert found.prevalence == [pytest.approx((0.8, 0.8, 0.8)), pytest.approx((0, 0, 0))]


def test_a_stratum_without_labels_may_be_anything():
    found = estimate(population([[50, 0], [50, 0]]), sample((0, 0, 0, 50)))
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((0.5, 1))


def test_images_that_were_drawn_as_a_whole_count_as_one():
    assert effective(np.arange(40)) == 40
    assert effective(np.repeat(np.arange(10), 4)) == 10
    assert effective(np.array([0] * 9 + [1])) == pytest.approx(100 / 82)


def test_more_labels_narrow_the_interval():
    whole, drawn = population([[5000, 5000]]), sample((0, 0, 0, 95), (0, 1, 0, 5))
    widths = [np.ptp(estimate(whole, drawn, times=times).accuracy) for times in (1, 2, 4)]
    assert widths[0] > 1.3 * widths[1] > 1.6 * widths[2]


def test_the_intervals_hold_in_repeated_draws_where_the_surest_images_hide_errors():
    """A model that is sure of 85 % of its calls and wrong in 2 % of these, drawn 300 times."""
    rng = np.random.default_rng(0)
    stratum = np.repeat([0, 1, 2], [300, 600, 5100])
    predicted = rng.integers(0, 2, len(stratum))
    wrong = rng.random(len(stratum)) < np.array([0.3, 0.1, 0.02])[stratum]
    label = np.where(wrong, 1 - predicted, predicted)
    whole = population([np.bincount(predicted[stratum == h], minlength=2) for h in range(3)])
    truth = [1 - wrong.mean(), (label == 0).mean(), ((label == 0) & (predicted == 0)).sum() / (label == 0).sum()]
    held = []
    for _ in range(300):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(stratum == h), n, replace=False) for h, n in enumerate((35, 40, 125))]
        )
        found = estimate(whole, Sample(stratum[rows], rows, predicted[rows], label[rows]))
        intervals = (found.accuracy, found.prevalence[0], found.recall[0])
        held.append([each.low <= true <= each.high for each, true in zip(intervals, truth, strict=True)])
    assert np.mean(held, axis=0).min() >= 0.93
