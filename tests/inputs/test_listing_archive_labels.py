"""The labels that archives hold beside their images, and folders of zips from Windows."""

import pytest
from support.archives import tar_of, zip_of

from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.label_file import read_label_file
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


@pytest.mark.parametrize("key", ["1.jpg", "w.zip#a/1.jpg", "w.zip#a\\1.jpg"])
def test_a_label_file_names_members_of_a_zip_from_windows(listed, tmp_path, key):
    (tmp_path / "labels.csv").write_text(f"image,label\n{key},glioma\n")
    label_file = read_label_file(str(tmp_path / "labels.csv"), CLASSES)
    assert labels(listed("w.zip", zip_of({"a\\1.jpg": b"x"}), label_file=label_file)) == {"a\\1.jpg": "glioma"}
