"""How rows of a group file find their images, and what is refused or counted."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each

from brainray.errors import BadRequest
from brainray.inputs.labels.group_file import read_group_file

IMAGES = ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg")


def images(*names):
    return pa.table({"uri": [f"/data/{name}" for name in names], "relative": list(names)})


def grouped(tmp_path, *rows, header="uri,subject", names=IMAGES):
    """The groups of the images, and what is said."""
    path = tmp_path / "groups.csv"
    path.write_text("".join(f"{row}\n" for row in (header, *rows)))
    file = read_group_file(str(path))
    return file.groups_of(images(*names)).to_pylist(), " ".join(file.describe())


@each("header", ["uri,subject", "image,Patient ID", "path,group", "file_name,group_id"])
def test_images_are_named_as_in_label_files(tmp_path, header):
    rows = ("/data/a/1.jpg,p1", "a\\2.JPG,p1", "./b/1, 01 ", "3.jpg,1")
    assert grouped(tmp_path, *rows, header=header) == (["p1", "p1", "01", "1"], "")


def test_an_image_without_a_row_or_with_an_empty_one_has_no_group(tmp_path):
    groups, said = grouped(tmp_path, "a/1.jpg,p1", "a/2.jpg,", "b/1.jpg,n/a")
    assert groups == ["p1", None, None, None]
    assert said == "--groups: 2 row(s) have no group (empty, NA or unknown)"


def test_parquet_holds_groups_as_text_or_whole_numbers(tmp_path):
    path = tmp_path / "groups.parquet"
    pq.write_table(pa.table({"uri": ["a/1.jpg", "a/2.jpg"], "patient": [7, None]}), path)
    assert read_group_file(str(path)).groups_of(images(*IMAGES)).to_pylist() == ["7", None, None, None]


def test_a_file_for_more_images_than_these_is_counted(tmp_path):
    groups, said = grouped(tmp_path, *(f"{name},p" for name in (*IMAGES, "c/9.jpg", "c/8.jpg")))
    assert groups == ["p"] * 4
    assert said == "--groups: 2 row(s) name none of these images, of which each has a row"


@each(
    ("rows", "words"),
    [
        (
            ("a/1.jpg,p1", "a/one.jpg,p2"),
            "name images that are not in the input: 'a/one.jpg'; did you mean 'a/2.jpg'.*; 3 image.s. have no row",
        ),
        (("1.jpg,p1",), r"1 name\(s\) fit several images"),
        (("a/1.jpg,p1", "a/1.jpg,p2"), "names images more than once"),
        (("a/1.jpg,p1", "A/1.jpg,p2", "a/2.jpg,p", "b/1.jpg,p", "b/3.jpg,p"), "another row names already"),
        (("a/1.jpg,", "a/2.jpg,NA"), "no image gets a group"),
        ((), "holds no rows"),
    ],
)
def test_what_may_be_a_mistake_is_refused(tmp_path, rows, words):
    with pytest.raises(BadRequest, match=f"^--groups .*{words}"):
        grouped(tmp_path, *rows)


def test_a_file_without_groups_is_refused_with_the_names_to_use(tmp_path):
    with pytest.raises(BadRequest, match="has no group column; it needs one named group or subject or patient"):
        grouped(tmp_path, "a/1.jpg,glioma", header="uri,label")
