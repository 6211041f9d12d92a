import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each

from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.listing import Lister, scan
from brainray.inputs.shard_slices import shard_size_for, slices

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def listed(tmp_path, inputs, **options):
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        lister = Lister(distinct_inputs(map(str, inputs)), indexes, classes=CLASSES, **options)
        found = scan(lister, str(tmp_path / "listing.parquet"))
    return found, pa.concat_tables(found.batches()).to_pylist()


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_every_image_is_listed_once(archive, tmp_path):
    root = archive(images=5)
    found, rows = listed(tmp_path, [root])
    assert sorted(row["uri"] for row in rows) == sorted(map(str, root.rglob("*.jpg")))
    assert found.images == len(rows) == found.labelled == 20


def test_a_pipe_is_no_image(archive, tmp_path):
    """Opening it would wait for ever."""
    root = archive(images=1)
    os.mkfifo(root / "pipe.jpg")
    found, _ = listed(tmp_path, [root])
    assert (found.images, found.skipped) == (4, {"special file": 1})


def test_labels_come_from_folders_also_from_the_input_itself(archive, tmp_path):
    root = archive(images=1)
    touch(root / "unsorted" / "a.jpg")
    _, rows = listed(tmp_path, [root])
    assert {row["label"] for row in rows} == {*CLASSES, None}
    _, rows = listed(tmp_path, [root / "glioma"])
    assert [row["label"] for row in rows] == ["glioma"]


def test_names_alike_in_several_folders_stay_distinct(tmp_path):
    for folder in ("a", "b", "a/b"):
        touch(tmp_path / "in" / folder / "1.jpg")
    _, rows = listed(tmp_path, [tmp_path / "in"])
    assert len({row["uri"] for row in rows}) == 3


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
    found, rows = listed(tmp_path, [tmp_path / "in"])
    assert found.skipped == {"hidden": 2, "no suffix": 1, "suffix .csv": 1, "suffix .txt": 2}
    assert {row["uri"].rsplit("/")[-1] for row in rows} == {"a.jpg", "b.JPEG", "e.nii.gz", "f.dcm"}


def test_globs_choose_paths_and_what_they_leave_out_is_counted(tmp_path):
    for name in ("site1/t1/a.jpg", "site1/t2/b.jpg", "site2/t1/c.jpg", "site2/t1/thumb-d.jpg", "site2/e.txt"):
        touch(tmp_path / "in" / name)
    found, rows = listed(tmp_path, [tmp_path / "in"], include=["*/t1/*", "site1/t2/?.jpg"], exclude=["*thumb*", "*c.*"])
    assert {row["uri"].rsplit("/")[-1] for row in rows} == {"a.jpg", "b.jpg"}
    assert found.skipped == {"in --exclude": 2, "suffix .txt": 1}
    found, _ = listed(tmp_path, [tmp_path / "in"], include=["site1/*"])
    assert found.skipped == {"not in --include": 2, "suffix .txt": 1}


def test_inputs_within_inputs_are_listed_once(archive, tmp_path):
    root = archive(images=2)
    found, _ = listed(tmp_path, [root / "glioma", root, root, root / "glioma" / "0.jpg"])
    assert found.images == 8


def test_a_missing_input_is_named():
    with pytest.raises(BadRequest, match="/no/such/place: no such file or folder"):
        distinct_inputs(["/no/such/place"])
    with pytest.raises(BadRequest, match=r"give --input /no/such/ --include '\*/1.jpg'$"):
        distinct_inputs(["/no/such/*/1.jpg"])


def test_the_runs_own_pictures_are_no_input(archive, tmp_path):
    root = archive(images=1)
    touch(root / "run" / "summary" / "confusion.png")
    found, _ = listed(tmp_path, [root], output=str(root / "run"))
    assert found.images == 4


@each(("group_by", "groups"), [("folder", {"site1", "site2"}), (r"/(site\d)/", {"site1", "site2"})])
def test_images_are_grouped_by_folder_or_pattern(tmp_path, group_by, groups):
    for site in ("site1", "site2"):
        touch(tmp_path / "in" / site / "glioma" / "1.jpg")
    _, rows = listed(tmp_path, [tmp_path / "in"], group_by=group_by)
    assert {row["group"] for row in rows} == groups


def test_a_bad_pattern_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"--group-by '\(' is no regular expression"):
        Lister([str(tmp_path)], ArchiveIndexes(str(tmp_path)), classes=CLASSES, group_by="(")


def test_small_archives_get_small_shards_whatever_the_machine():
    assert [shard_size_for(n, None) for n in (1, 1000, 5547, 16_000, 40_000_000)] == [64, 64, 347, 1000, 1000]
    assert shard_size_for(5, 7) == 7


@settings(max_examples=30)
@given(images=st.integers(1, 60), rows=st.integers(1, 70), chunk=st.integers(1, 70))
def test_slices_partition_the_rows(images, rows, chunk):
    table = pa.table({"uri": [f"u{i}" for i in range(images)]})
    parts = list(slices((table.slice(start, chunk) for start in range(0, images, chunk)), rows))
    assert pa.concat_tables(parts).equals(table)
    assert all(len(part) == rows for part in parts[:-1])


class TestLabelsFromAFile:
    def write(self, tmp_path, text, name="labels.csv"):
        (tmp_path / name).write_text(text)
        return read_label_file(str(tmp_path / name), CLASSES)

    def labels(self, tmp_path, root, text):
        label_file = self.write(tmp_path, text)
        _, rows = listed(tmp_path, [root], label_file=label_file)
        label_file.check_all_used_once()
        return {row["uri"].removeprefix(f"{root}/"): row["label"] for row in rows}

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
        label_file = read_label_file(str(tmp_path / "l.parquet"), CLASSES)
        found, _ = listed(tmp_path, [archive(images=1)], label_file=label_file)
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
            read_label_file("/none.csv", CLASSES)
