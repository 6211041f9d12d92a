"""Shares of classes and accuracy without labels, on classifiers of which the answer is known."""

import numpy as np
import pytest

from brainray.evaluation import label_shift
from brainray.evaluation.label_shift import Rows, Strangers, estimate, fewest_groups, separation, shares_of

NONE = np.zeros(0, np.int64)


def pictures(counts, *, sure=3.0, seed=0):
    """Pictures by class, one a group, and a classifier that is as `sure` as it may be."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(counts)), counts)
    scores = rng.normal(size=(len(label), len(counts)))
    scores[np.arange(len(label)), label] += sure
    powers = np.exp(sure * scores - (sure * scores).max(axis=1, keepdims=True))
    return Rows(powers / powers.sum(axis=1, keepdims=True), np.arange(len(label)), label)


def unlabelled(rows):
    return rows._replace(label_N=NONE)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(label_shift, "DRAWS", 60)


def test_a_rare_class_of_two_is_found_although_twice_as_many_images_are_called_so():
    found = estimate(pictures([300, 300], sure=2.0), unlabelled(archive := pictures([950, 50], sure=2.0, seed=1)))
    counted = float((archive.probs_NK.argmax(axis=1) == 1).mean())
    assert counted > 0.1
    assert found.prevalence[1].low <= 0.05 <= found.prevalence[1].high < counted
    assert sum(one.value for one in found.prevalence) == pytest.approx(1)


def test_accuracy_is_said_in_two_ways_that_hold_the_truth():
    archive = pictures([800, 200, 100], sure=1.8, seed=1)
    right = float((archive.probs_NK.argmax(axis=1) == archive.label_N).mean())
    found = estimate(pictures([200, 200, 200], sure=1.8), unlabelled(archive))
    for way in (found.by_confidence, found.by_threshold):
        assert way.low <= right <= way.high and way.high - way.low < 0.15


def test_a_perfect_classifier_gives_its_counts():
    probs = np.eye(3)[np.repeat([0, 1, 2], [60, 30, 10])]
    reference = Rows(np.eye(3)[np.repeat([0, 1, 2], 40)], np.arange(120), np.repeat([0, 1, 2], 40))
    found = estimate(reference, Rows(probs, np.arange(100), NONE))
    assert [one.value for one in found.prevalence] == pytest.approx([0.6, 0.3, 0.1], abs=1e-4)
    assert [found.by_confidence.value, found.by_threshold.value] == pytest.approx([1, 1])
    assert found.by_confidence.low < 1, "100 images do not prove that all are right"


def test_a_class_that_is_missing_keeps_an_upper_end():
    share = estimate(pictures([200, 200, 200]), unlabelled(pictures([150, 150, 0], seed=1))).prevalence[2]
    assert share.low == 0 and share.value < 0.01 < share.high < 0.05


def test_a_useless_classifier_separates_nothing():
    rng = np.random.default_rng(0)
    useless = Rows(rng.dirichlet(np.ones(3), 300), np.arange(300), np.repeat([0, 1, 2], 100))
    assert separation(useless) < 0.1 < 0.5 < separation(pictures([100, 100, 100]))


def test_probabilities_that_are_too_sharp_are_calibrated_first():
    reference, archive = pictures([300, 300], sure=1.2), pictures([450, 50], sure=1.2, seed=1)
    sharp = [rows._replace(probs_NK=_sharper(rows.probs_NK)) for rows in (reference, archive)]
    assert shares_of(*sharp) == pytest.approx(shares_of(reference, archive), abs=1e-4)


def _sharper(probs):
    powers = probs**2
    return powers / powers.sum(axis=1, keepdims=True)


def test_groups_of_unequal_sizes_count_as_fewer():
    rows = pictures([40, 40])._replace(group_N=np.r_[np.zeros(30, int), np.arange(1, 11), np.arange(11, 51)])
    k, groups = fewest_groups(rows)
    assert k == 0 and groups == pytest.approx(40**2 / (30**2 + 10))


def test_images_like_none_of_the_reference_may_be_of_any_class_or_of_none():
    known, other = pictures([100, 100]), unlabelled(pictures([60, 60], seed=1))
    is_stranger = other.probs_NK.argmax(axis=1) == 1  # all strangers are called the second class
    is_stranger[np.flatnonzero(is_stranger)[6:]] = False
    narrow = estimate(known, other).prevalence
    wide = estimate(known, other, strangers=Strangers(0.05, is_stranger)).prevalence
    assert wide[1].low == pytest.approx(narrow[1].low - 0.05, abs=0.01), "none of those called so may be"
    assert wide[1].high == pytest.approx(narrow[1].high, abs=0.01), "they are counted there already"
    assert wide[0].low == pytest.approx(narrow[0].low, abs=0.01)
    assert wide[0].high == pytest.approx(narrow[0].high + 0.05, abs=0.01)


def test_images_that_are_not_found_may_be_of_any_class_or_of_none():
    known, other = pictures([100, 100]), unlabelled(pictures([60, 60], seed=1))
    hidden = Strangers(0.03, np.zeros(120, bool))
    for given, allowed in zip(
        estimate(known, other).prevalence, estimate(known, other, strangers=hidden).prevalence, strict=True
    ):
        assert (allowed.low, allowed.high) == pytest.approx((given.low - 0.03, given.high + 0.03))


def test_accuracy_allows_for_strangers_that_are_all_wrong():
    known, other = pictures([100, 100]), unlabelled(pictures([60, 60], seed=1))
    narrow, wide = (
        estimate(known, other, strangers=Strangers(share, np.zeros(120, bool))).by_confidence for share in (0, 0.03)
    )
    assert wide.low == pytest.approx(narrow.low - 0.03)


def test_a_resample_has_each_row_of_a_drawn_group_once_with_the_weight_of_its_draws():
    rows = pictures([40, 40])._replace(group_N=np.arange(80) // 4)
    whole = label_shift._Side.of(rows)
    drawn = whole.resampled(np.random.default_rng(1))
    times = np.bincount(np.random.default_rng(1).integers(0, 20, 20), minlength=20)
    assert len(drawn.place_N) == 4 * (times > 0).sum() < 80
    assert drawn.weight_N == pytest.approx(times[drawn.place_N] / 80)
    repeated = np.repeat(np.arange(80), times[whole.place_N])
    assert drawn.log_KN @ drawn.weight_N == pytest.approx(whole.log_KN[:, repeated].mean(axis=1))


def test_sums_over_classes_go_through_memory_in_order():
    """Otherwise a summary spends five times the processor on its intervals."""
    assert label_shift._Side.of(pictures([40, 40])).log_KN.flags.c_contiguous


def test_the_patients_of_an_archive_without_groups_may_be_as_different_as_those_of_the_reference(monkeypatch):
    known = pictures([150, 150], sure=1.5)._replace(group_N=np.arange(300) // 10)
    single = unlabelled(pictures([300, 300], sure=1.5, seed=1))
    wide = estimate(known, single).prevalence[0]
    monkeypatch.setattr(label_shift, "_patients_add", lambda known, other: 1.0)
    narrow = estimate(known, single).prevalence[0]
    assert wide.low < narrow.low < narrow.value == wide.value < narrow.high < wide.high


def test_the_fewer_patients_an_archive_has_the_wider_are_intervals():
    """Else shares of 5,000 images of 60 patients, whose errors come by the patient, would be held too seldom."""
    known, other = (label_shift._Side.of(pictures(counts)) for counts in ([100, 100], [50, 50]))
    assert label_shift._patients_add(known, other) == pytest.approx(np.sqrt(1 + 200 / 100))
    assert label_shift._patients_add(known, other._replace(place_N=np.arange(100) // 2)) == pytest.approx(np.sqrt(5))
    assert label_shift._patients_add(known, other._replace(place_N=np.arange(100) // 25)) == pytest.approx(np.sqrt(51))


def test_shares_are_of_the_archive_whatever_its_groups():
    """Its images are drawn one by one: 10 patients of which all are known say all of themselves."""
    known, single = pictures([300, 300]), unlabelled(pictures([300, 300], seed=1))
    alone = estimate(known, single).prevalence[0]
    grouped = estimate(known, single._replace(group_N=np.arange(600) // 2)).prevalence[0]
    assert grouped.value == pytest.approx(alone.value)
    assert alone.high - alone.low < grouped.high - grouped.low < 1.2 * (alone.high - alone.low)


def calibrated(known):
    """Calibration on a reference, without and with what shrinks it."""
    side, rng = label_shift._Side.of(known), np.random.default_rng(0)
    whole = label_shift._calibrate(side)
    fits = [label_shift._calibrate(side.resampled(rng), start=whole) for _ in range(20)]
    return whole, label_shift._shrunk(whole, fits)


def test_probabilities_that_are_right_already_are_changed_less():
    """Calibration on few pictures adds noise: shares of pictures of three classes came out farther off."""
    errors = []
    for seed in range(12):
        archive = pictures([50, 250, 200], sure=1.5, seed=100 + seed)
        other = label_shift._Side.of(unlabelled(archive))
        fits = calibrated(pictures([60, 60, 60], sure=1.5, seed=seed))
        shares = [label_shift._shares(label_shift._ratios(other, fit), other.weight_N, fit.share_K) for fit in fits]
        errors.append([np.abs(share_K - np.bincount(archive.label_N) / 500).max() for share_K in shares])
    without, shrunk = np.mean(errors, axis=0)
    assert shrunk < 0.95 * without


def test_probabilities_that_are_wrong_for_sure_are_calibrated_as_without():
    known = pictures([300, 300, 300], sure=1.2)
    whole, shrunk = calibrated(known._replace(probs_NK=_sharper(known.probs_NK)))
    assert shrunk.slope == pytest.approx(whole.slope, abs=0.02)
