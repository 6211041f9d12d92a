"""Copies and groups together stay on one side of every split and fold, whatever their sizes and classes."""

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from support.each import each

from brainray.errors import BadRequest
from brainray.training.splits import fold_by_picture, join_subjects, split_by_picture

CLASSES = ("a", "b", "c")
# (picture, what tells its group). A picture's class is its number modulo 3, so that groups hold several classes.
IMAGES = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 15)), min_size=40, max_size=160)


def group_of(picture, told):
    """None, or that of neighbouring pictures, or one of pictures far apart, which joins the groups of their copies."""
    return "" if told < 4 else f"p{picture // 4}" if told < 15 else f"q{picture % 23}"


def arrays(images):
    """Pictures, labels, groups and units of the images."""
    pictures = np.array([picture for picture, _ in images])
    groups = np.array([group_of(*image) for image in images])
    return pictures, pictures % 3, groups, join_subjects(pictures, groups)


def check_whole(split, pictures, groups, labels):
    learned, measured = split.train, split.validation
    assert not set(pictures[learned]) & set(pictures[measured])
    assert not (set(groups[learned]) & set(groups[measured])) - {""}
    assert len(set(pictures[measured])) == len(measured) > 0
    assert set(labels[learned]) == set(labels)


@settings(max_examples=40)
@given(images=IMAGES, fraction=st.floats(0.05, 0.6), seed=st.integers(0, 3))
def test_no_picture_and_no_group_is_on_both_sides_of_a_split(images, fraction, seed):
    pictures, labels, groups, joined = arrays(images)
    try:
        made = split_by_picture(pictures, labels, joined=joined, classes=CLASSES, val_fraction=fraction, seed=seed)
    except BadRequest:
        reject()
    check_whole(made, pictures, groups, labels)
    assert set(labels[made.validation]) == set(labels)


@settings(max_examples=40)
@given(images=IMAGES, folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_no_picture_and_no_group_is_on_both_sides_of_a_fold_and_each_is_measured_once(images, folds, seed):
    pictures, labels, groups, joined = arrays(images)
    try:
        made = list(fold_by_picture(pictures, labels, joined=joined, classes=CLASSES, folds=folds, seed=seed))
    except BadRequest:
        reject()
    for split in made:
        check_whole(split, pictures, groups, labels)
    measured = np.concatenate([pictures[split.validation] for split in made])
    assert sorted(measured) == sorted(set(pictures))


def blocks(*sizes):
    """Images of class a in groups of these sizes, as many of b in groups of ten, and 400 pictures of c in none."""
    of_a = np.repeat([f"a{place}" for place in range(len(sizes))], sizes)
    of_b = np.array([f"b{place // 10}" for place in range(sum(sizes))])
    groups = np.concatenate([of_a, of_b, np.full(400, "")])
    labels = np.repeat([0, 1, 2], [len(of_a), len(of_b), 400])
    pictures = np.arange(len(groups))
    return pictures, labels, join_subjects(pictures, groups)


def test_groups_of_unequal_size_still_give_folds_of_like_size():
    pictures, labels, joined = blocks(300, 120, 120, 60, 60, 30, 30, 30)
    made = list(fold_by_picture(pictures, labels, joined=joined, classes=CLASSES, folds=3, seed=0))
    counts = np.array([np.bincount(labels[split.validation], minlength=3) for split in made])
    assert (counts.sum(axis=0) == [750, 750, 400]).all()
    assert (counts[:, 0] >= 190).all() and (counts[:, 1] >= 200).all() and (counts[:, 2] >= 100).all()


@each("seed", range(4))
def test_about_the_fraction_of_each_class_is_held_out(seed):
    pictures, labels, joined = blocks(300, 60, 60, 50, 40, 40, 30, 20, 20, 10)
    made = split_by_picture(pictures, labels, joined=joined, classes=CLASSES, val_fraction=0.15, seed=seed)
    shares = np.bincount(labels[made.validation], minlength=3) / np.bincount(labels)
    assert shares == pytest.approx([0.15] * 3, abs=0.06)


def test_another_seed_holds_out_other_groups():
    pictures, labels, joined = blocks(60, 60, 50, 40, 40, 30, 20, 20, 10)
    made = {
        tuple(split_by_picture(pictures, labels, joined=joined, classes=CLASSES, val_fraction=0.2, seed=s).validation)
        for s in range(3)
    }
    assert len(made) == 3


def test_a_class_of_two_large_groups_is_learned_and_measured():
    pictures, labels, joined = blocks(300, 500)
    made = split_by_picture(pictures, labels, joined=joined, classes=CLASSES, val_fraction=0.15, seed=0)
    assert np.bincount(labels[made.validation])[0] == 300


def test_patients_that_have_images_of_every_class_are_divided():
    pictures = np.arange(120)
    groups = np.array([f"p{place // 6}" for place in range(120)])
    joined = join_subjects(pictures, groups)
    made = list(fold_by_picture(pictures, pictures % 3, joined=joined, classes=CLASSES, folds=5, seed=0))
    assert [np.bincount(pictures[split.validation] % 3).tolist() for split in made] == [[8, 8, 8]] * 5


def test_too_few_groups_are_refused_with_their_class():
    pictures, labels, joined = blocks(50, 60)
    with pytest.raises(
        BadRequest, match=r"class a has 2 group\(s\) or series that share no picture; .* needs 3 or more"
    ):
        list(fold_by_picture(pictures, labels, joined=joined, classes=CLASSES, folds=3, seed=0))
