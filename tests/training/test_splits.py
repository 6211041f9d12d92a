"""No picture, and no subject, is on both sides of a split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainray.errors import BadRequest
from brainray.training.splits import conflicting, fold_by_picture, join_subjects, number_pictures, split_by_picture

CLASSES = ("a", "b")


def split(pictures, labels, *, joined=None, val_fraction=0.2, seed=0):
    pictures = np.array(pictures)
    joined = pictures if joined is None else np.array(joined)
    return split_by_picture(
        pictures, np.array(labels), joined=joined, classes=CLASSES, val_fraction=val_fraction, seed=seed
    )


def folds(pictures, labels, *, joined, count):
    return list(fold_by_picture(pictures, labels, joined=joined, classes=CLASSES, folds=count, seed=0))


@settings(max_examples=60)
@given(
    pictures=st.lists(st.integers(0, 30), min_size=4, max_size=120),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_no_picture_is_on_both_sides_and_none_is_lost(pictures, fraction, seed):
    pictures = np.array(pictures)
    labels = pictures % 2
    if min(len(set(pictures[labels == k])) for k in (0, 1)) < 2:
        with pytest.raises(BadRequest):
            split(pictures, labels, val_fraction=fraction, seed=seed)
        return
    made = split(pictures, labels, val_fraction=fraction, seed=seed)
    learned, measured = pictures[made.train], pictures[made.validation]
    assert not set(learned) & set(measured)
    assert set(learned) | set(measured) == set(pictures)
    assert len(set(measured)) == len(measured), "a copy counts once"
    assert len(learned) == sum(pictures == p for p in set(learned)).sum()
    for side in (made.train, made.validation):
        assert set(labels[side]) == {0, 1}


@settings(max_examples=60)
@given(
    images=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), min_size=10, max_size=120),
    count=st.integers(2, 4),
)
def test_each_picture_is_measured_on_in_one_fold_and_no_subject_is_on_both_sides(images, count):
    pictures = np.array([picture for picture, _ in images])
    subjects = np.array([f"s{subject}" if subject else "" for _, subject in images])
    labels, joined = pictures % 2, join_subjects(pictures, subjects)
    try:
        made = folds(pictures, labels, joined=joined, count=count)
    except BadRequest:
        return
    measured = np.concatenate([pictures[each.validation] for each in made])
    assert sorted(measured) == sorted(set(pictures))
    for each in made:
        assert not set(joined[each.train]) & set(joined[each.validation])
        named = [set(subjects[side]) - {""} for side in (each.train, each.validation)]
        assert not named[0] & named[1]


def test_what_shows_one_picture_or_belongs_to_one_subject_is_joined():
    pictures = np.array([0, 0, 1, 2, 3, 4])
    subjects = np.array(["x", "y", "y", "", "z", "z"])
    joined = join_subjects(pictures, subjects)
    assert len({*joined[:3]}) == 1 and joined[4] == joined[5]
    assert len(set(joined)) == 3


def test_the_split_is_stratified():
    labels = np.repeat([0, 1], [900, 100])
    made = split(np.arange(1000), labels)
    assert np.bincount(labels[made.validation]).tolist() == [180, 20]


def test_the_split_depends_on_pictures_and_seed_not_on_order():
    digests = np.array([f"p{i:03}" for i in range(100)])
    labels = np.arange(100) % 2
    order = np.random.default_rng(1).permutation(100)
    numbers = number_pictures(np.arange(100), digests)
    shuffled = number_pictures(np.random.default_rng(2).permutation(100), digests[order])
    assert (shuffled == numbers[order]).all()
    first, other = split(numbers, labels), split(shuffled, labels[order])
    assert set(digests[first.validation]) == set(digests[order][other.validation])
    assert set(first.validation) != set(split(numbers, labels, seed=1).validation)


def test_pictures_with_two_labels_are_told():
    mixed = conflicting(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 0, 1, 1]))
    assert mixed.tolist() == [True, True, False, False, False]


def test_a_class_with_one_picture_is_named():
    with pytest.raises(BadRequest, match="class b has 1 distinct readable image"):
        split([0, 1, 2, 2], [0, 0, 1, 1])
    with pytest.raises(BadRequest, match=r"class b has 2 distinct readable .* needs 5 or more"):
        folds(np.arange(12), np.repeat([0, 1], [10, 2]), joined=np.arange(12), count=5)
