"""A threshold keeps its promise on new patients, be there ties, few images, few patients or no error at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each

from brainray.evaluation import clusters
from brainray.evaluation.calibration import fit_temperature, softmax
from brainray.evaluation.metrics import wilson
from brainray.evaluation.review import calibrate_review, choose_review

rows = st.lists(st.tuples(st.sampled_from([0.3, 0.5, 0.7, 0.9, 0.99]), st.booleans()), max_size=60)


def low_end(accepted):
    return float(wilson(accepted.sum(), len(accepted))[0])


@settings(max_examples=60)
@given(rows=rows, least=st.sampled_from([0.1, 0.5, 0.8]))
def test_no_lower_threshold_would_do_and_this_one_does(rows, least):
    """Among equal confidences, too: all of them are accepted or none."""
    confidence, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows], bool)
    review = choose_review(confidence, right, promises=(least,))
    accepted = confidence >= review.below
    if review.promise is not None:
        assert right[accepted].mean() == pytest.approx(review.right)
        assert low_end(right[accepted]) == pytest.approx(review.right_low) and review.right_low >= least
        assert accepted.mean() == pytest.approx(review.accepted)
    else:
        assert not accepted.any() and (review.accepted, review.right, review.right_low) == (0.0, None, None)
    for lower in sorted({c for c in confidence if c < review.below}):
        assert low_end(right[confidence >= lower]) < least


@each(("images", "promise"), [(300, 0.98), (100, 0.95), (40, 0.9), (10, None), (0, None)])
def test_images_that_are_all_right_promise_what_their_number_shows(images, promise):
    sure = np.ones(images)
    for units in (None, np.arange(images)):
        review = choose_review(sure, sure > 0, units)
        assert review.promise == promise
        assert (sure >= review.below).all() == (promise is not None or not images), "1.0 is for review, too"


def test_a_promise_for_a_few_images_gives_way_to_a_lower_one_for_half_of_them():
    """At 98 % for 20 of 100 images a person would look at nearly all of them."""
    confidence = np.repeat([0.99, 0.8, 0.4], [600, 1400, 1000])
    right = np.arange(3000) % np.repeat([10_000, 30, 2], [600, 1400, 1000]) != 1
    review = choose_review(confidence, right)
    assert (review.promise, review.below) == (0.95, 0.8)
    assert review.accepted == pytest.approx(2 / 3) and review.right_low >= 0.95
    few = choose_review(confidence[[*range(600), *range(2000, 3000)]], right[[*range(600), *range(2000, 3000)]])
    assert (few.promise, few.below) == (0.98, 0.99), "where no promise is for half of them, the highest stands"


def test_one_patient_promises_nothing_however_many_slices_are_right():
    sure = np.full(3000, 0.9)
    assert choose_review(sure, sure > 0, np.zeros(3000, np.int64)).promise is None
    assert choose_review(sure, sure > 0, np.arange(3000) // 10).promise == 0.98


def test_an_error_never_promises_more_than_none():
    """By the percentiles alone 150 patients of whom one has an error would show 98 %, those without any 97.5 %."""
    confidence, units = np.full(3000, 0.9), np.arange(3000) // 20
    lows = [choose_review(confidence, np.arange(3000) >= wrong, units, promises=(0.5,)).right_low for wrong in range(4)]
    assert lows == sorted(lows, reverse=True) and lows[0] < 0.99
    by_percentiles = clusters.bootstrap(units, 0 * units, np.arange(3000) >= 1, columns=1)[0]
    assert lows[1] < by_percentiles[0]


def test_with_more_confidences_than_thresholds_the_promise_still_holds():
    rng = np.random.default_rng(0)
    confidence = rng.random(5000)
    review = choose_review(confidence, rng.random(5000) < confidence**0.1, promises=(0.98,))
    assert review.promise == 0.98 and review.below in confidence
    assert review.accepted == pytest.approx((confidence >= review.below).mean())


def patients(rng, count):
    """Confidence, rightness and patient of slices; some patients are hard, wrong in most slices, and a bit unsure."""
    sizes = rng.integers(5, 26, count)
    patient = np.repeat(np.arange(count), sizes)
    hard = (rng.random(count) < 0.05)[patient]
    right = rng.random(len(patient)) < np.where(hard, 0.3, 0.997)
    doubt = rng.normal(np.where(hard, 2.0, 5.0), 1.0) + rng.normal(0, 1, count)[patient]
    return 1 / (1 + np.exp(-doubt)), right, patient


def test_on_new_patients_the_promise_holds_that_a_threshold_by_pictures_breaks(monkeypatch):
    monkeypatch.setattr(clusters, "RESAMPLES", 200)
    monkeypatch.setattr("brainray.evaluation.review._MOST_THRESHOLDS", 50)
    new, new_right, _ = patients(np.random.default_rng(1), 20_000)
    kept = {"patients": [], "pictures": []}
    shares = []
    for seed in range(60):
        confidence, right, patient = patients(np.random.default_rng(100 + seed), 300)
        for name, units in (("patients", patient), ("pictures", None)):
            review = choose_review(confidence, right, units)
            accepted = new >= review.below
            kept[name].append(new_right[accepted].mean() >= review.promise)
            shares += [accepted.mean()] * (units is not None)
    assert np.mean(kept["patients"]) >= 0.95 > 0.9 > np.mean(kept["pictures"])
    assert np.mean(shares) > 0.6, "and is of use"


def folds_of_logits():
    """Fold 0 is right and sure; fold 1 is as sure, and wrong in half of its images; both have 400 of 80 patients."""
    logits = np.tile(np.float32([4.0, 0.0]), (800, 1))
    logits[:, 1] += np.tile(np.arange(400) / 1e3, 2)
    fold = np.repeat([0, 1], 400)
    return logits, np.where(fold == 1, np.arange(800) % 2, 0), fold


@pytest.mark.parametrize("units", [None, np.arange(1200) // 2])
def test_each_fold_is_judged_by_temperature_and_threshold_of_the_others(units):
    """With a bias the temperature decides which class is predicted: here of 3 images in each fold."""
    rng, bias = np.random.default_rng(0), (-0.2, 0.2)
    fold = np.arange(1200) // 600
    logits = np.stack([rng.normal(np.where(fold == 0, 6, 2), 0.5), np.zeros(1200)], axis=1).astype(np.float32)
    labels = (np.arange(1200) % 60 == 1).astype(np.int64)  # errors
    logits[::200, 0] = 0.3  # class 0 at the temperature of fold 1, which judges fold 0; else class 1
    calibrated = calibrate_review(logits, labels, fold_N=fold, unit_N=units, class_bias=bias)
    assert calibrated.temperature == fit_temperature(logits, labels)
    right, accepted = np.zeros(1200, bool), np.zeros(1200, bool)
    for own, other in ((fold == 0, fold == 1), (fold == 1, fold == 0)):
        probs = softmax(logits, fit_temperature(logits[other], labels[other]), bias)
        assert calibrated.probs_NK[own] == pytest.approx(probs[own])
        confidence, hit = probs.max(1).astype(np.float32), probs.argmax(1) == labels
        promised = (calibrated.review.promise,)
        chosen = choose_review(
            confidence[other], hit[other], units if units is None else units[other], promises=promised
        )
        right[own], accepted[own] = hit[own], (confidence >= chosen.below)[own]
    assert accepted.mean() == calibrated.review.accepted_unseen > 0
    assert calibrated.review.right_unseen == right[accepted].mean()
    assert calibrated.review.right_unseen_low <= right[accepted].mean() <= calibrated.review.right_unseen_high


def test_what_other_folds_do_not_promise_is_not_accepted():
    logits, labels, fold = folds_of_logits()
    review = calibrate_review(logits, labels, fold_N=fold).review
    assert review.promise is None and review.accepted_unseen == review.accepted == 0
    assert review.right_unseen is None
    right = calibrate_review(logits, 0 * labels, fold_N=fold, unit_N=np.arange(800)).review
    assert (right.promise, right.accepted_unseen, right.right_unseen, right.right_unseen_high) == (0.98, 1.0, 1.0, 1.0)
    assert right.right_unseen_low == pytest.approx(low_end(np.ones(800, bool)))


def test_one_split_has_no_other_folds():
    logits, labels, fold = folds_of_logits()
    calibrated = calibrate_review(logits, labels, fold_N=0 * fold)
    assert calibrated.review.accepted_unseen is calibrated.review.right_unseen is None
    assert calibrated.probs_NK == pytest.approx(softmax(logits, calibrated.temperature))
