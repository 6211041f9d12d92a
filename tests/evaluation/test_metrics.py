"""Figures from counts: checked against scikit-learn, by hand, and by the laws they obey."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evaluation.random_rows import random_rows

from brainray.evaluation import metrics
from brainray.evaluation.counts import REASONS, SCORED, Counts, count_probabilities, count_rows, total

CLASSES = ("glioma", "meningioma", "pituitary")
K = len(CLASSES)
NONE = K  # the label of an image that has none


@pytest.fixture(scope="module")
def reference():
    """The figures of scikit-learn, imported by who uses them: that takes a second."""
    import sklearn.metrics

    return sklearn.metrics


def grouped_rows(rows, *, seed=0, groups=3):
    """Keyword arguments of `count_rows`: some rows failed, some have no label."""
    group_N = np.random.default_rng([seed, 1]).integers(0, groups, rows)
    return {"group_N": group_N} | random_rows(rows, K, seed=seed)


def take(rows, where):
    return {name: values[where] for name, values in rows.items()}


def counts(counted: Counts):
    return {name: getattr(counted, name).tolist() for name in Counts.__dataclass_fields__ if name != "groups"}


def labelled(labels, predicted, confidence=0.9):
    """A counted in which each prediction has the same confidence, the rest of it shared by the other classes."""
    probs = np.full((len(labels), K), (1 - confidence) / (K - 1))
    probs[np.arange(len(labels)), predicted] = confidence
    return count_probabilities(np.asarray(labels), probs)


def test_rows_of_the_confusion_matrix_are_truth_and_columns_are_prediction():
    counted = labelled(labels=[0, 0, 0, 1], predicted=[0, 2, 2, 1])
    assert counted.confusion.tolist() == [[1, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_confusion_matrix_is_that_of_scikit_learn(reference):
    rows = grouped_rows(500)
    use = (rows["reason_N"] == SCORED) & (rows["label_N"] != NONE)
    expected = reference.confusion_matrix(rows["label_N"][use], rows["predicted_N"][use], labels=range(K))
    assert count_rows("abc", **rows).confusion.tolist() == expected.tolist()


@given(rows=st.integers(0, 60), seed=st.integers(0, 2**32 - 1))
def test_every_row_is_counted_once_wherever_one_looks(rows, seed):
    given_rows = grouped_rows(rows, seed=seed)
    counted = count_rows("abc", **given_rows)
    assert counted.ok + counted.failed + counted.excluded == rows
    assert counted.unlabelled == (given_rows["label_N"] == NONE).sum()
    assert counted.predicted.sum() == counted.histogram.sum() == counted.ok
    assert counted.confusion.sum() == counted.calibration[..., 0].sum() == counted.scored_and_labelled
    assert sum(group.ok + group.failed + group.excluded for _, group in counted.by_group()) == rows


@given(data=st.data(), rows=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_splitting_rows_in_any_way_and_order_gives_identical_figures(data, rows, seed):
    whole = grouped_rows(rows, seed=seed)
    part_of_row = np.array(data.draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows)))
    order = data.draw(st.permutations(range(5)))
    parts = [count_rows("abc", **take(whole, part_of_row == part)) for part in order]
    expected = count_rows("abc", **whole)
    added = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    assert counts(total(parts)) == counts(added) == counts(expected)
    for figure in (metrics.brier, metrics.expected_calibration_error, metrics.mean_confidence, metrics.macro_f1):
        assert figure(added) == figure(expected)


def test_tallies_of_different_groups_add_up_by_name():
    row = take(grouped_rows(1, groups=1), slice(None)) | {"reason_N": np.array([SCORED])}
    both = count_rows(("siemens",), **row) + count_rows(("philips", "siemens"), **row)
    assert both.groups == ("philips", "siemens")
    assert {name: group.ok for name, group in both.by_group()} == {"philips": 1, "siemens": 1}


def test_rows_may_be_none_at_all():
    counted = count_rows((), **grouped_rows(0))
    assert (counted.ok, counted.failed, counted.groups) == (0, 0, ())


def test_failed_rows_are_counted_by_label_and_reason_and_nothing_else_of_them():
    nan = np.full((2, K), np.nan)
    counted = count_rows(
        ("all",),
        group_N=np.array([0, 0]),
        label_N=np.array([1, NONE]),
        reason_N=np.array([REASONS.index("truncated"), REASONS.index("empty")]),
        predicted_N=np.array([-1, -1]),
        confidence_N=nan[:, 0],
        probs_NK=nan,
        review_N=np.array([False, False]),
    )
    assert counted.unscored[0, 1, REASONS.index("truncated")] == counted.unscored[0, NONE, REASONS.index("empty")] == 1
    assert (counted.ok, counted.failed, counted.unlabelled) == (0, 2, 1)


def test_accuracy_of_what_is_accepted_is_that_of_the_rows_that_are_not_for_review():
    rows = grouped_rows(500)
    counted = count_rows("abc", **rows)
    scored, known = rows["reason_N"] == SCORED, rows["label_N"] != NONE
    accepted = scored & known & ~rows["review_N"]
    right = rows["label_N"] == rows["predicted_N"]
    assert counted.review[:, 0].sum() == (scored & rows["review_N"]).sum()
    assert metrics.accepted_accuracy(counted).value == right[accepted].mean()
    assert metrics.accepted_accuracy(count_rows("abc", **rows | {"review_N": known | ~known})) is None


def test_scored_row_without_a_number_is_refused():
    rows = grouped_rows(3) | {"reason_N": np.full(3, SCORED), "confidence_N": np.array([0.5, np.nan, 0.5])}
    with pytest.raises(ValueError, match="no number"):
        count_rows("abc", **rows)


def test_scored_row_without_a_prediction_is_refused():
    rows = grouped_rows(3) | {"reason_N": np.full(3, SCORED), "predicted_N": np.array([0, -1, 0])}
    with pytest.raises(ValueError):
        count_rows("abc", **rows)


def test_per_class_figures_are_those_of_scikit_learn(reference):
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, K, 300), rng.integers(0, K, 300)
    counted = labelled(labels, predicted)
    columns = metrics.per_class(counted.confusion)
    expected = reference.precision_recall_fscore_support(labels, predicted)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(columns[name], values, rtol=1e-15)
    assert metrics.macro_f1(counted) == pytest.approx(expected[2].mean(), abs=1e-15)
    balanced = reference.balanced_accuracy_score(labels, predicted)
    assert metrics.balanced_accuracy(counted) == pytest.approx(balanced, abs=1e-15)


def test_what_is_undefined_is_nan_and_never_zero():
    columns = metrics.per_class(labelled(labels=[0, 0], predicted=[0, 1]).confusion)
    undefined = {name: np.isnan(values).tolist() for name, values in columns.items()}
    for figure in ("precision", "precision_low", "precision_high"):
        assert undefined[figure] == [False, False, True]  # the third class was never predicted
    for figure in ("recall", "recall_low", "recall_high"):
        assert undefined[figure] == [False, True, True]  # the second has no image
    assert undefined["f1"] == [False, False, True]
    assert columns["f1"][1] == 0.0  # wrongly predicted once: defined, and as bad as can be


def test_macro_f1_leaves_out_classes_without_images():
    counted = labelled(labels=[0, 0, 1], predicted=[0, 2, 1])
    assert metrics.macro_f1(counted) == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.balanced_accuracy(counted) == pytest.approx((1 / 2 + 1) / 2)


def test_without_labels_figures_are_none():
    counted = labelled(labels=[NONE, NONE], predicted=[0, 1])
    figures = (metrics.accuracy, metrics.macro_f1, metrics.balanced_accuracy, metrics.brier)
    assert [figure(counted) for figure in (*figures, metrics.expected_calibration_error)] == [None] * 5
    assert metrics.mean_confidence(counted) == pytest.approx(0.9)


def test_wilson_interval_is_the_published_one():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert metrics.wilson(successes, trials) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(trials=st.integers(1, 10**9), share=st.floats(0, 1))
def test_intervals_hold_their_value_and_stay_within_0_and_1(trials, share):
    successes = round(share * trials)
    low, high = metrics.wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1


def test_f1_interval_holds_f1_and_narrows_with_more_images():
    few, many = (metrics.per_class(np.array([[8, 2], [1, 9]]) * n) for n in (1, 100))
    for columns in (few, many):
        assert (columns["f1_low"] < columns["f1"]).all()
        assert (columns["f1"] < columns["f1_high"]).all()
    assert (many["f1_high"] - many["f1_low"] < (few["f1_high"] - few["f1_low"]) / 5).all()


def test_f1_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    truth = np.array([[0.4, 0.1], [0.05, 0.45]])
    runs = rng.multinomial(300, truth.ravel(), 4000).reshape(-1, 2, 2)
    columns = metrics.per_class(runs)
    expected = metrics.per_class(truth)["f1"]
    covered = ((columns["f1_low"] <= expected) & (expected <= columns["f1_high"])).mean(axis=0)
    assert (covered > 0.93).all()
    assert (covered < 0.97).all()


def test_accuracy_has_its_interval():
    counted = labelled(labels=[0] * 10, predicted=[0] * 9 + [1])
    accuracy = metrics.accuracy(counted)
    assert accuracy.value == 0.9
    assert (accuracy.low, accuracy.high) == tuple(map(float, metrics.wilson(9, 10)))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_figures_of_one_group_are_those_of_the_tables_to_the_last_digit(pairs):
    counted = labelled(*([pair[k] for pair in pairs] for k in (0, 1)))
    table = metrics.per_class(counted.confusion)
    known = table["support"] > 0
    for value, column in ((metrics.macro_f1(counted), "f1"), (metrics.balanced_accuracy(counted), "recall")):
        assert value == math.fsum(table[column][known]) / known.sum()
    hits = sum(label == predicted for label, predicted in pairs)
    assert metrics.accuracy(counted) == (hits / len(pairs), *map(float, metrics.wilson(hits, len(pairs))))


def test_brier_score_is_the_mean_squared_distance_over_labelled_images():
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [1.0, 0.0, 0.0]])
    counted = count_probabilities(np.array([0, 2, NONE]), probs)
    expected = ((0.3**2 + 0.2**2 + 0.1**2) + (0.1**2 + 0.8**2 + 0.9**2)) / 2
    assert metrics.brier(counted) == pytest.approx(expected, abs=1e-9)


def test_brier_score_spans_0_to_2():
    assert metrics.brier(labelled([0], [0], confidence=1.0)) == 0
    assert metrics.brier(labelled([0], [1], confidence=1.0)) == 2


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    counted = labelled(labels=[0] * 10, predicted=[0] * 6 + [1] * 4, confidence=0.9)
    assert metrics.expected_calibration_error(counted) == pytest.approx(0.3, abs=1e-9)


def test_calibration_gaps_of_different_bins_do_not_cancel():
    sure = labelled(labels=[0] * 10, predicted=[1] * 5 + [0] * 5, confidence=0.9)
    unsure = labelled(labels=[0] * 10, predicted=[0] * 9 + [1], confidence=0.5)
    assert metrics.expected_calibration_error(sure + unsure) == pytest.approx(0.4, abs=1e-9)


def test_calibration_bins_cover_0_to_1_and_an_empty_one_has_no_mean():
    bins = metrics.calibration_bins(labelled([0, 0], [0, 0], confidence=1.0))
    assert [b["low"] for b in bins[1:]] == [b["high"] for b in bins[:-1]]
    assert (bins[0]["low"], bins[-1]["high"], len(bins)) == (0, 1, 15)
    assert bins[-1] | {"low": 0, "high": 0} == {
        "low": 0, "high": 0, "images": 2, "mean_confidence": 1.0, "accuracy": 1.0
    }  # fmt: skip
    assert (bins[0]["images"], bins[0]["mean_confidence"], bins[0]["accuracy"]) == (0, None, None)


def test_like_distributions_have_no_drift_whatever_their_size():
    assert metrics.population_stability([10, 20, 30], [1 / 6, 2 / 6, 3 / 6]) == pytest.approx(0, abs=1e-12)


def test_population_stability_is_the_published_sum():
    expected = (0.6 - 0.5) * math.log(0.6 / 0.5) + (0.4 - 0.5) * math.log(0.4 / 0.5)
    assert metrics.population_stability([0.5, 0.5], [60, 40]) == pytest.approx(expected, rel=1e-3)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=20))
def test_drift_is_finite_and_never_negative_also_with_empty_cells(cells):
    reference, observed = ([*side, 1] for side in zip(*cells, strict=True))
    assert 0 <= metrics.population_stability(reference, observed) < 20


def test_a_run_like_the_reference_has_no_drift_and_another_has():
    rng = np.random.default_rng(0)
    usual, sharp = rng.dirichlet([0.5] * K, 4000), rng.dirichlet([0.02, 0.02, 1], 2000)
    reference = metrics.reference_distribution(usual[:2000], CLASSES)
    unknown = np.full(2000, NONE)
    same = metrics.drift(count_probabilities(unknown, usual[2000:]), CLASSES, reference)
    other = metrics.drift(count_probabilities(unknown, sharp), CLASSES, reference)
    assert max(same.values()) < 0.05
    assert min(other.values()) > 0.25


def test_reference_distribution_survives_json_and_sums_to_one():
    reference = metrics.reference_distribution(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]), CLASSES)
    assert json.loads(json.dumps(reference)) == reference
    assert reference["predicted_share"] == {"glioma": 0.5, "meningioma": 0.5, "pituitary": 0.0}
    assert sum(reference["confidence_histogram"]) == 1
    assert len(reference["confidence_histogram"]) == 20


def test_nothing_scored_has_no_drift():
    reference = metrics.reference_distribution(np.eye(K), CLASSES)
    assert metrics.drift(count_probabilities(np.zeros(0, int), np.zeros((0, K))), CLASSES, reference) is None


def test_images_that_were_judged_wrong_count_where_their_class_is_not_needed():
    wrong = K + 1
    counted = labelled(labels=[0, 0, 1, wrong, wrong, NONE], predicted=[0, 0, 1, 1, 1, 1])
    assert (counted.measured, counted.scored_and_labelled, counted.unlabelled) == (5, 3, 3)
    assert metrics.accuracy(counted).value == metrics.accepted_accuracy(counted).value == 3 / 5
    assert metrics.expected_calibration_error(counted) == pytest.approx(0.9 - 3 / 5)
    assert metrics.macro_f1(counted) is metrics.balanced_accuracy(counted) is metrics.brier(counted) is None
    found, without = (metrics.per_class(counted.confusion, *more) for more in ((counted.judged_wrong.sum(axis=0),), ()))
    assert found["precision"].tolist()[:2] == [1, 1 / 3]
    assert found["recall"].tolist()[:2] == [1, 1]
    for name in ("recall", "f1"):  # both may be of the first class, and neither is of the second
        assert found[f"{name}_low"][0] < without[f"{name}_low"][0], "an interval that knows nothing of them flatters"
    assert found["recall_low"][1] == without["recall_low"][1]
