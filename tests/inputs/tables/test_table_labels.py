"""Labels that are not plain text in tables of images, lists and label files: numbers with names, numbers, structs."""

import re

import pyarrow as pa
import pytest
from support.each import each
from support.inputs.archive_rows import parquet_of
from support.inputs.archives import tar_of

from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.listing import Lister, scan

CLASSES = ("glioma", "notumor")
NAMED = {"info": {"features": {"label": {"names": ["No Tumor", "glioma"], "_type": "ClassLabel"}}}}


@pytest.fixture
def listed(tmp_path):
    def run(columns, **options):
        (tmp_path / "t.parquet").write_bytes(parquet_of(columns, **options))
        with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
            lister = Lister([str(tmp_path / "t.parquet")], indexes, classes=CLASSES)
            found = scan(lister, str(tmp_path / "listing.parquet"))
        return [row["label"] for table in found.batches() for row in table.to_pylist()], found.notes

    return run


def test_numbers_are_labels_by_the_names_of_their_classes(listed, tmp_path):
    numbers = {"label": pa.array([1, 0, -1, None])}
    wanted = ["glioma", "notumor", None, None]
    assert listed({"image": [b"x"] * 4} | numbers, huggingface=NAMED) == (wanted, ())
    assert listed({"path": list("abcd")} | numbers, huggingface=NAMED) == (wanted, ())
    (tmp_path / "labels").write_bytes(parquet_of({"path": list("abcd")} | numbers, huggingface=NAMED))
    label_file = read_label_file(str(tmp_path / "labels"), CLASSES)
    nothing = pa.nulls(4, pa.string())
    assert label_file.labels_of(pa.array(list("abcd")), nothing, nothing).to_pylist() == wanted


def test_a_number_without_a_name_is_no_class(listed):
    with pytest.raises(BadRequest, match=r"t\.parquet#1: its label '2' is no class of the model"):
        listed({"image": [b"x", b"y"], "label": pa.array([0, 2])}, huggingface=NAMED)


@pytest.mark.parametrize("name", ["Labels", " label ", "DIAGNOSIS"])
def test_columns_are_compared_as_those_of_lists(listed, name):
    assert listed({"image": [b"x", b"y"], name: ["glioma", None]}) == (["glioma", None], ())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0, 1], "int64 without names of classes"),
        ([True, None], "bool"),
        ([["glioma"], []], "list<element: string>"),
        ([{"name": "glioma"}, None], "struct<name: string>"),
    ],
)
def test_a_column_that_cannot_be_read_as_labels_is_noted(listed, values, told):
    found, (note,) = listed({"image": [b"x", b"y"], "label": pa.array(values)})
    assert found == [None, None]
    assert f"t.parquet: its column label is {told}, and labels no image; " in note
    found, notes = listed({"image": [b"x", b"y"], "label": pa.array(values), "diagnosis": ["glioma"] * 2})
    assert (found, notes) == (["glioma"] * 2, ())


@each(
    ("sample", "label"),
    [
        ('{"Class": "No Tumor"}', "notumor"),
        ('{"label": null, "diagnosis": "glioma"}', "glioma"),
        ('{"label": 1.0}', "notumor"),
        ('{"labels": ["glioma"]}', "glioma"),
        ('{"id": "glioma"}', None),
        ("[1]", None),
        # Under names that have other uses, what is neither text nor a number of a class is no label.
        ('{"target": {"boxes": [[1, 2, 3, 4]]}}', None),
        ('{"target": {"a": 1}, "labels": "glioma"}', "glioma"),
        ('{"labels": ["glioma", "notumor"]}', None),
        ('{"class": true, "target": 0.5}', None),
        ('{"class": [1], "target": 1}', "notumor"),
    ],
)
def test_the_label_of_a_sample_has_the_names_of_label_columns(tmp_path, sample, label):
    assert tar_labels(tmp_path, sample) == [label]


@each("value", ['["glioma", "notumor"]', '{"name": "glioma"}', "true", "0.5"])
def test_a_label_of_a_sample_that_is_no_text_is_refused(tmp_path, value):
    with pytest.raises(BadRequest, match=rf"#0.jpg: its label '{re.escape(value)}' is no class of the model"):
        tar_labels(tmp_path, f'{{"label": {value}}}')


def tar_labels(tmp_path, sample):
    (tmp_path / "w.tar").write_bytes(tar_of({"0.jpg": b"x", "0.json": sample.encode()}))
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        ((table, _),) = Lister([str(tmp_path / "w.tar")], indexes, classes=CLASSES).tables()
    return table["label"].to_pylist()
