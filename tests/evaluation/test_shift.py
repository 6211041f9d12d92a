"""Which differences of an archive are found, and by what they are named."""

import numpy as np
import pytest

from brainray.evaluation.shift import (
    CONTRADICTED,
    PICTURES,
    STRANGERS,
    Comparison,
    Pictures,
    ShiftTest,
    before_and_now,
    holm,
    kind_of,
)

CLASSES = ("glioma", "notumor")
MEANS = np.array([[2.0, 0, 0, 0], [-2.0, 0, 0, 0]])


def drawn(counts, *, seed, each=1, moved=0.0):
    """Pictures in random order with their labels: `each` of a group, and features that are `moved`."""
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1], counts)
    group = np.arange(len(label)) // each
    features = MEANS[label] + rng.normal(size=(len(label), 4)) + (0.7 * rng.normal(size=(len(label), 4)))[group]
    features[:, 1] += moved
    right = 1 / (1 + np.exp(-3 * features[:, 0]))
    order = rng.permutation(len(label))
    pictures = Pictures(np.stack([right, 1 - right], axis=1), features.astype(np.float32), group).at(order)
    return pictures, label[order]


def compared(archive, mix=(0.5, 0.5)):
    reference, label = drawn([150, 150], seed=0, each=3)
    comparison = Comparison(reference, label, archive, CLASSES)
    own, mixed = comparison.tests(np.array([0.5, 0.5])), comparison.tests(np.array(mix))
    return kind_of(own, mixed), {test.name: test for test in mixed}, comparison


@pytest.mark.parametrize("each", [1, 3], ids=["groups unknown", "groups known"])
def test_other_patients_are_alike(each):
    kind, tests, _ = compared(drawn([100, 100], seed=1, each=each)[0])
    assert kind == "pictures alike"
    assert set(tests) == {*CLASSES, STRANGERS, PICTURES}
    assert all(test.effect < 2 for test in tests.values())


def test_another_mix_of_classes_is_named_so():
    kind, tests, _ = compared(drawn([180, 20], seed=1)[0], mix=(0.9, 0.1))
    assert kind == "class mix"
    assert all(test.effect < 1 for test in tests.values())


@pytest.mark.parametrize("counts", [[100, 100], [180, 20]], ids=["same mix", "another mix"])
def test_other_pictures_are_named_so_whatever_their_mix(counts):
    kind, tests, _ = compared(drawn(counts, seed=1, moved=1.5)[0], mix=np.array(counts) / 200)
    assert kind == "pictures"
    assert tests[PICTURES].is_different


@pytest.mark.parametrize("share", [0, 0.3])
def test_the_worst_pair_of_what_is_called_one_class_and_looks_like_another_is_named(share):
    archive, label = drawn([200, 200], seed=1)
    is_hit = (label == 0) & (np.random.default_rng(0).random(400) < share)
    swapped = np.where(is_hit[:, None], archive.probs_NK[:, ::-1], archive.probs_NK)
    found = compared(archive._replace(probs_NK=swapped))[2].contradiction(np.array([0.5, 0.5]))
    assert (found.effect > CONTRADICTED) == (share > 0)
    if share:
        assert (found.called, found.like) == ("notumor", "glioma")
        assert found.share - found.expected == pytest.approx(0.15, abs=0.03)


def test_a_perfect_model_is_not_contradicted():
    archive, _ = drawn([200, 200], seed=1)
    reference, known = drawn([150, 150], seed=0, each=3)
    sides = []
    for pictures in (reference, archive):
        sure = (pictures.features_NF[:, 0] > 0).astype(float)
        sides.append(pictures._replace(probs_NK=np.stack([sure, 1 - sure], axis=1)))
    found = Comparison(sides[0], known, sides[1], CLASSES).contradiction(np.array([0.5, 0.5]))
    assert found.effect < CONTRADICTED


def test_a_few_photographs_among_many_slices_are_strangers():
    archive, _ = drawn([100, 100], seed=1)
    features = archive.features_NF.copy()
    features[::14] += 12
    kind, tests, comparison = compared(archive._replace(features_NF=features))
    assert kind == "pictures" and tests[STRANGERS].is_different
    assert 0.07 <= comparison.strangers < 0.12
    assert comparison.is_beyond_N[::14].all() and comparison.is_beyond_N.sum() <= 17


def test_what_differs_is_named_only_where_it_is_plain():
    """Other mixes of real pictures were said to be other pictures as often as every tenth time."""
    alike, near, less, far = (
        ShiftTest(name="", distance=effect, usual=1, p_value=0.01) for effect in (0.5, 1.2, 1.7, 3)
    )
    assert kind_of([near], [near]) == kind_of([near], [less]) == "pictures alike"
    assert kind_of([near], [near], others=0.015) == "pictures"
    assert kind_of([near], [far]) == "unclear", "what the estimated mix contradicts is not alike"
    assert kind_of([far], [alike]) == "class mix"
    assert kind_of([far], [near]) == kind_of([far], [alike], others=0.015) == "unclear"
    assert kind_of([far], [far]) == kind_of([far], [less]) == kind_of([far], [alike], others=0.03) == "pictures"


def test_a_reference_whose_pictures_are_all_equal_breaks_nothing():
    reference, label = drawn([60, 60], seed=0)
    equal = reference._replace(features_NF=np.zeros_like(reference.features_NF))
    found = Comparison(equal, label, equal, CLASSES).tests(np.array([0.5, 0.5]))
    assert not any(test.is_different for test in found)


def test_a_class_that_the_reference_should_have_none_of_breaks_nothing():
    _, tests, _ = compared(drawn([200, 0], seed=1)[0], mix=(1.0, 0.0))
    assert np.isfinite([test.distance for test in tests.values()]).all()


def test_p_values_hold_for_all_tests_together():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_the_same_images_differ_in_nothing_from_those_before_and_brighter_ones_do():
    now, before = drawn([60, 60], seed=0)[0], drawn([60, 60], seed=1)[0]
    first = np.arange(240) < 120
    twice = np.concatenate([now.features_NF, now.features_NF])
    assert not before_and_now(twice, np.tile(np.arange(120), 2), first).is_different
    other = np.concatenate([before.features_NF, now.features_NF])
    assert not before_and_now(other, np.arange(240), first).is_different
    other[120:, 1] += 2
    assert before_and_now(other, np.arange(240), first).is_different
