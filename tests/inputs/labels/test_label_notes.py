"""Columns of labels under other names: those that are well known label the images, of others the user is told."""

import pytest
from support.inputs.archive_rows import parquet_of
from support.inputs.archives import tar_of

from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.listing import Lister, scan

CLASSES = ("glioma", "notumor")


@pytest.fixture
def listed(tmp_path):
    def run(files, **options):
        inputs = []
        for name, data in files.items():
            (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
            inputs.append(str(tmp_path / name))
        with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
            lister = Lister(inputs, indexes, classes=CLASSES, **options)
            found = scan(lister, str(tmp_path / "listing.parquet"))
        return [row["label"] for table in found.batches() for row in table.to_pylist()], found.notes

    return run


@pytest.mark.parametrize("name", ["class_name", "ClassName", "label name", "tumor_type", "tumour-type"])
def test_well_known_names_are_labels_in_lists_tables_of_images_and_label_files(listed, tmp_path, name):
    wanted = (["glioma", None], ())
    assert listed({"a.csv": f"path,{name}\na.jpg,Glioma\nb.jpg,\n"}) == wanted
    assert listed({"a.parquet": parquet_of({"image": [b"x", b"y"], name: ["glioma", None]})}) == wanted
    (tmp_path / "labels.csv").write_text(f"image,{name}\na.jpg,glioma\n")
    assert read_label_file(str(tmp_path / "labels.csv"), CLASSES).rows == 1


def test_a_label_that_is_no_class_names_its_column(listed):
    """For under such a name there may be something else."""
    with pytest.raises(BadRequest, match=r"label 'LGG' is no class .* or rename the column diagnosis"):
        listed({"a.csv": "path,diagnosis\na.jpg,LGG\n"})


@pytest.mark.parametrize("name", ["class_name", "label name", "tumor_type"])
def test_values_that_are_no_classes_under_a_name_with_other_uses_refuse_no_list(listed, name):
    """As the kind of a tumor may stand beside its grade."""
    labels, (note,) = listed({"a.csv": f"path,{name}\nglioma/a.jpg,LGG\nb.jpg,\n"})
    assert labels == ["glioma", None]
    assert f"a.csv: none of its columns (path, {name}) labels the images; if {name} does, name it label (" in note
    labels, (note,) = listed({"b.parquet": parquet_of({"image": [b"x", b"y"], name: ["LGG", "glioma"]})})
    assert labels == [None, "glioma"]
    assert "b.parquet#0: 'LGG', its " in note and "is no class of the model and no label" in note
    labels, _ = listed({"c.parquet": parquet_of({"path": ["a", "b"], name: [3, 4]})})
    assert labels == [None, None]


@pytest.mark.parametrize(
    ("header", "row", "column"),
    [
        ("path,patient,Finding", "a.jpg,7,no tumor", "Finding"),
        ("path,category", "a.jpg,LGG", "category"),
        ("path,y", "a.jpg,3", "y"),
        ("path,patient,kind", "a.jpg,7,head", None),
        ("path,patient,kind", "a.jpg,7,", None),
    ],
)
def test_a_column_of_a_list_that_may_hold_labels_is_told(listed, header, row, column):
    labels, notes = listed({"a.csv": f"{header}\n{row}\n"})
    assert labels == [None]
    shown = header.replace(",", ", ")
    expected = f"a.csv: none of its columns ({shown}) labels the images; if {column} does, name it label ("
    assert len(notes) == (column is not None)
    assert all(expected in note for note in notes)


def test_so_is_one_of_a_table_of_images_once_for_a_data_set(listed):
    files = {f"{k}.parquet": parquet_of({"image": [b"x"], "y": [1], "finding": ["glioma"]}) for k in range(2)}
    labels, notes = listed(files)
    assert labels == [None, None]
    assert [note.partition("0.parquet: ")[2][:66] for note in notes] == [
        "none of its columns (image, y, finding) labels the images; if find"
    ]


def test_with_a_label_file_or_a_column_of_labels_nothing_is_told(listed, tmp_path):
    (tmp_path / "labels.csv").write_text(f"image,label\n{tmp_path}/a.jpg,notumor\n")
    label_file = read_label_file(str(tmp_path / "labels.csv"), CLASSES)
    assert listed({"a.csv": "path,y\na.jpg,glioma\n"}, label_file=label_file) == (["notumor"], ())
    assert listed({"a.csv": "path,y,label\na.jpg,glioma,notumor\n"}) == (["notumor"], ())


@pytest.mark.parametrize("target", ['"masks/7.png"', '"LGG"', "17"])
def test_what_is_no_class_under_a_name_with_other_uses_leaves_the_label_to_the_folders(listed, target):
    """As a mask's file may be the target of a sample."""
    sample = {"glioma/7.jpg": b"x", "glioma/7.json": f'{{"target": {target}}}'.encode()}
    labels, (note,) = listed({"w.tar": tar_of(sample)})
    assert labels == ["glioma"]
    assert f"w.tar#glioma/7.jpg: {target.replace(chr(34), chr(39))}" in note.replace("'17'", "17")
    assert "its target, is no class of the model and no label" in note


def test_a_partition_by_class_whose_key_is_no_name_of_labels_is_noted(tmp_path):
    (tmp_path / "in" / "tumor=no%20tumor").mkdir(parents=True)
    (tmp_path / "in" / "tumor=no%20tumor" / "1.jpg").write_bytes(b"x")
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([str(tmp_path / "in")], indexes, classes=CLASSES)
        assert scan(lister, str(tmp_path / "listing.parquet")).labelled == 0
    (note,) = lister.notes
    assert note.startswith("the folder tumor=no%20tumor labels no image; if tumor labels images, name it label (")
