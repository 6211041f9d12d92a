"""Classes whose names differ by a mark, as `IDH+` and `IDH-`: each image has the label of its own."""

import unicodedata

import pyarrow as pa
import pytest
from support.each import each
from support.imaging.images import image_bytes

from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.class_names import ClassLookup
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.labels.answer_file import read_answers, read_label_file
from brainray.inputs.listing import Lister, scan
from brainray.training.dataset import list_training_set

CLASSES = ("+1", "-1", "0.5", "05", "IDH+", "IDH-")


@pytest.fixture
def images(tmp_path):
    """Two images of each class, in its folder."""
    for name in CLASSES:
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "in" / name / f"{number}.png").write_bytes(image_bytes(number, kind="PNG"))
    return tmp_path / "in"


@pytest.fixture
def table(images):
    """A table of their labels."""
    path = images.parent / "labels.csv"
    rows = (f"in/{name}/{number}.png,{name}" for name in CLASSES for number in range(2))
    path.write_text("\n".join(["path,label", *rows]) + "\n")
    return path


def labels_of(given, **options):
    """The labels by the folder of the image."""
    with ArchiveIndexes(str(given.parent / "indexes")) as indexes:
        lister = Lister(distinct_inputs([str(given)]), indexes, classes=CLASSES, **options)
        rows = pa.concat_tables(scan(lister, str(given.parent / "listing.parquet")).batches()).to_pylist()
    return {(row["uri"].split("/")[-2], row["label"]) for row in rows}


def test_what_training_takes_for_classes_scoring_tells_apart(images, table):
    assert list_training_set(str(images)).classes == CLASSES
    own = {(name, name) for name in CLASSES}
    assert labels_of(images) == own, "by folders"
    assert labels_of(table) == own, "by the column of a list"
    assert labels_of(images, label_file=read_label_file(str(table), CLASSES)) == own, "by --labels"


def test_answers_are_of_the_class_that_they_name(table):
    rows = read_answers(str(table), CLASSES)
    named = zip(rows.keys.to_pylist(), rows.labels.to_pylist(), strict=True)
    assert all(uri.split("/")[-2] == label for uri, label in named)


def test_an_exact_name_comes_first_and_a_spelling_of_two_classes_fits_neither():
    lookup = ClassLookup(("grade 1", "grade_1", "Grade 2", "no tumor", "healthy"))
    assert [lookup.find(name) for name in ("grade_1", " grade 1 ")] == ["grade_1", "grade 1"]
    assert lookup.find("GRADE-1") is None
    assert lookup.find("grade-2") == "Grade 2"
    assert [lookup.find(name) for name in ("healthy", "no_tumor", "normal")] == ["healthy", "no tumor", None]


@each(("known", "other"), [("IDH+", "IDH-"), ("IDH+", "IDH"), ("-1", "1"), ("0.5", "05"), ("<5", ">5"), ("+", "__")])
def test_a_mark_is_no_spelling_where_only_one_of_two_is_a_class(known, other):
    """A model of `IDH+` and another class must not call the folder `IDH-` by the name of its opposite."""
    lookup = ClassLookup((known, "other"))
    assert lookup.find(known) == known
    assert lookup.find(other) is None


def test_composed_and_decomposed_letters_spell_one_class(tmp_path):
    """A Mac may write folder names in decomposed letters, where others compose them."""
    composed, decomposed = (unicodedata.normalize(form, "Tum\u00f6r") for form in ("NFC", "NFD"))
    for name in (composed, decomposed, "Tumor"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").write_bytes(image_bytes(number, kind="PNG"))
    assert list_training_set(str(tmp_path)).classes == ("Tumor", composed)
    assert ClassLookup((decomposed, "Tumor")).find(composed) == decomposed, "a model of an earlier version"
