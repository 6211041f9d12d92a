"""Counts by group are those of `count_rows`, however rows are divided, and grow with what is in them only."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evaluation.random_rows import random_rows

from brainray.evaluation.counts import SCORED, Counts, count_rows
from brainray.evaluation.group_counts import count_by_group, total

K = 3
NAMES = ("b/2", "a/1", "a-b/1", "(none)")


def grouped_rows(rows, seed):
    """Names of groups, and the other arguments that `count_by_group` and `count_rows` have alike."""
    return np.random.default_rng([seed, 1]).integers(0, len(NAMES), rows), random_rows(rows, K, seed=seed)


def by_group(group_N, rows, where=slice(None)):
    names = pa.array([NAMES[group] for group in group_N[where]], pa.string())
    return count_by_group(names, **{name: values[where] for name, values in rows.items()})


def dense(counts):
    return counts.take(np.arange(len(counts.names)))


def fields(counts: Counts):
    """All but what is of a whole run."""
    kept = [name for name in Counts.__dataclass_fields__ if name not in ("groups", "histogram")]
    return {name: getattr(counts, name).tolist() for name in kept} | {"groups": counts.groups}


@given(rows=st.integers(1, 60), seed=st.integers(0, 2**32 - 1), parts=st.integers(1, 4), piece=st.integers(1, 400))
def test_groups_of_parts_add_up_to_the_counts_of_all_rows(rows, seed, parts, piece):
    group_N, values = grouped_rows(rows, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.evaluation.group_counts._PIECE", piece)
        found = total([by_group(group_N, values, np.arange(rows) % parts == part) for part in range(parts)])
    names = tuple(sorted({NAMES[group] for group in group_N}))
    assert found.names.to_pylist() == list(names)
    place = np.array([names.index(name) if name in names else -1 for name in NAMES])
    assert fields(dense(found)) == fields(count_rows(names, place[group_N], **values))


def test_groups_come_in_the_order_that_is_asked_for():
    found = by_group(*grouped_rows(50, 1))
    whole = dense(found)
    assert found.take(np.array([2, 0])).groups == (whole.groups[2], whole.groups[0])
    assert found.take(np.array([2, 0])).scored.tolist() == whole.scored[[2, 0]].tolist()
    taken = [found.take(groups).groups for groups in found.chunks(most_cells=2 * found.width)]
    assert [len(groups) for groups in taken] == [2, 2] and sum(taken, ()) == whole.groups


def test_groups_that_get_one_name_are_added_up():
    found = by_group(*grouped_rows(50, 2))  # (none), a-b/1, a/1, b/2
    merged, apart = dense(found.renamed(pa.array(["z", "a", "b", "a"]))), dense(found)
    assert merged.groups == ("a", "b", "z")
    assert merged.scored.tolist() == [(apart.scored[1] + apart.scored[3]).tolist(), *apart.scored[[2, 0]].tolist()]


def test_counts_without_some_rows_keep_every_group():
    group_N, values = grouped_rows(40, 3)
    some = group_N == 1
    rest = by_group(group_N, values).without(by_group(group_N, values, some))
    assert rest.names.to_pylist() == sorted(NAMES)
    assert dense(rest).scored[sorted(NAMES).index(NAMES[1])].sum() == 0
    assert dense(rest).ok == (values["reason_N"][~some] == SCORED).sum()


def test_memory_grows_with_the_images_and_not_with_the_cells_that_a_group_may_have():
    rows, K = 2_000, 40
    zeros, probs = np.zeros(rows, np.int64), np.full((rows, K), 1 / K)
    found = count_by_group(
        pa.array([f"patient {i}" for i in range(rows)]),
        label_N=zeros,
        reason_N=zeros + SCORED,
        predicted_N=zeros,
        confidence_N=probs[:, 0],
        probs_NK=probs,
        review_N=zeros > 0,
    )
    assert found.width > 2_000
    assert len(found.places) == len(found.values) <= 10 * rows
