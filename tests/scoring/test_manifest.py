"""Shards, and what a new listing changes in them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainray.errors import StorageError
from brainray.inputs.listed_image import LISTED_SCHEMA
from brainray.inputs.listing import Listing
from brainray.scoring import manifest
from brainray.scoring.manifest import Changes, load_shards, read_shard, write_first, write_updated


def row(name, **values):
    said = {"uri": f"/in/{name}.jpg", "size_bytes": 1, "version": "1", "label": "glioma"}
    return dict.fromkeys(LISTED_SCHEMA.names) | said | values


def listing_of(folder, rows, *, chunk=4):
    path = str(folder / "listing.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=LISTED_SCHEMA), path, row_group_size=chunk)
    return Listing(path=path, images=len(rows), size_bytes=len(rows), labelled=len(rows))


def files(shards):
    return tuple(dict.fromkeys(shard.manifest_uri for shard in shards))


def rows_of(shards):
    return pa.concat_tables([read_shard(shard) for shard in shards]).to_pylist()


class Archive:
    """A manifest brought up to one listing after the other, in a folder of its own each."""

    def __init__(self, folder):
        self.folder, self.steps = folder, 0
        self.shards, self.changes = (), None

    def list(self, rows, *, forget=False, shard_size=3):
        self.steps += 1
        folder = self.folder / str(self.steps)
        folder.mkdir()
        listing = listing_of(folder, rows)
        if not self.shards:
            self.shards = write_first(listing, f"{folder}/m", shard_size=shard_size)
            return self
        self.changes, shards = write_updated(
            files(self.shards), listing, f"{folder}/m", forget=forget, shard_size=lambda _: shard_size
        )
        if self.changes:
            self.shards = shards
        return self


@pytest.fixture
def known(tmp_path):
    """Seven images in three shards."""
    return Archive(tmp_path).list([row(name) for name in "abcdefg"])


def ids(shards):
    return [shard.shard_id for shard in shards]


def test_each_shard_is_a_row_group_that_a_worker_reads_alone(known):
    assert [shard.images for shard in known.shards] == [3, 3, 1]
    assert {r["shard_id"] for r in read_shard(known.shards[1]).to_pylist()} == {known.shards[1].shard_id}
    assert [r["uri"] for r in rows_of(known.shards)] == [f"/in/{name}.jpg" for name in "abcdefg"]
    assert load_shards(files(known.shards)) == known.shards


def test_an_equal_listing_changes_nothing_and_writes_nothing(known):
    shards = known.shards
    known.list([row(name) for name in "gfedcba"])
    assert not known.changes and known.shards == shards


def test_a_listing_in_the_order_of_the_manifest_is_compared_without_duckdb(known, monkeypatch):
    """It takes 0.1 s to import, and up to 256 MB for the join."""
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "_duckdb", lambda: pytest.fail("DuckDB is asked"))
        known.list([row(name) for name in "abcdefg"])
        assert not known.changes
    for values in ({"version": "2"}, {"label": None}):
        known.list([row(name) for name in "abcdef"] + [row("g", **values)])
        assert known.changes, "a change in the last row is found"


def test_new_images_come_in_new_shards(known):
    before = known.shards
    known.list([row(name) for name in "0abc1defg2"])
    assert known.changes == Changes(new=3)
    assert ids(known.shards)[:3] == ids(before)
    assert [s.digest for s in known.shards][:3] == [s.digest for s in before]
    assert [r["uri"] for r in rows_of(known.shards[3:])] == ["/in/0.jpg", "/in/1.jpg", "/in/2.jpg"]


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"size_bytes": 2}, Changes(changed=1)),
        ({"version": "2"}, Changes(changed=1)),
        ({"label": None}, Changes(relabelled=1, unlabelled=1)),
        ({"group": "site"}, Changes(relabelled=1)),
    ],
)
def test_a_changed_image_stays_in_its_shard_whose_digest_tells(known, values, changes):
    before = known.shards
    known.list([row(name, **(values if name == "b" else {})) for name in "abcdefg"])
    assert known.changes == changes
    assert ids(known.shards) == ids(before)
    assert [s.digest == t.digest for s, t in zip(known.shards, before, strict=True)] == [False, True, True]


def test_a_gone_image_is_marked_and_may_return(known):
    before = known.shards
    known.list([row(name) for name in "acdefg"])
    assert known.changes == Changes(gone=1)
    assert [r["uri"] for r in rows_of(known.shards) if r["gone"]] == ["/in/b.jpg"]
    assert [s.digest for s in known.shards] == [s.digest for s in before]
    known.list([row(name) for name in "acdefg"])
    assert not known.changes
    known.list([row(name) for name in "abcdefg"])
    assert known.changes == Changes(returned=1)
    assert not any(r["gone"] for r in rows_of(known.shards))


def test_forgetting_drops_gone_images_and_empty_shards(known):
    before = known.shards
    known.list([row(name) for name in "abef"])
    known.list([row(name) for name in "abef"], forget=True)
    assert known.changes == Changes(forgotten=3)
    assert ids(known.shards) == ids(before)[:2]
    assert [r["uri"] for r in rows_of(known.shards)] == [f"/in/{name}.jpg" for name in "abef"]


def test_many_shards_stand_in_many_files_and_unchanged_files_keep_their_names(known, monkeypatch):
    monkeypatch.setattr(manifest, "_SHARDS_PER_FILE", 2)
    known.list([row(name) for name in "abcdefgh"])
    names = [uri.rpartition("/")[2] for uri in files(known.shards)]
    assert [name[:14] for name in names] == ["manifest-00000", "manifest-00001"]
    known.list([row(name) for name in "abcdefghi"])
    assert files(known.shards)[0].rpartition("/")[2] == names[0]
    assert load_shards(files(known.shards)) == known.shards


def test_a_file_that_is_no_manifest_is_named(tmp_path):
    pq.write_table(pa.table({"uri": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(StorageError, match=r"x\.parquet: is no manifest"):
        load_shards([str(tmp_path / "x.parquet")])


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3)
listings = st.dictionaries(
    names, st.tuples(st.integers(0, 2), st.sampled_from([None, "glioma"])), min_size=1, max_size=9
)


@settings(max_examples=12)
@given(steps=st.lists(st.tuples(listings, st.booleans(), st.integers(1, 4)), min_size=2, max_size=4))
def test_any_sequence_of_listings_leaves_each_image_in_one_shard_as_it_was_last_seen(tmp_path_factory, steps):
    archive = Archive(tmp_path_factory.mktemp("steps"))
    expected, home = {}, {}
    for listed, forget, shard_size in steps:
        rows = [row(name, version=str(version), label=label) for name, (version, label) in listed.items()]
        archive.list(rows, forget=forget, shard_size=shard_size)
        now = {r["uri"]: r | {"gone": False} for r in rows}
        kept = {} if forget else {uri: r | {"gone": True} for uri, r in expected.items()}
        expected = kept | now
        found = rows_of(archive.shards)
        assert {r["uri"]: {k: v for k, v in r.items() if k != "shard_id"} for r in found} == expected
        assert len(found) == len(expected)
        homes = {r["uri"]: r["shard_id"] for r in found}
        assert all(homes[uri] == home[uri] for uri in homes.keys() & home.keys()), "an image changed its shard"
        home = homes


@pytest.mark.parametrize("statistics", [True, False])
def test_a_file_that_is_listed_by_frame_now_loses_its_one_row_whatever_footers_tell(tmp_path, statistics):
    """Else its picture would be in the run twice, as one image and as its frames."""
    old = write_first(listing_of(tmp_path, [row("a"), row("b")]), str(tmp_path / "old"), shard_size=2)
    frames = [
        row("a") | {"uri": f"/in/a.jpg#{k + 1}", "container": "/in/a.jpg", "offset": k, "stored_bytes": 2}
        for k in range(2)
    ]
    listing = listing_of(tmp_path, [*frames, row("b")])
    pq.write_table(pq.read_table(listing.path), listing.path, write_statistics=statistics)
    _, shards = write_updated(files(old), listing, str(tmp_path / "new"), forget=False, shard_size=lambda _: 2)
    assert [found["uri"] for found in rows_of(shards)] == ["/in/b.jpg", "/in/a.jpg#1", "/in/a.jpg#2"]
