"""What Ray Train's workers take: together each row once, and no worker another's."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from brainray.cluster import train_shares
from brainray.cluster.train_shares import Shares, SplitSide

IMAGES, BLOCKS = 23, 4


def side(pictures, *, by):
    return SplitSide.of(np.arange(len(pictures)), np.array(pictures, np.int64), by=by)


@given(
    pictures=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    workers=st.integers(1, 8),
    by=st.sampled_from(("picture", "position")),
)
def test_shares_partition_the_rows_of_a_side(pictures, workers, by):
    """Also where they are cut from several blocks; and copies of a picture go to one worker."""
    wanted = side(pictures, by=by)
    shares = wanted.shares(workers)
    rows = {"position": np.arange(-3, len(pictures) + 3)}
    count = len(rows["position"])
    rows |= {"label": rows["position"] % 2} | picture_columns(count)
    blocks = [{name: column[part] for name, column in rows.items()} for part in (slice(9), slice(9, None))]
    tables = [pa.table(as_columns(block)) for block in blocks]
    got = [
        np.concatenate([train_shares._cut(table, wanted, (rank, shares))["position"] for table in tables]).tolist()
        for rank in range(shares)
    ]
    assert sorted(itertools.chain(*got)) == list(range(len(pictures)))
    if by == "picture":
        owners = [{pictures[position] for position in share} for share in got]
        assert sum(map(len, owners)) == len(set(pictures))
        assert all(owners), "a worker that has no picture could take no step"


def picture_columns(images):
    return {"pixels": np.ones((images, 4, 4), np.uint8), "finding": np.ones((images, 4), np.float32)}


def as_columns(rows):
    from ray.data.extensions import ArrowTensorArray

    return rows | {name: ArrowTensorArray.from_numpy(rows[name]) for name in ("pixels", "finding")}


@pytest.mark.parametrize(("pictures", "workers", "shares"), [(5, 3, 3), (2, 3, 2), (0, 3, 1)])
def test_with_fewer_pictures_than_workers_some_have_the_same_share(pictures, workers, shares):
    assert side(range(pictures), by="picture").shares(workers) == shares
    assert side(range(pictures), by="position").shares(workers) == workers


@pytest.fixture(scope="module")
def decoded(local_ray):
    positions = np.array_split(np.random.default_rng(0).permutation(IMAGES), BLOCKS)
    parts = [{"position": part, "label": part % 2, "error": part.astype("U32")} for part in positions]
    blocks = [pa.table(as_columns(part | picture_columns(len(part["position"])))) for part in parts]
    return ray.data.from_arrow(blocks).materialize()


def test_a_side_without_rows_costs_no_look_at_blocks():
    shares = Shares(blocks=("no block",), sides={"train": side([], by="position")})
    assert list(shares.rows("train", rank=0, workers=2)) == []


@pytest.mark.parametrize("lie", ["here", "elsewhere", "unknown"])
def test_each_worker_takes_its_share_and_nothing_else(decoded, monkeypatch, lie):
    """Wherever the blocks lie. That Ray Train's workers do, `tests/end_to_end/test_main_job.py` sees."""
    asked = []
    if lie == "elsewhere":  # all but one, on a node that is gone by now
        found = {"node_ids": ["0f" * 28]}
        monkeypatch.setattr(train_shares, "get_object_locations", lambda blocks: dict.fromkeys(blocks[1:], found))
    elif lie == "unknown":
        monkeypatch.setattr(train_shares, "get_object_locations", lambda blocks: {})
    monkeypatch.setattr(train_shares, "_cut_elsewhere", noting(train_shares._cut_elsewhere, asked))
    learned, measured = np.arange(0, 15), np.arange(15, IMAGES)
    shares = Shares.of(
        decoded,
        {
            "train": SplitSide.of(learned, 70 + learned // 2, by="picture"),
            "validation": SplitSide.of(measured, measured, by="position"),
        },
    )
    for name, positions in (("train", learned), ("validation", measured)):
        taken = [list(shares.rows(name, rank=rank, workers=2)) for rank in range(2)]
        seen = [{key: joined(share, key) for key in ("position", "picture")} for share in taken]
        assert sorted(seen[0]["position"] + seen[1]["position"]) == positions.tolist()
        assert all(len(share["position"]) <= len(positions) // 2 + 1 for share in seen)
        assert not set(seen[0]["picture"]) & set(seen[1]["picture"]), "copies of one picture stay together"
    assert asked == [BLOCKS - 1 if lie == "elsewhere" else 0] * 4


def noting(cut_elsewhere, asked):
    def note(blocks, *args, **kwargs):
        asked.append(len(blocks))
        return cut_elsewhere(blocks, *args, **kwargs)

    return note


def joined(batches, key):
    return np.concatenate([batch[key] for batch in batches]).tolist()
