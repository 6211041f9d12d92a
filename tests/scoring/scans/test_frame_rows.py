"""Runs over files with frames, slices or pages that cannot be looked into for a moment: no row is lost, or doubled."""

import gzip
import os

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.encoded import packed
from support.imaging.niftis import head, nifti
from support.imaging.paged import pages, tiff
from support.models.bundles import CLASSES
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here
from support.storage.s3_servers import decided_s3, s3_endpoints

from brainray import storage
from brainray.config import MaxFailed
from brainray.errors import Outage, StorageError
from brainray.inputs import unnamed_files
from brainray.inputs.frames import listing
from brainray.inputs.frames.header import frames_in
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.unread import UNREAD

__all__ = ["decided_s3", "s3_endpoints"]  # fixtures

THREE = dicom(np.stack([slice_pixels(32, seed) for seed in (1, 2, 3)]))
ONE = dicom(slice_pixels(32))
SEVERAL = {
    "x.dcm": THREE,
    "IM0001": THREE,
    "x.dcm.gz": gzip.compress(THREE),
    "y.dcm": dicom(np.stack([slice_pixels(32, seed) for seed in (4, 5, 6)]), DeflatedExplicitVRLittleEndian),
    "x.tif": tiff(pages(3)),
}
SINGLE = {"x.dcm": ONE, "IM0001": ONE, "x.dcm.gz": gzip.compress(ONE), "x.tif": packed(pages(1)[0], "TIFF")}


def scored(root, output, bundle, **options):
    options = {"max_failed": MaxFailed(share=1.0)} | options
    outcome = score_here(request_for(root, output, bundle, **options), engine_of(bundle, predict=brightness))
    found = {row["uri"].rpartition("/")[2]: row for row in rows(output)}
    assert len(found) == len(rows(output)), "a row for each name"
    return outcome, found


def frames_named(name: str) -> set[str]:
    return {f"{name}#{number}" for number in (1, 2, 3)}


@pytest.fixture
def unread(monkeypatch):
    """Makes reads while files are listed fail, for a reason, while it is entered."""

    class Failing:
        reason = "read_failed"

        def __enter__(self):
            self._patch = pytest.MonkeyPatch()
            for module in (listing, unnamed_files):
                self._patch.setattr(module, "read_span", self._fails)

        def __exit__(self, *_):
            self._patch.undo()

        def _fails(self, uri, *_, **__):
            raise StorageError(self.reason, f"{uri}: no answer")

    return Failing()


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def all_kinds(root):
    for name, content in SEVERAL.items():
        (root / name).write_bytes(content)
    return root


FRAMES = {frame for name in SEVERAL for frame in frames_named(name)}
ALL = {"any_suffix": True}


def test_frames_of_a_run_stay_while_their_file_cannot_be_looked_into(all_kinds, tmp_path, bundle, unread):
    _, before = scored(all_kinds, tmp_path / "run", bundle, **ALL)
    assert set(before) == FRAMES
    assert {row["status"] for row in before.values()} == {"ok"}
    for unread.reason in ("read_failed", "archived"):
        with unread:
            outcome, during = scored(all_kinds, tmp_path / "run", bundle, **ALL)
        assert during == before, unread.reason
        assert outcome.plan.complete, unread.reason
    outcome, after = scored(all_kinds, tmp_path / "run", bundle, **ALL)
    assert (after, outcome.plan.complete) == (before, True)


def test_a_new_file_that_cannot_be_looked_into_is_a_row_that_becomes_its_frames(all_kinds, tmp_path, bundle, unread):
    unread.reason = reason = "forbidden"
    for _ in range(2):
        with unread:
            outcome, found = scored(all_kinds, tmp_path / "run", bundle, **ALL)
        assert set(found) == set(SEVERAL)
        assert {(row["error"], row["error_detail"].startswith(UNREAD)) for row in found.values()} == {(reason, True)}
    assert outcome.plan.complete, "the second time nothing is new"
    outcome, found = scored(all_kinds, tmp_path / "run", bundle, **ALL)
    assert set(found) == FRAMES
    assert {row["status"] for row in found.values()} == {"ok"}
    assert (outcome.plan.changes.new, outcome.plan.changes.forgotten) == (len(FRAMES), len(SEVERAL))
    assert scored(all_kinds, tmp_path / "run", bundle, **ALL)[0].plan.complete


def test_packed_files_that_an_earlier_version_had_as_one_row_become_their_frames(root, tmp_path, bundle, monkeypatch):
    packed = ("x.dcm.gz", "y.dcm")
    for name in packed:
        (root / name).write_bytes(SEVERAL[name])
    with monkeypatch.context() as patch:
        patch.setattr(listing, "frames_of_head", frames_in)
        _, before = scored(root, tmp_path / "run", bundle)
    assert {name: row["error"] for name, row in before.items()} == dict.fromkeys(packed, "unsupported")
    assert set(scored(root, tmp_path / "run", bundle)[1]) == set().union(*map(frames_named, packed))
    assert scored(root, tmp_path / "run", bundle)[0].plan.complete


def test_frames_stay_under_pseudonyms_too(all_kinds, tmp_path, bundle, unread):
    root, options = all_kinds, {"pseudonymise_uris": str(tmp_path / "names")} | ALL
    _, before = scored(root, tmp_path / "run", bundle, **options)
    assert len(before) == 3 * len(SEVERAL)
    (root / "new.dcm").write_bytes(THREE)
    with unread:
        _, during = scored(root, tmp_path / "run", bundle, max_unread=1.0, **options)
        outcome, again = scored(root, tmp_path / "run", bundle, max_unread=1.0, **options)
    assert {name: row for name, row in during.items() if name in before} == before
    (new,) = (row for name, row in during.items() if name not in before)
    assert (new["error"], "new.dcm" in new["error_detail"], again) == ("read_failed", False, during)
    assert outcome.plan.complete
    _, after = scored(root, tmp_path / "run", bundle, **options)
    assert (len(after), {row["status"] for row in after.values()}) == (3 * len(SEVERAL) + 3, {"ok"})


def test_single_images_keep_their_predictions_or_get_them_when_they_can_be_read(root, tmp_path, bundle, unread):
    for name, content in SINGLE.items():
        (root / name).write_bytes(content)
    with unread:
        _, found = scored(root, tmp_path / "late", bundle, **ALL)
    assert {(name, row["error"]) for name, row in found.items()} == {(name, "read_failed") for name in SINGLE}
    _, found = scored(root, tmp_path / "late", bundle, **ALL)
    assert {(name, row["status"]) for name, row in found.items()} == {(name, "ok") for name in SINGLE}
    with unread:
        outcome, during = scored(root, tmp_path / "late", bundle, **ALL)
    assert (during, outcome.plan.complete) == (found, True)


def test_a_file_that_changed_while_it_cannot_be_read_is_scored_when_it_can(root, tmp_path, bundle, unread):
    (root / "x.dcm").write_bytes(THREE)
    _, before = scored(root, tmp_path / "run", bundle)
    (root / "x.dcm").write_bytes(dicom(np.stack([slice_pixels(32, seed) for seed in (7, 8)])))
    with unread:
        assert scored(root, tmp_path / "run", bundle)[1] == before
    outcome, after = scored(root, tmp_path / "run", bundle)
    assert outcome.plan.changes.changed == 2
    assert {name for name, row in after.items() if row["version"] != before[name]["version"]} == {"x.dcm#1", "x.dcm#2"}
    (root / "x.dcm").write_bytes(ONE)
    assert set(scored(root, tmp_path / "run", bundle)[1]) == {"x.dcm"}, "a file is one image or its frames"


def test_a_picture_that_became_pages_while_it_could_not_be_looked_into_gets_them_later(root, tmp_path, bundle, unread):
    (root / "x.tif").write_bytes(SINGLE["x.tif"])
    scored(root, tmp_path / "run", bundle)
    (root / "x.tif").write_bytes(SEVERAL["x.tif"])
    with unread:
        assert set(scored(root, tmp_path / "run", bundle)[1]) == {"x.tif"}
    for _ in range(2):
        assert set(scored(root, tmp_path / "run", bundle)[1]) == frames_named("x.tif"), "two of three pages are lost"


def test_a_list_of_a_file_and_of_one_of_its_frames_doubles_none_in_a_rerun(root, tmp_path, bundle):
    (root / "x.dcm").write_bytes(THREE)
    asked = tmp_path / "list.csv"
    asked.write_text("uri\nin/x.dcm\nin/x.dcm#2\n")
    _, first = scored(asked, tmp_path / "run", bundle)
    outcome, second = scored(asked, tmp_path / "run", bundle)
    assert (second, outcome.plan.complete) == (first, True)


def test_what_could_not_be_read_and_is_no_image_leaves_no_row(root, tmp_path, bundle, unread):
    (root / "x.dcm").write_bytes(THREE)
    (root / "notes").write_bytes(b"no image")
    with unread:
        _, found = scored(root, tmp_path / "run", bundle, any_suffix=True)
    assert set(found) == {"notes", "x.dcm"}
    outcome, found = scored(root, tmp_path / "run", bundle, any_suffix=True)
    assert (set(found), outcome.plan.changes.forgotten) == (frames_named("x.dcm"), 2)
    assert scored(root, tmp_path / "run", bundle, any_suffix=True)[0].plan.complete


def test_slices_of_a_volume_and_what_describes_frames_stay(root, tmp_path, bundle, unread):
    (root / "v.nii.gz").write_bytes(nifti(head()))
    (root / "x.dcm").write_bytes(THREE)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"image,label\nx.dcm#2,{CLASSES[0]}\nx.dcm#3,{CLASSES[1]}\n")
    given = {"label_file": read_label_file(str(labels), bundle.classes)}
    _, before = scored(root, tmp_path / "run", bundle, **given)
    assert len({name for name in before if name.startswith("v.nii.gz#z=")}) > 3
    given = {"label_file": read_label_file(str(labels), bundle.classes)}
    with unread:
        outcome, during = scored(root, tmp_path / "run", bundle, **given)
    assert during == before
    assert outcome.scored == 0


def test_frames_that_a_list_names_stay_while_their_file_cannot_be_looked_up(root, tmp_path, bundle, monkeypatch):
    (root / "x.dcm").write_bytes(THREE)
    (tmp_path / "list.csv").write_text("uri\nin/x.dcm#1\nin/x.dcm#3\n")
    _, before = scored(tmp_path / "list.csv", tmp_path / "run", bundle)
    stat = storage.stat

    def fails(uri):
        if "x.dcm" in uri:
            raise StorageError("read_failed", f"{uri}: no answer")
        return stat(uri)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "stat", fails)
        _, during = scored(tmp_path / "list.csv", tmp_path / "run", bundle)
        _, alone = scored(tmp_path / "list.csv", tmp_path / "late", bundle)
    assert during == before
    assert {(row["error"], row["version"]) for row in alone.values()} == {("read_failed", None)}
    _, late = scored(tmp_path / "list.csv", tmp_path / "late", bundle)
    assert {name: row["confidence"] for name, row in late.items()} == {
        name: row["confidence"] for name, row in before.items()
    }


def test_frames_of_an_object_that_is_no_longer_asked_stay_its_rows(decided_s3, tmp_path, bundle):
    """The first of each size in a folder is asked for all of them, and tomorrow another one may be the first."""
    decided_s3.put("in/b.dcm", THREE)
    _, before = scored(f"{decided_s3.root}/in", tmp_path / "run", bundle)
    assert set(before) == frames_named("b.dcm")
    decided_s3.put("in/a.dcm", ONE.ljust(len(THREE), b"\0"))
    _, found = scored(f"{decided_s3.root}/in", tmp_path / "run", bundle)
    assert set(found) == {"a.dcm", *before}
    assert all(found[name] == row for name, row in before.items())


def test_a_storage_that_is_gone_is_an_outage_and_changes_nothing(root, tmp_path, bundle, unread):
    for number in range(40):
        os.link(_written(tmp_path / "one", ONE), root / f"{number}.dcm")
    with unread, pytest.raises(Outage, match="of the last 32 files"):
        scored(root, tmp_path / "run", bundle)
    with unread:
        _, found = scored(root, tmp_path / "run", bundle, max_unread=1.0)
    assert {row["error"] for row in found.values()} == {"read_failed"}
    outcome, found = scored(root, tmp_path / "run", bundle)
    assert ({row["status"] for row in found.values()}, outcome.scored) == ({"ok"}, 40)


def _written(path, content: bytes):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [ONE, None], ids=["a file of that name", "a frame"])
def test_a_file_named_like_a_frame_keeps_its_row_while_it_cannot_be_looked_up(
    content, root, tmp_path, bundle, monkeypatch
):
    (root / "IM1").write_bytes(THREE)
    if content is not None:
        (root / "IM1#2").write_bytes(content)
    (tmp_path / "list.csv").write_text("uri\nin/IM1#2\n")
    outcome, before = scored(tmp_path / "list.csv", tmp_path / "run", bundle)
    assert ({row["status"] for row in before.values()}, outcome.scored) == ({"ok"}, 1)

    def fails(uri):
        raise StorageError("read_failed", f"{uri}: no answer")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "stat", fails)
        outcome, during = scored(tmp_path / "list.csv", tmp_path / "run", bundle)
        _, alone = scored(tmp_path / "list.csv", tmp_path / "late", bundle)
    assert (during, outcome.scored) == (before, 0)
    assert [(row["error"], row["version"]) for row in alone.values()] == [("read_failed", None)]
    assert alone["IM1#2"]["error_detail"].startswith(UNREAD)
    _, late = scored(tmp_path / "list.csv", tmp_path / "late", bundle)
    assert late["IM1#2"]["confidence"] == before["IM1#2"]["confidence"]


def test_rows_of_many_unread_files_stay_each_with_its_own(root, tmp_path, bundle, unread, monkeypatch):
    """They are held as Arrow and taken in pieces: here a few rows are a piece."""
    for number in range(7):
        (root / f"{number}.dcm").write_bytes(THREE if number % 3 else ONE)
    (root / "pages.tif").write_bytes(tiff(pages(3)))
    _, before = scored(root, tmp_path / "run", bundle)
    assert len(before) == 4 * 3 + 3 + 3
    monkeypatch.setattr("brainray.scoring.known_frames._ROWS_AT_ONCE", 4)
    monkeypatch.setattr("brainray.scoring.known_frames.CHUNK_ROWS", 5)
    with unread:
        outcome, during = scored(root, tmp_path / "run", bundle, max_unread=1.0)
    assert (during, outcome.scored) == (before, 0)


def test_a_file_that_promises_too_much_stays_apart_from_its_neighbours(tmp_path, bundle, monkeypatch):
    """It has one row and no frames, and stands among files that have some: they would be taken for one file."""
    root = tmp_path / "in"
    root.mkdir()
    for each in "abc":
        (root / f"{each}.dcm").write_bytes(THREE)
    _, before = scored(root, tmp_path / "run", bundle)
    (root / "b.dcm").write_bytes(dicom(np.stack([slice_pixels(32)] * 3), NumberOfFrames=900_000))
    ask = listing.frames_read

    for unread in "aac":

        def fails(found, *given, name=f"{unread}.dcm"):
            if found.uri.endswith(name):
                raise StorageError("read_failed", f"{found.uri}: no answer")
            return ask(found, *given)

        with monkeypatch.context() as patch:
            patch.setattr(listing, "frames_read", fails)
            _, found = scored(root, tmp_path / "run", bundle, max_unread=1.0)
        for each in "ac":
            for frame in frames_named(f"{each}.dcm"):
                assert found[frame]["confidence"] == before[frame]["confidence"], f"{unread} cannot be read"
        assert found["b.dcm"]["status"] == "error" and len(found) == 7
