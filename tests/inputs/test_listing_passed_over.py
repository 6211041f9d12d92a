"""What a listing passes over: folders of systems, excluded and unreadable ones, links, and files of other formats."""

from collections import Counter

import pytest
from support.each import each
from support.inputs.folders import forbid, touch

from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.listing import Lister, scan
from brainray.inputs.skip_counts import count_skipped, few_reasons

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")

__all__ = ["forbid"]  # a fixture


def listed(tmp_path, **options):
    root = str(tmp_path / "in")
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        lister = Lister(distinct_inputs([root]), indexes, classes=CLASSES, **options)
        found = scan(lister, str(tmp_path / "listing.parquet"))
    rows = [row for table in found.batches() for row in table.to_pylist()]
    return {row["uri"].removeprefix(f"{root}/"): row["label"] for row in rows}, found.skipped


@each(
    "folder",
    [
        "@eaDir",
        "#recycle",
        "#snapshot",
        "@Recycle",
        "lost+found",
        ".thumbnails",
        "$RECYCLE.BIN",
        "$Recycle.Bin",
        "RECYCLER",
        "System Volume Information",
        "__MACOSX",
    ],
)
def test_folders_that_systems_make_are_hidden(tmp_path, folder):
    touch(tmp_path / "in" / "glioma" / "1.jpg")
    touch(tmp_path / "in" / "glioma" / folder / "1.jpg" / "thumb.jpg")
    touch(tmp_path / "in" / folder / "pituitary" / "2.jpg")
    touch(tmp_path / "in" / folder / "3.zip")
    assert listed(tmp_path) == ({"glioma/1.jpg": "glioma"}, {"hidden": 3})


def test_linked_folders_are_counted_and_label_by_their_real_place(tmp_path):
    touch(tmp_path / "in" / "glioma" / "1.jpg")
    (tmp_path / "in" / "all").symlink_to(tmp_path / "in" / "glioma")
    (tmp_path / "in" / "glioma" / "up").symlink_to(tmp_path / "in")
    assert listed(tmp_path) == ({"glioma/1.jpg": "glioma"}, {"linked again": 2})


def test_a_link_into_a_hidden_store_is_followed(tmp_path):
    touch(tmp_path / "in" / ".store" / "v1" / "1.jpg")
    (tmp_path / "in" / "glioma").symlink_to(tmp_path / "in" / ".store" / "v1")
    assert listed(tmp_path) == ({"glioma/1.jpg": "glioma"}, {"hidden": 1})


def test_an_unreadable_folder_is_refused_with_the_ways_out(tmp_path, forbid):
    touch(tmp_path / "in" / "1.jpg")
    touch(tmp_path / "in" / "site 1" / "[old]" / "2.jpg")
    forbid(tmp_path / "in" / "site 1" / "[old]")
    with pytest.raises(BadRequest) as refused:
        listed(tmp_path)
    assert str(refused.value) == (
        f"--input {tmp_path}/in/site 1/[old]: Permission denied; "
        "let this user read the folder, or leave it out by --exclude 'site 1/[[]old]/*'"
    )
    assert listed(tmp_path, exclude=["site 1/[[]old]/*"]) == ({"1.jpg": None}, {"folder in --exclude": 1})


def test_a_hidden_folder_may_be_unreadable(tmp_path, forbid):
    """`lost+found` is, at the top of many file systems."""
    touch(tmp_path / "in" / "1.jpg")
    (tmp_path / "in" / "lost+found").mkdir()
    forbid(tmp_path / "in" / "lost+found")
    assert listed(tmp_path) == ({"1.jpg": None}, {"hidden": 1})


@pytest.mark.parametrize("pattern", ["old*", "old/*", "*/old/*", "*"])
def test_a_folder_is_not_entered_where_all_below_it_is_excluded(tmp_path, forbid, pattern):
    touch(tmp_path / "in" / "old" / "old" / "1.jpg")
    forbid(tmp_path / "in" / "old" / "old")
    rows, skipped = listed(tmp_path, exclude=[pattern])
    assert (rows, skipped) == ({}, {"folder in --exclude": 1})


@each("pattern", ["old/*.jpg", "old/?", "old", "*old"])
def test_a_folder_is_entered_where_a_path_below_it_may_be_kept(tmp_path, pattern):
    touch(tmp_path / "in" / "old" / "kept.png")
    assert listed(tmp_path, exclude=[pattern])[0] == {"old/kept.png": None}


def test_files_named_by_uids_give_one_reason(tmp_path):
    for number in range(40):
        touch(tmp_path / "in" / f"MR.1.2.840.113619.{number}")
    touch(tmp_path / "in" / "README")
    assert listed(tmp_path) == ({}, {"no suffix": 41})


def test_reasons_are_few_and_show_examples(tmp_path):
    for number in range(30):
        for copy in range(1 + (number < 10)):
            touch(tmp_path / "in" / f"{copy}.h{number:02}")
    touch(tmp_path / "in" / ".hidden")
    _, skipped = listed(tmp_path)
    assert skipped == {
        "hidden": 1,
        **{f"suffix .h{number:02}": 2 for number in range(10)},
        "other suffix (.h10, .h11, .h12 ...)": 20,
    }


def test_memory_for_suffixes_is_bounded_and_no_file_is_lost():
    skipped = Counter()
    for number in range(50_000):
        count_skipped(skipped, f"suffix .{number:x}z")
    assert len(skipped) < 11_000
    reasons = few_reasons(skipped)
    assert len(reasons) == 11
    assert sum(reasons.values()) == 50_000


def test_globs_that_match_nothing_are_told_once(tmp_path):
    touch(tmp_path / "in" / "old" / "sub" / "1.jpg")
    touch(tmp_path / "in" / "a.jpg")
    touch(tmp_path / "in" / "notes.txt")
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        exclude = ["old/*", "old/sub/*", "*.txt", "odl/*", "odl/*"]
        lister = Lister([str(tmp_path / "in")], indexes, classes=CLASSES, include=["*.jpg", "*.JPG"], exclude=exclude)
        found = scan(lister, str(tmp_path / "listing.parquet"))
    assert found.notes == (
        "--include '*.JPG': matches no path below the inputs",
        "--exclude 'odl/*': matches no path below the inputs",
    )
