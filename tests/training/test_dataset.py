import numpy as np
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES

from brainray.config import ImageSpec, TrainOptions
from brainray.errors import BadRequest
from brainray.training.dataset import (
    describe_data,
    describe_selection,
    list_excluded,
    list_training_set,
    select_images,
)
from brainray.training.decoded import decode_rows


def test_classes_are_the_folders_whatever_their_spelling(archive):
    root = archive(images=2, classes=("Glioma_tumor", "no tumor", "other"))
    (root / "loose.jpg").write_bytes(b"x")
    (root / "other" / "notes.txt").write_text("x")
    found = list_training_set(str(root))
    assert found.classes == ("glioma", "notumor", "other")
    assert found.table["label"].to_pylist() == [0, 0, 1, 1, 2, 2]
    assert found.skipped == {"not in a class folder": 1, "suffix .txt": 1}


@pytest.mark.parametrize(
    ("classes", "images", "complaint"),
    [
        ((), 0, "no class folder with images"),
        (("glioma",), 5, r"only one class folder \(glioma\)"),
        (("glioma", "notumor"), 1, "class glioma has one image"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(archive, tmp_path, classes, images, complaint):
    root = archive(images=images, classes=classes) if classes else tmp_path
    with pytest.raises(BadRequest, match=complaint):
        list_training_set(str(root))


@pytest.mark.parametrize("other", ["Brain Tumor", "brain_tumor", " brain-tumor"])
def test_two_spellings_of_one_class_are_refused(archive, other):
    """As in a public set with Training/Tumor and Testing/tumor: the model would learn to tell them apart."""
    root = archive(images=2, classes=("brain tumor", "fine", other))
    with pytest.raises(BadRequest, match="are spellings of one class"):
        list_training_set(str(root))


def test_marks_tell_classes_apart(archive):
    classes = ("+1", "-1", "1", "1-2", "12", "IDH+", "IDH-", "T1", "T1w")
    assert list_training_set(str(archive(images=2, classes=classes))).classes == tuple(sorted(classes))


def decoded(root):
    found = list_training_set(str(root))
    return found, decode_rows(found.table, ImageSpec(image_px=16))


def selection_of(found, rows, *, excluded=(), **options):
    """As if equal pixels were all that makes a copy."""
    _, groups = np.unique(rows["digest"], return_inverse=True)
    barred = np.isin(rows["digest"], excluded) & (rows["error"] == "")
    return select_images(found, groups, rows["digest"], rows["error"], excluded=barred, options=TrainOptions(**options))


def test_an_unreadable_image_keeps_its_place_and_its_reason(archive):
    root = archive(images=2, classes=("a", "b"))
    (root / "a" / "bad.jpg").write_bytes(b"")
    _, rows = decoded(root)
    assert rows["error"].tolist() == ["", "", "empty", "", ""]
    assert rows["position"].tolist() == [0, 1, 2, 3, 4]
    assert not rows["pixels"][2].any() and rows["pixels"][3].any()


def test_copies_in_another_format_are_one_picture_and_barred_ones_are_left_out(archive, tmp_path):
    root = archive(images=4, classes=("a", "b"))
    (root / "a" / "x.png").write_bytes(image_bytes(77, kind="PNG"))
    (root / "a" / "y.bmp").write_bytes(image_bytes(77, mode="RGB", kind="BMP"))
    (root / "b" / "bad.jpg").write_bytes(b"text")
    (tmp_path / "held out").mkdir()
    (tmp_path / "held out" / "0.jpg").write_bytes((root / "b" / "0.jpg").read_bytes())
    found, rows = decoded(root)
    excluded = decode_rows(list_excluded(str(tmp_path / "held out")).table, ImageSpec(image_px=16))["digest"]
    selected = selection_of(found, rows, excluded=excluded, val_fraction=0.4)
    assert (len(selected.positions), selected.distinct, selected.excluded) == (9, 8, 1)
    assert selected.unreadable == {"not_an_image": 1}
    (split,) = selected.splits
    sides = [set(rows["digest"][selected.positions_at(which)]) for which in (split.train, split.validation)]
    assert not sides[0] & sides[1]
    said = " ".join(describe_selection(selected))
    assert "1 not_an_image" in said and "--exclude shows the same picture: 1" in said
    assert "9 images show 8 pictures" in said


def test_a_picture_in_two_class_folders_is_left_out_whatever_is_right(archive):
    root = archive(images=4, classes=("a", "b"))
    (root / "b" / "0 again.jpg").write_bytes((root / "a" / "0.jpg").read_bytes())
    selected = selection_of(*decoded(root), folds=3)
    assert (len(selected.positions), selected.conflicts, len(selected.splits)) == (7, 2, 3)
    assert "lie in another class folder: 2" in " ".join(describe_selection(selected))


def test_what_a_regex_finds_in_a_path_stays_on_one_side(archive):
    root = archive(images=12, classes=("a", "b"))
    for path in sorted(root.rglob("*.jpg")):
        path.rename(path.with_name(f"patient{int(path.stem) // 3}-{path.name}"))
    found, rows = decoded(root)
    selected = selection_of(found, rows, folds=2, group_regex=r"./patient\d+")
    patients = np.array([uri.rsplit("-", 1)[0] for uri in found.table["uri"].to_pylist()])
    for split in selected.splits:
        assert len(split.validation) == 12
        assert not set(patients[selected.positions_at(split.train)]) & set(
            patients[selected.positions_at(split.validation)]
        )


def test_the_description_tells_which_pictures_are_measured_on(archive):
    """A training that goes on must not measure on what it has learned from, though the counts are the same."""
    found, rows = decoded(archive(images=8, classes=("a", "b")))
    told = [describe_data(selection_of(found, rows, seed=seed), ("a", "b")) for seed in (0, 0, 1)]
    assert told[0] == told[1]
    assert {name for name in told[0] if told[0][name] != told[2][name]} == {"division"}


def test_the_digest_of_a_data_set_does_not_know_names(archive, tmp_path):
    first = archive("first", images=3, classes=("a", "b"))
    second = tmp_path / "second"
    for path in first.rglob("*.jpg"):
        (second / path.parent.name).mkdir(parents=True, exist_ok=True)
        (second / path.parent.name / f"z{9 - int(path.stem)}.jpg").write_bytes(path.read_bytes())
    digests = set()
    for root in (first, second):
        found, rows = decoded(root)
        digests.add(selection_of(found, rows).digest)
    assert len(digests) == 1


def test_four_classes_are_nothing_special(archive):
    assert list_training_set(str(archive(images=2, classes=CLASSES))).classes == CLASSES
