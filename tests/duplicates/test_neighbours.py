import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.imaging.pictures import head, neighbour

from brainray.duplicates import neighbours
from brainray.duplicates.descriptors import Descriptors, describe_picture, nothing
from brainray.duplicates.neighbours import SCALE, SUPPORT, describe, join, propose_groups

HEADS, STEPS = 8, (0.4, 0.7, 1.0)


def described(pictures):
    return Descriptors.stack([describe_picture(np.ascontiguousarray(picture)) for picture in pictures])


def proposed(descriptors, known=None):
    rows = np.arange(len(descriptors))
    return propose_groups(descriptors, rows, np.full(len(rows), -1) if known is None else known)


@pytest.fixture(scope="module")
def slices():
    """Three slices of each head, in turn."""
    return described(neighbour(k, step=step) for k in range(HEADS) for step in STEPS)


SHOWS = np.repeat(np.arange(HEADS), len(STEPS))


def test_slices_of_one_head_are_together_and_no_two_heads_are(slices):
    group = proposed(slices)
    assert (_together(group) == _together(SHOWS)).all(), group
    assert (group == 3 * SHOWS).all(), "a group is named by its first picture"


def test_a_slice_that_was_mirrored_or_turned_stays_with_its_head():
    ways = [lambda p: p, lambda p: p[:, ::-1], lambda p: p[::-1], lambda p: p[::-1, ::-1]]
    pictures = [
        way(neighbour(k, step=step)) for k in range(HEADS) for step, way in zip((0.2, *STEPS), ways, strict=True)
    ]
    assert (_together(proposed(described(pictures))) == _together(np.repeat(np.arange(HEADS), 4))).all()


def test_heads_that_have_no_second_slice_stay_alone():
    assert (proposed(described(map(head, range(20)))) == np.arange(20)).all()


def test_the_order_of_the_files_does_not_matter(slices):
    order = np.random.default_rng(1).permutation(len(slices))
    again = proposed(slices.take(order))
    assert (_together(again) == _together(SHOWS[order])).all()


@pytest.mark.parametrize("count", [0, 1, SCALE])
def test_so_few_pictures_that_nothing_is_typical_stay_alone(slices, count):
    assert (proposed(slices.take(np.arange(count))) == np.arange(count)).all()


def test_black_pictures_and_unreadable_ones_are_no_slices_of_one_head(slices):
    black = described([np.zeros((50, 50), np.uint8), np.zeros((60, 50), np.uint8)])
    group = proposed(Descriptors.concatenate([slices, black, Descriptors.stack([nothing()])]))
    assert (group[-3:] == len(slices) + np.arange(3)).all()


def test_known_patients_stay_apart_and_take_pictures_of_nobody(slices):
    known = np.full(len(slices), -1)
    known[[0, 3]] = 7  # slices of two heads, which somebody knows to be of one patient
    known[[6, 7]] = (8, 9)  # slices of one head, of two patients
    group = proposed(slices, known)
    assert len(set(group[:6])) == 1, "slices that look like those of a known patient"
    assert group[6] != group[7]


def test_an_index_for_many_finds_the_same_neighbours(slices, monkeypatch):
    pictures = described(neighbour(k, step=step) for k in range(10) for step in (0.2, *STEPS))
    exact = proposed(pictures)
    monkeypatch.setattr(neighbours, "_INDEXED_FROM", 10)
    monkeypatch.setattr(neighbours, "_REDUCED_VALUES", 32)
    assert (_together(proposed(pictures)) == _together(exact)).all()


def test_one_wrong_link_does_not_chain_two_heads():
    heads = [(a, b) for base in (0, 5) for a in range(base, base + 5) for b in range(a + 1, base + 5)]
    bridge = [(4, 5), (3, 6)]
    alone = np.full(10, -1)
    assert (join(np.array(heads + bridge), alone) == np.repeat([0, 5], 5)).all()
    assert (join(np.array([*heads, *bridge, (4, 6)]), alone) == 0).all(), f"{SUPPORT} links are enough"


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(*[st.lists(st.integers(lo, n - 1), min_size=n, max_size=n) for lo in (-1, 0)])
    )
)
def test_groups_are_a_partition_that_keeps_what_is_known(drawn):
    known, others = map(np.array, drawn)
    links = np.array([(a, b) for a, b in enumerate(others.tolist()) if a != b], np.int64).reshape(-1, 2)
    group = join(links, known)
    assert (group[group] == group).all() and (group <= np.arange(len(known))).all()
    for name in set(known[known >= 0].tolist()):
        assert len(set(group[known == name].tolist())) == 1
    for one in set(group.tolist()):
        assert len(set(known[group == one].tolist()) - {-1}) <= 1


def test_a_description_turns_with_its_picture():
    upright, *turned = (
        describe(described([picture]), np.arange(1))[0].astype(int)
        for picture in (head(2), head(2)[::-1], head(2)[:, ::-1], head(2)[::-1, ::-1])
    )
    for values, other in zip(neighbours._turned_values()[1:], turned, strict=True):
        assert np.corrcoef(upright[values], other)[0, 1] > 0.98 > np.corrcoef(upright, other)[0, 1]


def _together(group):
    return group[:, None] == group[None]
