from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.imaging.pictures import CHANGES, changed, head, neighbour, toned

from brainray.duplicates import search, transforms
from brainray.duplicates.descriptors import Descriptors, describe_picture, nothing
from brainray.duplicates.registration import register
from brainray.duplicates.search import Pairs, connected, find_candidates, find_copies, group_copies, similarities

HEADS = 6
EACH = ("turned by 6 to 12 degrees", "cropped, up to 15 % a side", "equalised")  # by chance too: all heads are tried


@pytest.fixture(scope="module")
def drawn():
    """Heads, their neighbours, and copies: (descriptors, which head each shows, how it was changed)."""
    rng = np.random.default_rng(0)
    pictures = [(k, "itself", head(k)) for k in range(HEADS)]
    pictures += [(HEADS + k, "neighbour", neighbour(k, step=0.7)) for k in range(HEADS)]
    pictures += [(k, "itself", head(k)) for k in range(2 * HEADS, 3 * HEADS)]
    for place, name in enumerate(CHANGES):
        for k in range(HEADS) if name in EACH else [place % HEADS]:
            pictures.append((k, name, changed(head(k), name, rng)))
    descriptors = Descriptors.stack([describe_picture(picture) for _, _, picture in pictures])
    return descriptors, np.array([k for k, _, _ in pictures]), np.array([name for _, name, _ in pictures])


@pytest.fixture(scope="module")
def groups(drawn):
    return group_copies(drawn[0], find_copies(drawn[0]))


@pytest.mark.parametrize("name", CHANGES)
def test_a_copy_is_found_whatever_was_done_to_it(drawn, groups, name):
    _, shows, how = drawn
    for row in np.flatnonzero(how == name):
        assert groups[row] == groups[shows[row]], f"head {shows[row]}"


def test_no_two_heads_and_no_neighbours_are_one_picture(drawn, groups):
    _, shows, _ = drawn
    assert all(len(set(shows[groups == group])) == 1 for group in set(groups))


def test_groups_do_not_depend_on_the_order(drawn, groups):
    descriptors, shows, _ = drawn
    order = np.random.default_rng(1).permutation(np.flatnonzero((shows < 4) | (shows >= 2 * HEADS)))
    shuffled = descriptors.take(order)
    again = group_copies(shuffled, find_copies(shuffled))
    assert (_pairs(again) == _pairs(groups[order])).all()


def _pairs(groups):
    return groups[:, None] == groups[None]


@given(
    st.integers(1, 12).flatmap(
        lambda count: st.tuples(
            st.just(count), st.lists(st.tuples(*[st.integers(0, count - 1)] * 2)), st.randoms(use_true_random=False)
        )
    )
)
def test_groups_are_an_equivalence_relation_that_no_order_changes(drawn_links):
    count, links, random = drawn_links
    group = connected(count, np.array(links, np.int64).reshape(-1, 2))
    assert all(group[a] == group[b] for a, b in links)
    assert (group[group] == group).all() and (group <= np.arange(count)).all()
    shuffled = [tuple(random.sample(pair, 2)) for pair in random.sample(links, len(links))]
    assert (connected(count, np.array(shuffled, np.int64).reshape(-1, 2)) == group).all()
    slow = np.arange(count)
    for _ in range(count):
        for a, b in links:
            slow[[a, b]] = min(slow[a], slow[b])
    assert (slow == group).all()


def test_equal_pixels_are_one_group_without_a_search_and_unreadable_images_are_alone():
    black, white = describe_picture(np.zeros((50, 50), np.uint8)), describe_picture(np.full((50, 50), 255, np.uint8))
    dark = describe_picture(np.full((50, 50), 1, np.uint8))
    descriptors = Descriptors.stack([black, white, black, nothing(), dark, nothing(), black])
    pairs = find_copies(descriptors)
    assert len(pairs) == 0
    assert group_copies(descriptors, pairs).tolist() == [0, 1, 0, 3, 4, 5, 0]


def test_one_picture_in_many_variants_is_not_compared_each_with_each():
    picture, rng = head(0), np.random.default_rng(2)
    descriptors = Descriptors.stack(
        [describe_picture(toned(picture, lambda x: x + rng.uniform(0, 0.1))) for _ in range(40)]
    )
    compared = []

    def verify(descriptors, pairs):
        compared.append(len(pairs))
        return similarities(descriptors, pairs)

    assert len(np.unique(group_copies(descriptors, find_copies(descriptors, verify=verify)))) == 1
    assert sum(compared) <= len(descriptors) * search.CANDIDATES


def test_none_and_one_picture_are_no_copies():
    for count in (0, 1):
        descriptors = Descriptors.stack([describe_picture(head(0))] * count)
        assert len(find_copies(descriptors)) == 0
        assert group_copies(descriptors, find_copies(descriptors)).tolist() == [0] * count


def test_what_lies_in_lists_is_found_as_by_comparing_all(drawn, monkeypatch):
    descriptors, _, _ = drawn
    rows = search.distinct_rows(descriptors)
    in_lists = find_candidates(descriptors, rows)
    monkeypatch.setattr(search, "_INDEXED_FROM", 10**9)
    exact = find_candidates(descriptors, rows)
    strong = exact.take(exact.score > 2)
    found = {frozenset(pair) for pair in in_lists.rows.tolist()}
    missed = [pair for pair in strong.rows.tolist() if frozenset(pair) not in found]
    assert len(missed) <= len(strong) // 50


def test_pictures_of_nothing_in_common_do_not_register():
    descriptors = Descriptors.stack([describe_picture(head(0)), describe_picture(head(25)), nothing()])
    assert all(register(descriptors, 0, other, mirrored=m) is None for other in (1, 2) for m in (False, True))
    pairs = Pairs(rows=np.array([[0, 1], [0, 2]]), mirrored=np.zeros(2, bool), score=np.ones(2, np.float32))
    assert similarities(descriptors, pairs).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resized", {"resized"}),
        ("recompressed", {"recompressed"}),
        ("mirrored", {"mirrored"}),
        ("turned 90", {"turned 270"}),  # clockwise; NumPy turns the other way
        ("turned 180", {"turned 180"}),
        ("turned by 2 to 6 degrees", {"turned a little"}),
        ("cropped, up to 15 % a side", {"cropped"}),
        ("brighter", {"brighter"}),
        ("darker", {"darker"}),
        ("CLAHE 4", {"equalised"}),
        ("mirrored, resized, recompressed, brighter", {"mirrored", "resized", "brighter"}),
    ],
)
def test_what_was_done_is_told_in_words(name, words):
    rng = np.random.default_rng(4)
    told = []
    for k in range(5):
        descriptors = Descriptors.stack([describe_picture(head(k)), describe_picture(changed(head(k), name, rng))])
        _, text = transforms.find_transform(descriptors, 0, 1)
        told.append(set(text.split(" + ")))
    assert sum(words <= one for one in told) >= 4, told


def test_equal_pixels_are_identical_and_strangers_have_no_words():
    first, other = describe_picture(head(0)), describe_picture(head(25))
    descriptors = Descriptors.stack([first, replace(first), other])
    similarity, words = transforms.find_transforms(descriptors, np.array([[0, 1], [0, 2]]))
    assert similarity[0] == 1 and np.isnan(similarity[1])
    assert words.to_pylist() == ["identical", None]
