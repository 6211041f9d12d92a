"""The labels that archives hold beside their images, and folders of zips from Windows."""

import gzip

import pytest
from support.each import each
from support.inputs.archive_rows import parquet_of, rows_of
from support.inputs.archives import tar_of, zip_of

from brainray import storage
from brainray.errors import BadRequest
from brainray.inputs.archives import index, sample_labels
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.listing import Lister, scan

CLASSES = ("glioma", "notumor")


@pytest.fixture
def listed(tmp_path):
    def run(name, data, **options):
        (tmp_path / name).write_bytes(data)
        with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
            lister = Lister([str(tmp_path / name)], indexes, classes=CLASSES, **options)
            listing = scan(lister, str(tmp_path / "listing.parquet"))
            rows = [row for table in listing.batches() for row in table.to_pylist()]
        return {row["uri"].partition("#")[2]: row for row in rows}

    return run


def labels(rows):
    return {name: row["label"] for name, row in rows.items()}


def test_folders_of_a_zip_from_windows_are_folders(listed):
    data = zip_of({"glioma\\": b"", "glioma\\1.jpg": b"x", "s\\No Tumor\\2.jpg": b"x"})
    rows = listed("w.zip", data, group_by="folder", exclude=["w.zip#x/*"])
    assert labels(rows) == {"glioma\\1.jpg": "glioma", "s\\No Tumor\\2.jpg": "notumor"}
    assert [row["group"] for row in rows.values()] == ["glioma", "s"]
    assert list(listed("w.zip", data, exclude=["w.zip#glioma/*"])) == ["s\\No Tumor\\2.jpg"]


def test_a_backslash_in_a_tar_is_part_of_a_name(listed):
    assert labels(listed("t.tar", tar_of({"glioma\\1.jpg": b"x"}))) == {"glioma\\1.jpg": None}


@pytest.mark.parametrize("key", ["1.jpg", "a/1.jpg", "a\\1.jpg", "w.zip#a/1.jpg", "w.zip#a\\1.jpg"])
def test_a_label_file_names_members_of_a_zip_from_windows(listed, tmp_path, key):
    (tmp_path / "labels.csv").write_text(f"image,label\n{key},glioma\n")
    label_file = read_label_file(str(tmp_path / "labels.csv"), CLASSES)
    assert labels(listed("w.zip", zip_of({"a\\1.jpg": b"x"}), label_file=label_file)) == {"a\\1.jpg": "glioma"}


def test_a_file_beside_the_image_labels_it_in_a_tar(listed):
    files = {
        "a/0.jpg": b"x", "a/0.cls": b"No Tumor\n",
        "1.cls": b"0", "1.jpg": b"x", "1.mask.png": b"x",
        "2.jpg": b"x", "2.json": b'{"label": "glioma"}', "2.cls": b"1",
        "3.jpg": b"x", "3.json": b'{"label": 1, "id": 3}',
        "7.jpg": b"x", "7.json": b'{"label": "\\ud800"}',
        "4.jpg": b"x", "4.json": b"[" * 60_000, "4.cls": b"\xff",
        "5.jpg": b"x", "glioma/5.cls": b"1", "glioma/6.jpg": b"x", "glioma/6.cls": b" ",
    }  # fmt: skip
    assert labels(listed("w.tar", tar_of(files))) == {
        "a/0.jpg": "notumor",
        "1.jpg": "glioma",
        "1.mask.png": "glioma",
        "2.jpg": "notumor",
        "3.jpg": "notumor",
        "7.jpg": None,
        "4.jpg": None,
        "5.jpg": None,
        "glioma/6.jpg": "glioma",
    }


@each("name", ["w.tar", "w.tar.gz"])
def test_labels_that_are_numbers_are_said_once(tmp_path, name):
    """Another data set may count its classes otherwise: nobody must find out by the accuracy."""
    data = tar_of({"0.jpg": b"x", "0.cls": b"1", "1.jpg": b"x", "1.cls": b"0"})
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([str(tmp_path / name)], indexes, classes=CLASSES)
        listing = scan(lister, str(tmp_path / "listing.parquet"))
        found = [row["label"] for table in listing.batches() for row in table.to_pylist()]
    assert found == ["notumor", "glioma"]
    assert listing.notes == (
        "labels that are numbers name the classes in the model's order: 0 glioma, 1 notumor; else give --labels",
    )


def test_images_before_the_damage_of_a_tar_are_labelled():
    rows = rows_of("tar", tar_of({"0.jpg": b"x", "0.cls": b"glioma"})[: 4 * 512] + b"x" * 512)
    assert [(row["name"], row["label"]) for row in rows] == [("0.jpg", "glioma"), ("0.cls", "glioma"), ("", None)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("w.tar", tar_of({"0.jpg": b"x", "0.cls": b"7"})),
        ("p.parquet", parquet_of({"image": [b"x"], "label": ["7"]})),
    ],
)
def test_a_label_that_is_no_class_refuses_the_archive(listed, tmp_path, name, data):
    with pytest.raises(BadRequest, match=f"{name}#0.*: its label '7' is no class of the model, which knows glioma, no"):
        listed(name, data)
    (tmp_path / "labels.csv").write_text("image,label\n0.jpg,glioma\n0,glioma\n")
    label_file = read_label_file(str(tmp_path / "labels.csv"), CLASSES)
    assert set(labels(listed(name, data, label_file=label_file)).values()) == {"glioma"}


def test_an_empty_label_of_a_table_is_none(listed):
    rows = listed("p.parquet", parquet_of({"image": [b"x"] * 3, "label": ["", " ", None]}))
    assert set(labels(rows).values()) == {None}


@each("number", [2, 3, 4])
def test_an_archive_that_a_run_has_already_is_not_refused(tmp_path, monkeypatch, number):
    """Runs of versions whose indexes have format 2 took a label that is no class for none."""
    kept = tmp_path / "containers"
    data = parquet_of({"image": [b"x", b"y"], "label": ["dog", "glioma"]})
    (tmp_path / "p.parquet").write_bytes(data)
    archive = next(storage.list_files(str(tmp_path / "p.parquet")))
    monkeypatch.setattr(index, "_FORMAT", number)
    with ArchiveIndexes(str(kept)) as indexes:
        indexes.begin(archive, "parquet").result()
    monkeypatch.undo()
    with ArchiveIndexes(str(tmp_path / "scratch"), kept=str(kept)) as indexes:
        ((table, _),) = Lister([archive.uri], indexes, classes=CLASSES).tables()
    assert table["label"].to_pylist() == [None, "glioma"]


def test_a_label_of_a_sample_that_cannot_be_read_is_counted_and_named(tmp_path):
    """One of a thousand in another encoding would lower the share of labelled images, and nobody knew why."""
    files = {
        "0.jpg": b"x", "0.cls": "glioma".encode("utf-16"), "1.jpg": b"x", "1.cls": b"\xe9",
        "2.jpg": b"x", "2.json": b"{", "3.jpg": b"x", "3.cls": b"x" * 70_000,
        "4.jpg": b"x", "4.json": b'{"label": "\\ud800"}', "6.jpg": b"x", "5.cls": b"0", "6.cls": b"0",
    }  # fmt: skip
    (tmp_path / "w.tar").write_bytes(tar_of(files))
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        listing = scan(Lister([str(tmp_path / "w.tar")], indexes, classes=CLASSES), str(tmp_path / "listing.parquet"))
        left_out = Lister([str(tmp_path / "w.tar")], indexes, classes=CLASSES, exclude=["w.tar#[1-6]*"])
        list(left_out.tables())
    assert (listing.images, listing.labelled) == (6, 1)
    assert listing.skipped == {"suffix .cls": 5, "suffix .json": 2}
    assert listing.notes == (
        f"5 file(s) that may hold labels label no image, such as {tmp_path}/w.tar#1.cls (is not UTF-8, as text without "
        "a byte-order mark must be); correct them, or give --labels",
    )
    assert left_out.notes == ()


@each(
    "files",
    [
        {"0.jpg": b"x", "0.cls": b"0", "0.json": b"{'a': 1}"},
        {"0.jpg": b"x", "0.cls": b"0", "0.json": b" " * 70_000},
        {"glioma/0.jpg": b"x", "glioma/0.json": b"{", "glioma/0.txt": b"glioma"},
        {"glioma/0.json": b'{"label": 0}', "glioma/1.json": b"{", "glioma/0.jpg": b"x", "glioma/1.jpg": b"x"},
        {"0.jpg": b"x", "0.json": b""},
        {"0.jpg": b"x", "0.json": b'{"label": 0}\n{"label": 1}\n'},
        {"0.jpg": b"x", "dataset.json": b'{"label": "glioma"}', "README.txt": b"normal", "all.json": b"{"},
    ],
)
def test_files_whose_images_have_labels_or_that_belong_to_no_image_are_not_noted(tmp_path, files):
    (tmp_path / "w.tar").write_bytes(tar_of(files))
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([str(tmp_path / "w.tar")], indexes, classes=CLASSES)
        labels = [label for table, _ in lister.tables() for label in table["label"].to_pylist()]
    assert [note for note in lister.notes if "numbers name the classes" not in note] == []
    assert (None in labels) == ("0.cls" not in files and "0.jpg" in files)


def test_a_cls_file_of_a_zip_whose_images_have_labels_is_not_noted(tmp_path):
    (tmp_path / "z.zip").write_bytes(zip_of({"glioma/0.jpg": b"x", "glioma/0.cls": b"0"}))
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        assert scan(Lister([str(tmp_path)], indexes, classes=CLASSES), str(tmp_path / "listing.parquet")).notes == ()


@each(
    ("names", "noted"),
    [
        (["a/0.jpg", "a/0.cls"], True),
        (["a/0.JPG", "a/0.cls"], True),
        (["a/0.jpg", "b/0.cls", "paper.cls"], False),
        (["glioma/0.jpg", "glioma/0.cls"], False),
    ],
)
def test_a_cls_file_of_a_folder_is_noted_beside_an_image_without_a_label(tmp_path, names, noted):
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"0")
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([str(tmp_path / "in")], indexes, classes=CLASSES)
        list(lister.tables())
    assert ["label images in tars only" in note for note in lister.notes] == [True] * noted


def test_a_list_of_members_whose_labels_are_no_classes_is_told_so(tmp_path):
    (tmp_path / "w.tar").write_bytes(tar_of({"0.jpg": b"x", "0.cls": b"cat"}))
    (tmp_path / "l.csv").write_text("uri\nw.tar#0.jpg\n")
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([f"{tmp_path}/l.csv"], indexes, classes=CLASSES)
        list(lister.tables())
    (note,) = lister.notes
    assert "w.tar#0.jpg: 'cat', the label that its archive gives it, is no class of the model" in note


def test_cls_files_outside_of_tars_are_noted(tmp_path):
    (tmp_path / "z.zip").write_bytes(zip_of({"0.jpg": b"x", "0.cls": b"0"}))
    (tmp_path / "1.cls").write_text("0")
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        listing = scan(Lister([str(tmp_path)], indexes, classes=CLASSES), str(tmp_path / "listing.parquet"))
    assert len(listing.notes) == 1
    assert "label images in tars only" in listing.notes[0]


def test_members_that_a_list_names_have_the_labels_that_their_archive_gives_them(listed, tmp_path):
    (tmp_path / "w.tar").write_bytes(tar_of({"0.jpg": b"x", "0.cls": b"1", "glioma/1.jpg": b"x"}))
    (tmp_path / "z.zip").write_bytes(zip_of({"glioma\\2.jpg": b"x"}))
    (tmp_path / "p.parquet").write_bytes(parquet_of({"image": [b"x", b"y"], "label": ["glioma", "dog"]}))
    names = ["w.tar#0.jpg", "w.tar#glioma/1.jpg", "z.zip#glioma\\2.jpg", "p.parquet#0", "p.parquet#1"]
    found = labels(listed("list.csv", "\n".join(["uri", *names]).encode()))
    assert list(found.values()) == ["notumor", "glioma", "glioma", "glioma", None]


def test_a_class_in_a_file_of_another_suffix_is_noted(tmp_path):
    files = {
        "0.jpg": b"x", "0.txt": b"glioma\n", "1.jpg": b"x", "1.class": b"glioma",
        "2.jpg": b"x", "2.json": b'["notumor"]', "3.jpg": b"x", "3.txt": b"a scan", "4.jpg": b"x", "4.txt": b"x" * 99,
        "5.jpg": b"x", "5.cls": b"0", "5.text": b"glioma",
    }  # fmt: skip
    (tmp_path / "w.tar").write_bytes(tar_of(files))
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        listing = scan(Lister([str(tmp_path / "w.tar")], indexes, classes=CLASSES), str(tmp_path / "listing.parquet"))
    assert listing.labelled == 1
    said = [note.partition("#")[2].partition(" and ")[0] for note in listing.notes if "#" in note]
    assert said == ["0.txt: holds 'glioma'", "1.class: holds 'glioma'", "2.json: holds 'notumor'"]


def test_a_label_that_says_that_none_is_known_refuses_no_input(listed, tmp_path):
    files = {"0.jpg": b"x", "0.cls": b"NA", "1.jpg": b"x", "1.json": b'{"label": "unknown"}'}
    (tmp_path / "w.tar").write_bytes(tar_of(files))
    (tmp_path / "p.parquet").write_bytes(parquet_of({"image": [b"x", b"y"], "label": ["n/a", "glioma"]}))
    (tmp_path / "l.csv").write_text("uri,class_name\na.jpg,glioma\nb.jpg,NA\n")
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister(
            [str(tmp_path / name) for name in ("w.tar", "p.parquet", "l.csv")], indexes, classes=(*CLASSES, "unknown")
        )
        found = [label for table, _ in lister.tables() for label in table["label"].to_pylist()]
    assert found == [None, "unknown", None, "glioma", "glioma", None]
    assert lister.notes == ("3 image(s) have a label that says none is known (NA, unknown or the like)",)


def test_a_path_within_several_archives_labels_none_of_them(tmp_path):
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(tar_of({"x/1.jpg": b"x"}))
    (tmp_path / "labels.csv").write_text("image,label\nx/1.jpg,glioma\n")
    label_file = read_label_file(str(tmp_path / "labels.csv"), CLASSES)
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([str(tmp_path)], indexes, classes=CLASSES, label_file=label_file)
        assert scan(lister, str(tmp_path / "listing.parquet")).labelled == 0
    with pytest.raises(BadRequest, match="several nearly"):
        label_file.check_all_used_once()


@each("members", [("x/1.jpg", "old/x/1.jpg"), ("x/1.jpg", "z/1.jpg")])
def test_a_path_within_an_archive_that_ends_another_path_too_labels_neither(tmp_path, members):
    """That of the member is whole, the other is longer: which one the row means, only its full path says."""
    (tmp_path / "in" / "y" / "x").mkdir(parents=True)
    (tmp_path / "in" / "a.tar").write_bytes(tar_of(dict.fromkeys(members, b"x")))
    if "old/x/1.jpg" not in members:
        (tmp_path / "in" / "y" / "x" / "1.jpg").write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("image,label\nx/1.jpg,glioma\n")
    label_file = read_label_file(str(tmp_path / "labels.csv"), CLASSES)
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([str(tmp_path / "in")], indexes, classes=CLASSES, label_file=label_file)
        assert scan(lister, str(tmp_path / "listing.parquet")).labelled == 0
    with pytest.raises(BadRequest, match="several nearly"):
        label_file.check_all_used_once()


def test_two_labels_of_one_sample_label_nothing_and_are_counted(tmp_path):
    (tmp_path / "w.tar").write_bytes(
        tar_of({"0.jpg": b"x", "0.cls": b"0", "0.CLS": b"1", "1.cls": b"1", "1.jpg": b"x"})
    )
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([str(tmp_path / "w.tar")], indexes, classes=CLASSES)
        assert [table["label"].to_pylist() for table, _ in lister.tables()] == [[None, "notumor"]]
    assert lister.skipped == {"suffix .cls": 3}
    assert "w.tar#0.CLS (says another label than the file before it)" in lister.notes[-1]


def test_a_text_in_place_of_a_label_refuses_a_table_and_is_not_passed_over(listed):
    with pytest.raises(BadRequest, match=r"p\.parquet#0: its label 'x{80}' is no class") as raised:
        listed("p.parquet", parquet_of({"image": [b"x"], "label": ["x" * 2000]}))
    assert "x" * 81 not in str(raised.value)


def test_a_label_holds_for_every_slice_of_a_large_sample(monkeypatch):
    """`vol.000.jpg` to `vol.099.jpg` are files of one sample, whose label comes after them."""
    files = {f"vol.{number:03}.jpg": b"x" for number in range(100)} | {"vol.cls": b"glioma"}
    assert {row["label"] for row in rows_of("tar", tar_of(files))} == {"glioma"}
    monkeypatch.setattr(sample_labels, "_MOST_FILES", 10)
    assert {row["label"] for row in rows_of("tar", tar_of(dict(reversed(files.items()))))} == {"glioma"}
