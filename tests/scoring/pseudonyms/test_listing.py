"""The border between a listing and the run: which names it keeps, and when."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainray.errors import BadRequest, BrainrayError
from brainray.inputs.listed_image import LISTED_SCHEMA
from brainray.inputs.listing import Listing
from brainray.scoring.manifest import load_shards, read_shard, write_first, write_updated
from brainray.scoring.pseudonyms.key import Pseudonyms
from brainray.scoring.pseudonyms.listing import _Names, pseudonymised
from brainray.scoring.pseudonyms.names import NAMES_SCHEMA

KEY = bytes(range(32))


@pytest.fixture
def listed(tmp_path):
    """Listings of files by name, with their names apart."""

    def make(*names, skipped=None, refused=None, groups=None):
        rows = [{"uri": f"/in/{name}", "size_bytes": 1, "version": "1", "refused": refused} for name in names]
        rows = [row | {"group": group} for row, group in zip(rows, groups or [None] * len(rows), strict=True)]
        path = str(tmp_path / "listing.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=LISTED_SCHEMA), path)
        found = Listing(path=path, images=len(rows), size_bytes=len(rows), labelled=0, skipped=skipped or {})
        hidden = Pseudonyms(str(tmp_path / "names"), KEY)
        return pseudonymised(found, hidden, levels=1, given=None, indexes=str(tmp_path / "names" / "archives" / "a"))

    return make


def real_of(shards, names):
    return [names.real.rows(read_shard(shard))["uri"].to_pylist() for shard in shards]


def test_new_shards_get_their_names_and_old_ones_keep_theirs(listed, tmp_path):
    found, names = listed("a", "c", "e")
    shards = write_first(found, str(tmp_path / "first"), shard_size=2)
    names.keep(shards)
    assert real_of(shards, names) == [["/in/a", "/in/c"], ["/in/e"]]
    before = {
        name: os.stat(tmp_path / "names" / "names" / name).st_mtime_ns for name in os.listdir(tmp_path / "names/names")
    }
    old = tuple(dict.fromkeys(shard.manifest_uri for shard in shards))
    found, names = listed("a", "b", "c", "d", "f")
    _, shards = write_updated(old, found, str(tmp_path / "next"), forget=False, shard_size=lambda _: 2)
    names.keep(shards)
    assert real_of(shards, names) == [["/in/a", "/in/c"], ["/in/e"], ["/in/b", "/in/d"], ["/in/f"]]
    after = {
        name: os.stat(tmp_path / "names" / "names" / name).st_mtime_ns for name in os.listdir(tmp_path / "names/names")
    }
    assert before.items() <= after.items()


def test_before_anything_is_kept_images_are_read_by_the_names_of_the_listing(listed, tmp_path):
    found, names = listed("a", "b")
    rows = next(found.batches())
    gone = rows.slice(1).set_column(0, LISTED_SCHEMA.field("uri"), pa.array(["p:gone/gone"]))
    assert names.rows(pa.concat_tables([gone, rows]))["uri"].to_pylist() == ["/in/a", "/in/b", "p:gone/gone"]
    assert not (tmp_path / "names").exists()


def test_a_folder_that_lost_the_names_of_a_shard_is_refused(listed, tmp_path):
    found, names = listed("a", "b")
    shards = write_first(found, str(tmp_path / "first"), shard_size=1)
    names.keep(shards)
    names.check(load_shards([shards[0].manifest_uri]))
    os.unlink(tmp_path / "names" / "names" / f"{shards[1].shard_id}.parquet")
    with pytest.raises(BadRequest, match="has lost the names of 1 of 2 shards"):
        names.check(shards)


@pytest.mark.parametrize("kept", [lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda _: b""])
def test_a_file_of_names_that_is_cut_off_is_refused_by_name(kept, listed, tmp_path):
    found, names = listed("a", "b")
    shards = write_first(found, str(tmp_path / "first"), shard_size=1)
    names.keep(shards)
    file = tmp_path / "names" / "names" / f"{shards[1].shard_id}.parquet"
    whole = file.read_bytes()
    file.write_bytes(kept(whole))
    with pytest.raises(BadRequest, match=rf"1 of 2 shards \(names/{file.name} is cut off or damaged\)"):
        names.check(shards)
    names.keep(shards)
    assert file.read_bytes() == whole


def test_lost_texts_of_groups_that_are_listed_no_more_are_refused(listed, tmp_path):
    found, names = listed("a", groups=["jane"])
    shards = write_first(found, str(tmp_path / "first"), shard_size=1)
    names.keep(shards)
    _, later = listed("b", groups=["doe"])
    later.check(shards)
    (lost,) = (tmp_path / "names" / "names").glob("texts-*")
    lost.unlink()
    names.check(shards)
    with pytest.raises(BadRequest, match=r"names of 1 groups or options of the run \(g:[a-p]+\); a file texts-"):
        later.check(shards)
    with pytest.raises(BadRequest, match=r"names of 1 groups or options of the run \(p:text\)"):
        names.check(shards, ("p:text",))


def test_names_of_a_few_new_images_are_found_among_many_that_are_known():
    tables = [pa.table([[f"{k}{n}" for n in range(9)], ["real"] * 9, [None] * 9], schema=NAMES_SCHEMA) for k in "abcd"]
    names = _Names(iter(tables))
    wanted = [["a3", "b1"], ["b2"], ["b3", "b8"], ["c0"], ["c7", "d1", "d8"]]
    assert [names.of(pa.array(each))["pseudonym"].to_pylist() for each in wanted] == wanted
    with pytest.raises(BrainrayError, match="not in the listing"):
        names.of(pa.array(["e1"]))


def test_suffixes_of_files_that_are_passed_over_are_parts_of_names(listed):
    found, _ = listed("a", skipped={"suffix .jane": 1, "other suffix (.doe ...)": 2, "hidden": 3})
    assert found.skipped == {"other suffix": 3, "hidden": 3}


def test_what_the_listing_refuses_is_told_without_the_name(listed):
    found, _ = listed("jane.jpg", refused="archived: /in/jane.jpg: is in GLACIER; restore it")
    (row,) = next(found.batches()).to_pylist()
    assert row["refused"] == f"archived: {row['uri']}: is in GLACIER; restore it"
