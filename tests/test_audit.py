import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainray.audit import split_by_picture
from brainray.errors import BadRequest


def split(digests, labels, *, classes=("a", "b"), val_fraction=0.2, seed=0):
    return split_by_picture(np.array(digests), np.array(labels), classes=classes, val_fraction=val_fraction, seed=seed)


@settings(max_examples=60, deadline=None)
@given(
    pictures=st.lists(st.integers(0, 30), min_size=4, max_size=120),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_no_picture_is_on_both_sides_and_none_is_lost(pictures, fraction, seed):
    digests = np.array([f"p{p}" for p in pictures])
    labels = np.array([p % 2 for p in pictures])
    if min(len(set(digests[labels == k])) for k in (0, 1)) < 2:
        with pytest.raises(BadRequest):
            split(digests, labels, val_fraction=fraction, seed=seed)
        return
    made = split(digests, labels, val_fraction=fraction, seed=seed)
    assert sorted([*made.train, *made.validation]) == list(range(len(pictures)))
    assert not set(digests[made.train]) & set(digests[made.validation])
    for side in (made.train, made.validation):
        assert set(labels[side]) == {0, 1}


def test_the_split_is_stratified():
    labels = np.repeat([0, 1], [900, 100])
    made = split([f"p{i}" for i in range(1000)], labels)
    assert np.bincount(labels[made.validation]).tolist() == [180, 20]


def test_the_split_depends_on_pictures_and_seed_not_on_order():
    digests = np.array([f"p{i}" for i in range(100)])
    labels = np.arange(100) % 2
    order = np.random.default_rng(1).permutation(100)
    first, other = split(digests, labels), split(digests[order], labels[order])
    assert set(digests[first.validation]) == set(digests[order][other.validation])
    assert set(first.validation) != set(split(digests, labels, seed=1).validation)


def test_pictures_with_two_labels_are_counted():
    made = split(["x", "x", "y", "z", "v", "w"], [0, 1, 0, 0, 1, 1])
    assert made.conflicts == 1
    assert made.pictures == 5


def test_a_class_with_one_picture_is_named():
    with pytest.raises(BadRequest, match="class b has 1 distinct readable image"):
        split(["p", "q", "r", "r"], [0, 0, 1, 1])
