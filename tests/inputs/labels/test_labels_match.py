"""How rows of a label file find their images: exactly, nearly by stated rules, or not at all."""

import os
import unicodedata

import pytest
from support.each import each
from support.inputs.labelling import labels_of

from brainray.errors import BadRequest
from brainray.inputs import listing
from brainray.inputs.labels.label_match import nearest


def labelled(tmp_path, images, *rows, **options):
    (tmp_path / "labels.csv").write_text("".join(f"{row}\n" for row in ("image,label", *rows)))
    return labels_of(tmp_path / "in", images, tmp_path / "labels.csv", **options)


@each(
    ("image", "key"),
    [
        ("a/x.jpg", "./a/x.jpg"),
        ("a/x.jpg", " a/x.jpg "),
        ("a/x.jpg", "a\\x.jpg"),
        ("a/x.jpg", ".\\a\\x.jpg"),
        ("a/x.jpg", "A/X.JPG"),
        ("a/x.JPG", "x.jpg"),
        ("a/x.jpg", "a/x"),
        ("a/x.jpg", "x"),
        ("a/scan.1.jpg", "scan.1"),
        ("a/x.nii.gz", "x"),
        (unicodedata.normalize("NFC", "a/é.jpg"), unicodedata.normalize("NFD", "é.jpg")),
        (unicodedata.normalize("NFD", "a/é.jpg"), unicodedata.normalize("NFC", "é.jpg")),
    ],
)
def test_a_name_that_nearly_fits_one_image_labels_it(tmp_path, image, key):
    found = labelled(tmp_path, [image, "b/y.jpg"], f"{key},pituitary", "b/y.jpg,notumor")
    assert found == {image: "pituitary", "b/y.jpg": "notumor"}


@each("key", ["in/a/x.jpg", "In\\a\\X.jpg", "in/a/x"])
def test_a_path_from_a_folder_above_the_input_labels_the_image(tmp_path, key):
    """As it stands beside the folder, where a list with this path would name the image."""
    assert labelled(tmp_path, ["a/x.jpg", "b/x.jpg"], f"{key},pituitary") == {"a/x.jpg": "pituitary", "b/x.jpg": None}


def test_the_end_of_a_path_that_fits_several_images_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"several nearly.*'c/x.jpg'"):
        labelled(tmp_path, ["a/c/x.jpg", "b/c/x.jpg"], "c/x.jpg,glioma")


@each("images", [["a b.jpg"], ["a%20b.jpg"], ["a b.jpg", "a%20b.jpg"]])
def test_a_file_uri_names_the_literal_file_before_the_decoded_one(tmp_path, images):
    found = labelled(tmp_path, images, f"file://{tmp_path}/in/a%20b.jpg,pituitary")
    assert found == dict.fromkeys(images[:-1]) | {images[-1]: "pituitary"}


def test_a_suggestion_is_never_the_name_itself(tmp_path):
    assert nearest(["a.zip/1.jpg"], ["/in/a.zip#1.jpg"]) == ["/in/a.zip#1.jpg"]


def test_an_image_outside_the_rules_is_suggested(tmp_path):
    with pytest.raises(BadRequest, match=r"not in the input: 'a/x1.png'; did you mean 'a/x1.jpg'\?"):
        labelled(tmp_path, ["a/x1.jpg", "b/y.jpg"], "a/x1.png,glioma")


def test_nothing_is_suggested_where_nothing_resembles(tmp_path):
    with pytest.raises(BadRequest) as refused:
        labelled(tmp_path, ["a/x1.jpg"], "quite_another_name.tif,glioma")
    assert "did you mean" not in str(refused.value)


@each(
    ("images", "key"),
    [
        (["a/x.jpg", "b/x.JPG"], "X.jpg"),
        (["a/x.jpg", "a/x.png"], "a/x"),
        (["a/x.jpg", "A/x.jpg"], "a\\X.jpg"),
    ],
)
def test_a_name_that_nearly_fits_several_images_is_refused(tmp_path, images, key):
    with pytest.raises(BadRequest, match=r"1 name\(s\) fit no image exactly and several nearly") as refused:
        labelled(tmp_path, images, f"{key},glioma")
    assert repr(key) in str(refused.value)


def test_a_bare_name_that_nearly_fits_an_image_with_a_row_and_another_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"fit no image exactly and several nearly.*'1\.JPG'"):
        labelled(tmp_path, ["a/1.jpg", "b/1.jpg"], "a/1.jpg,glioma", "1.JPG,notumor")


def test_a_bare_name_of_several_images_is_refused_even_if_one_has_its_own_row(tmp_path):
    with pytest.raises(BadRequest, match=r"fit several images, give their full path: '1\.jpg'"):
        labelled(tmp_path, ["n/1.jpg", "m/1.jpg"], "n/1.jpg,glioma", "1.jpg,pituitary")


def test_two_rows_for_one_image_are_refused_by_name(tmp_path):
    with pytest.raises(BadRequest, match=r"1 row\(s\) name an image that another row names already: 'x.jpg'"):
        labelled(tmp_path, ["a/x.jpg"], "a/x.jpg,glioma", "x.jpg,pituitary")


@each("keys", [("X.jpg", "x.JPG"), ("./a/x.jpg", "a\\x.jpg"), ("a/x", "x.jpg ")])
def test_two_rows_that_nearly_name_one_image_are_refused(tmp_path, keys):
    with pytest.raises(BadRequest, match=r"or one image together|that another row names already"):
        labelled(tmp_path, ["a/x.jpg"], f"{keys[0]},glioma", f"{keys[1]},pituitary")


def test_exact_names_come_first(tmp_path):
    """Names that differ only in case or suffix are different images where each is named as it is."""
    images = ["a.jpg", "A.jpg", "a.png", "sub/b.jpg"]
    found = labelled(tmp_path, images, "a.jpg,glioma", "A.jpg,notumor", "B,pituitary")
    assert found == {"a.jpg": "glioma", "A.jpg": "notumor", "a.png": None, "sub/b.jpg": "pituitary"}


def test_a_suffix_never_stands_for_another(tmp_path):
    """`1.png` may be the mask of `1.jpg`."""
    with pytest.raises(BadRequest, match=r"not in the input: '1\.jpg'"):
        labelled(tmp_path, ["1.png"], "1.jpg,glioma")


def test_paths_below_the_input_come_before_bare_names(tmp_path):
    found = labelled(tmp_path, ["0.jpg", "sub/0.jpg"], " 0.jpg,glioma", " sub/0.jpg,notumor")
    assert found == {"0.jpg": "glioma", "sub/0.jpg": "notumor"}


def test_zeros_before_a_number_count(tmp_path):
    with pytest.raises(BadRequest, match=r"not in the input: '01'; did you mean '1'"):
        labelled(tmp_path, ["n/1"], "01,glioma", as_list=True)


def test_near_names_are_found_in_every_chunk_of_a_listing(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "CHUNK_ROWS", 3)
    images = [f"a/{i:02}.jpg" for i in range(10)]
    rows = [f"{image},notumor" for image in images[::2]] + [f"{image.upper()},glioma" for image in images[1::2]]
    wanted = {image: ("notumor", "glioma")[i % 2] for i, image in enumerate(images)}
    assert labelled(tmp_path, images, *rows) == wanted
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("listing")) == ["listing.parquet"]


def test_a_near_row_without_label_takes_its_image(tmp_path):
    assert labelled(tmp_path, ["glioma/1.jpg", "2.jpg"], "1,NA", "2.jpg,glioma") == {
        "glioma/1.jpg": None,
        "2.jpg": "glioma",
    }


class TestAnExtendedRun:
    """Rows may name images that are gone."""

    def test_a_row_whose_image_is_gone_does_not_label_another(self, tmp_path):
        rows = ("1.jpg,glioma", "s/1.jpg,notumor")
        wanted = {"1.jpg": "glioma", "s/1.jpg": "notumor"}
        assert labelled(tmp_path, ["1.jpg", "s/1.jpg"], *rows) == wanted
        (tmp_path / "in" / "1.jpg").unlink()
        assert labelled(tmp_path, ["s/1.jpg"], *rows, extending=True) == {"s/1.jpg": "notumor"}

    def test_the_end_of_a_path_that_is_gone_does_not_label_another(self, tmp_path):
        rows = ("a/1.jpg,glioma", "in/q/a/1.jpg,notumor")
        labelled(tmp_path, ["a/1.jpg", "q/a/1.jpg"], *rows)
        (tmp_path / "in" / "a" / "1.jpg").unlink()
        assert labelled(tmp_path, ["q/a/1.jpg"], *rows, extending=True) == {"q/a/1.jpg": "notumor"}

    def test_a_near_name_labels_as_before(self, tmp_path):
        rows = ("a/1,glioma", "a/2,notumor")
        labelled(tmp_path, ["a/1.jpg", "a/2.jpg"], *rows)
        (tmp_path / "in" / "a" / "1.jpg").unlink()
        assert labelled(tmp_path, ["a/2.jpg"], *rows, extending=True) == {"a/2.jpg": "notumor"}
