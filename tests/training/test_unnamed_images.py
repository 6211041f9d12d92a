"""Images without suffix are trained on and audited by the rule of `score`; what is passed over is said."""

import pytest
from support.imaging.images import image_bytes

from brainray.duplicates.groups import list_images
from brainray.errors import BadRequest
from brainray.training.dataset import list_excluded, list_training_set

PNG = image_bytes(kind="PNG")
NAMES = [f"{name}/{file}" for name in ("glioma", "notumor") for file in ("IM1", "1.2.840.2")]


def put(root, names, data=PNG):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def test_images_without_suffix_are_taken_and_noted(tmp_path):
    root = put(tmp_path, NAMES)
    put(tmp_path, ["LICENSE", "glioma/checksums"], b"text")
    for found in (list_training_set(root), list_images([root], [], group_regex=None)):
        assert (len(found.table), found.skipped) == (4, {"no suffix": 2})
        (note,) = found.notes
        assert note.startswith("--data ") and note.endswith(
            ": 4 of 6 files without suffix are images by their first bytes (4 PNG), and are used"
        )
    assert len(list_excluded(root).table) == 4


def test_beside_more_images_with_suffix_they_are_told(tmp_path):
    root = put(tmp_path, [f"{name}/{number}.png" for name in ("glioma", "notumor") for number in range(3)] + NAMES)
    found = list_training_set(root)
    assert (len(found.table), found.skipped) == (6, {"no suffix": 4})
    assert found.notes[0].endswith("look like images: 4 PNG; give such files the suffix of their format")


def test_where_no_image_is_found_the_message_says_what_is_there(tmp_path):
    root = put(tmp_path, NAMES, b"no image")
    put(tmp_path, ["a.csv"])
    said = r"\(passed over: 4 no suffix, 1 suffix .csv\)"
    for listing in (list_training_set, list_excluded, lambda uri: list_images([uri], [], group_regex=None)):
        with pytest.raises(BadRequest, match=said):
            listing(root)
