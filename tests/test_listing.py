import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainray import listing
from brainray.errors import BadRequest
from brainray.listing import Lister, Shard, distinct_inputs, read_shard, scan, shard_size_for, write_manifest
from brainray.truth import load_truth

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def manifest_of(tmp_path, inputs, *, shard_size=3, **options):
    lister = Lister(distinct_inputs(map(str, inputs)), classes=CLASSES, **options)
    found = scan(lister, str(tmp_path / "listing.parquet"))
    return found, write_manifest(found, str(tmp_path / "manifest"), shard_size=shard_size)


def rows_of(shards):
    return pa.concat_tables([read_shard(shard) for shard in shards]).to_pylist()


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_every_image_stands_in_just_one_shard(archive, tmp_path):
    root = archive(images=5)
    found, shards = manifest_of(tmp_path, [root])
    assert [shard.images for shard in shards] == [3, 3, 3, 3, 3, 3, 2]
    rows = rows_of(shards)
    assert sorted(row["uri"] for row in rows) == sorted(map(str, root.rglob("*.jpg")))
    assert found.images == len(rows) == found.labelled == 20


def test_labels_come_from_folders_also_from_the_input_itself(archive, tmp_path):
    root = archive(images=1)
    touch(root / "unsorted" / "a.jpg")
    _, shards = manifest_of(tmp_path, [root])
    assert {row["label"] for row in rows_of(shards)} == {*CLASSES, None}
    _, shards = manifest_of(tmp_path, [root / "glioma"])
    assert [row["label"] for row in rows_of(shards)] == ["glioma"]


def test_names_alike_in_several_folders_stay_distinct(tmp_path):
    for folder in ("a", "b", "a/b"):
        touch(tmp_path / "in" / folder / "1.jpg")
    _, shards = manifest_of(tmp_path, [tmp_path / "in"])
    assert len({row["uri"] for row in rows_of(shards)}) == 3


def test_what_is_no_image_is_counted_by_reason(tmp_path):
    for name in (
        "a.jpg",
        "b.JPEG",
        "c.txt",
        ".hidden.jpg",
        ".cache/d.jpg",
        "README",
        "e.nii.gz",
        "f.dcm",
        "g.csv",
        "h.txt",
    ):
        touch(tmp_path / "in" / name)
    found, shards = manifest_of(tmp_path, [tmp_path / "in"])
    assert found.skipped == {"hidden": 2, "no suffix": 1, "suffix .csv": 1, "suffix .txt": 2}
    assert {row["uri"].rsplit("/")[-1] for row in rows_of(shards)} == {"a.jpg", "b.JPEG", "e.nii.gz", "f.dcm"}


def test_inputs_within_inputs_are_listed_once(archive, tmp_path):
    root = archive(images=2)
    found, _ = manifest_of(tmp_path, [root / "glioma", root, root, root / "glioma" / "0.jpg"])
    assert found.images == 8


def test_a_missing_input_is_named():
    with pytest.raises(BadRequest, match="/no/such/place: no such file or folder"):
        distinct_inputs(["/no/such/place"])


def test_the_runs_own_pictures_are_no_input(archive, tmp_path):
    root = archive(images=1)
    touch(root / "run" / "summary" / "confusion.png")
    found, _ = manifest_of(tmp_path, [root], output=str(root / "run"))
    assert found.images == 4


def test_equal_listings_give_equal_shards_and_a_new_file_another(archive, tmp_path):
    root = archive(images=3)
    _, first = manifest_of(tmp_path, [root])
    _, again = manifest_of(tmp_path, [root])
    assert first == again
    touch(root / "pituitary" / "9.jpg")
    _, extended = manifest_of(tmp_path, [root])
    kept = {shard.shard_id for shard in first} & {shard.shard_id for shard in extended}
    assert len(kept) == 4  # full shards before the new file stay as they were


def test_manifests_of_an_older_listing_go(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(listing, "_SHARDS_PER_FILE", 2)
    root = archive(images=4)
    _, shards = manifest_of(tmp_path, [root], shard_size=2)
    assert len({shard.manifest_uri for shard in shards}) == 4
    _, shards = manifest_of(tmp_path, [root], shard_size=8)
    assert [p.name for p in sorted((tmp_path / "manifest").iterdir())] == ["manifest-00000.parquet"]
    assert len(rows_of(shards)) == 16


@pytest.mark.parametrize(("group_by", "groups"), [("folder", {"site1", "site2"}), (r"/(site\d)/", {"site1", "site2"})])
def test_images_are_grouped_by_folder_or_pattern(tmp_path, group_by, groups):
    for site in ("site1", "site2"):
        touch(tmp_path / "in" / site / "glioma" / "1.jpg")
    _, shards = manifest_of(tmp_path, [tmp_path / "in"], group_by=group_by)
    assert {row["group"] for row in rows_of(shards)} == groups


def test_a_bad_pattern_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"--group-by '\(' is no regular expression"):
        Lister([str(tmp_path)], classes=CLASSES, group_by="(")


def test_small_archives_get_small_shards_whatever_the_machine():
    assert [shard_size_for(n, None) for n in (1, 1000, 5547, 16_000, 40_000_000)] == [64, 64, 347, 1000, 1000]
    assert shard_size_for(5, 7) == 7


@settings(max_examples=30, deadline=None)
@given(images=st.integers(1, 60), shard_size=st.integers(1, 70), chunk=st.integers(1, 70))
def test_shards_partition_the_listing(tmp_path_factory, images, shard_size, chunk):
    folder = tmp_path_factory.mktemp("slices")
    rows = [{"uri": f"u{i}", "size_bytes": i, "version": "v", "label": None, "group": None} for i in range(images)]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=listing._LISTED_SCHEMA), folder / "l.parquet", row_group_size=chunk
    )
    parts = list(listing.slices(str(folder / "l.parquet"), shard_size))
    assert [row["uri"] for part in parts for row in part.to_pylist()] == [row["uri"] for row in rows]
    assert all(len(part) == shard_size for part in parts[:-1])
    assert len({listing.shard_id(part) for part in parts}) == len(parts)


class TestLabelsFromAFile:
    def write(self, tmp_path, text, name="labels.csv"):
        (tmp_path / name).write_text(text)
        return load_truth(str(tmp_path / name), CLASSES)

    def labels(self, tmp_path, root, text):
        truth = self.write(tmp_path, text)
        _, shards = manifest_of(tmp_path, [root], truth=truth)
        truth.check_all_used_once()
        return {row["uri"].removeprefix(f"{root}/"): row["label"] for row in rows_of(shards)}

    def test_by_name_path_or_uri_and_only_from_the_file(self, tmp_path, archive):
        root = archive(images=1)
        touch(root / "x" / "only.jpg")
        text = f"file,label\nonly.jpg,No Tumor\nglioma/0.jpg,pituitary\n{root}/notumor/0.jpg,\n"
        assert self.labels(tmp_path, root, text) == {
            "glioma/0.jpg": "pituitary",
            "meningioma/0.jpg": None,
            "notumor/0.jpg": None,
            "pituitary/0.jpg": None,
            "x/only.jpg": "notumor",
        }

    def test_parquet_too(self, tmp_path, archive):
        pq.write_table(pa.table({"uri": ["glioma/0.jpg"], "label": ["glioma"]}), tmp_path / "l.parquet")
        truth = load_truth(str(tmp_path / "l.parquet"), CLASSES)
        found, _ = manifest_of(tmp_path, [archive(images=1)], truth=truth)
        assert found.labelled == 1

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("file,label\nnone.jpg,glioma\n", r"1 row\(s\) name images that are not in the input: 'none.jpg'"),
            ("file,label\n0.jpg,glioma\n", r"1 name\(s\) fit several images, give their full path: '0.jpg'"),
            ("file,label\nglioma/0.jpg,dog\n", r"label\(s\) 'dog' are no class of the model, which knows glioma"),
            ("file,label\nglioma/0.jpg,glioma\nglioma/0.jpg,notumor\n", "names images more than once"),
            ("a,b\n1,2\n", "has no image column"),
            ("file,b\n1,2\n", "has no label column"),
            ("file,label\n", "holds no rows"),
            ("", "no readable CSV"),
        ],
    )
    def test_what_does_not_fit_is_named(self, tmp_path, archive, text, complaint):
        with pytest.raises(BadRequest, match=complaint):
            self.labels(tmp_path, archive(images=1), text)

    def test_a_missing_file_is_named(self):
        with pytest.raises(BadRequest, match=r"--labels /none\.csv: No such file"):
            load_truth("/none.csv", CLASSES)


def test_a_worker_reads_the_rows_of_its_shard_only(archive, tmp_path):
    _, shards = manifest_of(tmp_path, [archive(images=2)], shard_size=4)
    assert isinstance(shards[1], Shard)
    assert {row["shard_id"] for row in read_shard(shards[1]).to_pylist()} == {shards[1].shard_id}
