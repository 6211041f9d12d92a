import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainray.calibration import choose_review, cross_review, rare_class_bias

rows = st.lists(st.tuples(st.sampled_from([0.3, 0.5, 0.7, 0.9, 0.99]), st.booleans()), max_size=60)


@settings(max_examples=200, deadline=None)
@given(rows=rows, least=st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_no_lower_threshold_would_do_and_this_one_does(rows, least):
    confidence, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows], bool)
    review = choose_review(confidence, right, least_right=least)
    accepted = confidence >= review.below
    if review.right is not None:
        assert right[accepted].mean() == pytest.approx(review.right)
        assert review.right >= least
        assert accepted.mean() == pytest.approx(review.accepted)
    else:
        assert (review.below, review.accepted) == (1.0, 0.0)
    for lower in sorted({c for c in confidence if c < review.below}):
        assert right[confidence >= lower].mean() < least


def test_a_model_that_is_always_right_needs_no_review():
    assert choose_review(np.array([0.4, 0.9]), np.array([True, True])) == (0.4, 1.0, 1.0, None, None)


def test_a_threshold_is_tried_on_what_did_not_choose_it():
    """Fold 0 is always right and would accept all; fold 1 is wrong at 0.9, and would not."""
    confidence = np.array([0.8, 0.9, 0.95, 0.9, 0.9, 0.97])
    right = np.array([True, True, True, False, False, True])
    review = cross_review(confidence, right, np.array([0, 0, 0, 1, 1, 1]))
    assert (review.below, review.right) == (0.95, 1.0)
    assert review.accepted_unseen == pytest.approx(3 / 6), "fold 0 by 0.97: none; fold 1 by 0.8: all"
    assert review.right_unseen == pytest.approx(1 / 3)
    one = cross_review(confidence, right, np.zeros(6, np.int64))
    assert (one.right_unseen, one.accepted_unseen) == (None, None)


def test_rare_classes_are_raised_and_equal_ones_left_alone():
    assert rare_class_bias(np.array([50, 50])) == (0.0, 0.0)
    common, rare = rare_class_bias(np.array([900, 100]))
    assert rare - common == pytest.approx(0.5 * np.log(9), abs=1e-3)
    assert rare_class_bias(np.array([5, 0]))[1] > 0, "a class of which nothing was learned divides by no zero"
