"""Runs over TIFF files of several pages and animated GIF files: a row for each page, also where a run goes on."""

import csv
import os

import pytest
from support.imaging.encoded import packed
from support.imaging.paged import gif, moving, pages, tiff
from support.models.bundles import CLASSES
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here
from support.storage.s3_servers import decided_s3, s3_endpoints

from brainray.config import MaxFailed
from brainray.errors import StorageError
from brainray.inputs.frames import listing
from brainray.inputs.labels.answer_file import read_label_file
from brainray.storage.base import FileInfo

__all__ = ["decided_s3", "s3_endpoints"]  # fixtures


def scored(root, output, bundle, **options) -> dict[str, dict]:
    score_here(request_for(root, output, bundle, **options), engine_of(bundle, predict=brightness))
    return {row["uri"].rpartition("/")[2]: row for row in rows(output)}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "many.tif").write_bytes(tiff(pages(3)))
    (folder / "moving.gif").write_bytes(gif(moving(3)))
    (folder / "one.tiff").write_bytes(packed(pages(1)[0], "TIFF"))
    return folder


ROWS = {*(f"many.tif#{k}" for k in (1, 2, 3)), *(f"moving.gif#{k}" for k in (1, 2, 3)), "one.tiff"}


@pytest.fixture
def earlier(monkeypatch):
    """Files count as one image each, as in earlier versions."""
    with monkeypatch.context() as patch:
        patch.setattr(listing, "is_paged", lambda _: False)
        yield patch


def test_each_page_is_a_row_with_the_prediction_of_its_picture(root, tmp_path, bundle):
    found = scored(root, tmp_path / "run", bundle)
    assert set(found) == ROWS
    assert {(row["status"], row["error_detail"]) for row in found.values()} == {("ok", None)}
    alone = tmp_path / "alone"
    alone.mkdir()
    for number, page in enumerate(pages(3), 1):
        (alone / f"many.tif#{number}.png").write_bytes(packed(page))
    expected = scored(alone, tmp_path / "run of pages", bundle)
    said = {f"{name}.png": row["confidence"] for name, row in found.items() if name.startswith("many")}
    assert said == {name: row["confidence"] for name, row in expected.items()}
    assert len(set(said.values())) == 3
    sizes = sum(row["size_bytes"] for name, row in found.items() if name.startswith("many"))
    assert 0 <= sizes - os.path.getsize(root / "many.tif") < 3


def test_a_run_that_has_a_file_as_one_image_keeps_it_so(root, tmp_path, bundle, earlier):
    output = tmp_path / "run"
    before = scored(root, output, bundle)
    assert set(before) == {"many.tif", "moving.gif", "one.tiff"}
    assert "several pages" in before["many.tif"]["error_detail"]
    earlier.undo()
    (root / "new.tif").write_bytes(tiff(pages(2)))
    outcome = score_here(request_for(root, output, bundle), engine_of(bundle, predict=brightness))
    assert outcome.scored == 2, "the pages of the new file, and of no other"
    found = {row["uri"].rpartition("/")[2]: row for row in rows(output)}
    assert set(found) == {*before, "new.tif#1", "new.tif#2"}
    assert all(found[name] == row for name, row in before.items())
    assert any("2 files of several pages stay one image each" in note for note in outcome.plan.listing.notes)
    again = score_here(request_for(root, output, bundle), engine_of(bundle, predict=brightness))
    assert again.plan.complete and not again.plan.changes
    assert set(scored(root, output, bundle, rescore=True)) == {*ROWS, "new.tif#1", "new.tif#2"}


def test_a_list_names_pages_and_labels_of_a_file_hold_for_them(root, tmp_path, bundle):
    table = tmp_path / "labels.csv"
    table.write_text(f"image,label\nmany.tif,{CLASSES[0]}\nmoving.gif#2,{CLASSES[1]}\n")
    found = scored(root, tmp_path / "run", bundle, label_file=read_label_file(str(table), bundle.classes))
    assert {name: row["label"] for name, row in found.items() if row["label"]} == {
        **{f"many.tif#{number}": CLASSES[0] for number in (1, 2, 3)},
        "moving.gif#2": CLASSES[1],
    }
    names = ["many.tif#3", "moving.gif#2", "many.tif#7"]
    with open(tmp_path / "list.csv", "w", newline="") as sink:
        csv.writer(sink).writerows([["uri"], *([f"{root}/{name}"] for name in names)])
    again = scored(tmp_path / "list.csv", tmp_path / "again", bundle, max_failed=MaxFailed(share=1.0))
    assert set(again) == set(names)
    assert [again[name]["confidence"] == found[name]["confidence"] for name in names[:2]] == [True, True]
    assert again["many.tif#7"]["error"] == "truncated"
    (tmp_path / "files.csv").write_text("uri\nin/many.tif\nin/one.tiff\n")
    assert set(scored(tmp_path / "files.csv", tmp_path / "of files", bundle)) == ROWS - {
        f"moving.gif#{number}" for number in (1, 2, 3)
    }


def test_a_file_of_too_many_pages_is_one_row_that_says_so(tmp_path, bundle):
    frame = b"\x2c" + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x44\1\0"
    for name, frames in (("many.gif", 10_001), ("small.gif", 3)):
        (tmp_path / name).write_bytes(b"GIF89a\1\0\1\0\x80\0\0" + b"\0\0\0\xff\xff\xff" + frames * frame + b";")
    found = scored(tmp_path, tmp_path / "run", bundle, max_failed=MaxFailed(share=1.0))
    (many,) = (row for name, row in found.items() if name.startswith("many"))
    assert (many["error"], many["error_detail"]) == ("too_large", "it has more than the 10,000 pages that are read")
    assert {name for name in found if name.startswith("small")} == {"small.gif#1", "small.gif#2", "small.gif#3"}


def test_of_a_bucket_a_sample_of_tiffs_is_asked_for_pages(monkeypatch):
    asked = []

    def frames_in_file(found, volumes="first"):
        asked.append(found.uri)
        return 2 if found.folders == ("stacks",) else 1

    monkeypatch.setattr(listing, "frames_in_file", frames_in_file)
    files = [
        (FileInfo(uri=f"s3://bucket/{folder}/{k}.tif", folders=(folder,), size_bytes=900_000, version="v"), None)
        for folder in ("stacks", "singles")
        for k in range(400)
    ]
    found = list(listing.with_frames(files))
    assert {(info.folders[0], frames) for info, _, frames in found} == {("stacks", 2), ("singles", 1)}
    assert len([uri for uri in asked if "singles" in uri]) <= 64


def test_pages_of_an_object_that_is_no_longer_asked_stay_its_rows(decided_s3, tmp_path, bundle):
    """The first of each size in a folder is asked for all of them, and tomorrow another one may be the first."""
    several, output = tiff(pages(3)), tmp_path / "run"
    decided_s3.put("in/b.tif", several)
    root = f"{decided_s3.root}/in"
    before = scored(root, output, bundle)
    assert set(before) == {"b.tif#1", "b.tif#2", "b.tif#3"}
    decided_s3.put("in/a.tif", packed(pages(1)[0], "TIFF").ljust(len(several), b"\0"))
    found = scored(root, output, bundle)
    assert set(found) == {"a.tif", *before}
    assert all(found[name] == row for name, row in before.items())
    decided_s3.put("in/b.tif", several + b"\0")
    changed = scored(root, output, bundle)
    assert set(changed) == set(found), "a changed object is asked itself"
    assert changed["b.tif#2"]["version"] != found["b.tif#2"]["version"]
    decided_s3.put("in/b.tif", packed(pages(1)[0], "TIFF").ljust(len(several), b"\0"))
    assert set(scored(root, output, bundle)) == {"a.tif", "b.tif"}


# Of each file the number of its pages, night by night.
NIGHTS = {"a.tif": (3, 1, 3, 3), "b.tif": (1, 3, 1, 1), "c.tif": (3, 2, 1, 2), "d.tif": (1, 3, 3, 1)}


def test_a_file_is_one_image_or_its_pages_however_it_changes(tmp_path, bundle):
    root, output = tmp_path / "in", tmp_path / "run"
    root.mkdir()
    for night in range(4):
        for name, counts in NIGHTS.items():
            content = tiff(pages(counts[night])) if counts[night] > 1 else packed(pages(1)[0], "TIFF")
            (root / name).write_bytes(content + bytes(night))
        found = scored(root, output, bundle)
        for name, counts in NIGHTS.items():
            count, own = counts[night], {each for each in found if each.startswith(name)}
            assert own >= ({f"{name}#{k + 1}" for k in range(count)} if count > 1 else {name}), f"night {night}"
            assert (name in own) == (count == 1) == (len(own) == 1), f"night {night}"
        outcome = score_here(request_for(root, output, bundle), engine_of(bundle, predict=brightness))
        assert outcome.plan.complete
        assert not outcome.plan.listing.notes, "no earlier version has been there"


def test_pages_of_a_file_that_cannot_be_listed_for_a_moment_stay_its_rows(root, tmp_path, bundle, monkeypatch):
    output = tmp_path / "run"
    scored(root, output, bundle)

    def fails(reason):
        def read_span(uri, *_, **__):
            raise StorageError(reason, uri)

        return read_span

    with monkeypatch.context() as patch:
        patch.setattr(listing, "read_span", fails("read_failed"))
        assert set(scored(root, output, bundle)) == ROWS
        with open(root / "many.tif", "ab") as file:  # it has changed
            file.write(b"\0")
        assert set(scored(root, output, bundle)) == ROWS
    (root / "many.tif").write_bytes(packed(pages(1)[0], "TIFF"))
    with monkeypatch.context() as patch:
        patch.setattr(listing, "read_span", fails("forbidden"))
        found = scored(root, output, bundle, max_failed=MaxFailed(share=1.0))
        assert [found[f"many.tif#{number}"]["error"] for number in (1, 2)] == [None, "truncated"]
    alone = scored(root, output, bundle)
    assert set(alone) == {name for name in ROWS if not name.startswith("many")} | {"many.tif"}
    (root / "many.tif").unlink()
    assert set(scored(root, output, bundle)) == set(alone), "rows of a file that is gone stay"
