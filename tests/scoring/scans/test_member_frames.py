"""DICOM files with several frames in archives: each frame has its row and its own prediction."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from pydicom.uid import RLELossless
from support.imaging.dicoms import dicom, slice_pixels
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here

from brainray import storage
from brainray.config import MaxFailed

WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000}
ROOMY = {"max_failed": MaxFailed(share=1.0)}
SLICE = dicom(slice_pixels(seed=9), **WINDOW)


def several(*seeds: int, **attributes) -> bytes:
    return dicom(np.stack([slice_pixels(seed=seed) for seed in seeds]), **WINDOW | attributes)


MEMBERS = {
    "glioma/a.dcm": several(3, 4, 5),
    "glioma/slice.dcm": SLICE,
    "notumor/b.dcm": dicom(np.stack([slice_pixels(seed=seed) for seed in (6, 7)]), RLELossless, **WINDOW),
}
FRAMES = {"glioma/a.dcm": (3, 4, 5), "notumor/b.dcm": (6, 7)}


def packed(path, members: dict[str, bytes]):
    if path.suffix == ".zip":
        kind = zipfile.ZIP_STORED if "stored" in path.name else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def scored(source, output, bundle, **options) -> dict[str, dict]:
    score_here(request_for(source, output, bundle, **ROOMY | options), engine_of(bundle, predict=brightness))
    return {row["uri"].removeprefix(f"{source}#"): row for row in rows(output)}


def confidences_of(seeds, tmp_path, bundle) -> dict[int, float]:
    """Those of slices that are files of their own, by their seeds."""
    alone = tmp_path / "alone"
    alone.mkdir()
    for seed in seeds:
        (alone / f"{seed}.dcm").write_bytes(dicom(slice_pixels(seed=seed), **WINDOW))
    found = scored(alone, tmp_path / "run of slices", bundle)
    return {seed: found[f"{alone}/{seed}.dcm"]["confidence"] for seed in seeds}


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip", "stored.zip"])
def test_each_frame_of_a_member_has_its_row(name, tmp_path, bundle):
    found = scored(packed(tmp_path / name, MEMBERS), tmp_path / "run", bundle)
    frames = {f"{member}#frame={k}": seed for member, seeds in FRAMES.items() for k, seed in enumerate(seeds, 1)}
    assert set(found) == {"glioma/slice.dcm", *frames}
    assert {row["status"] for row in found.values()} == {"ok"}
    assert {key: row["label"] for key, row in found.items()} == {key: key.split("/")[0] for key in found}
    if name == "a.tar":
        said = {key: found[key]["confidence"] for key in frames}
        alone = confidences_of(frames.values(), tmp_path, bundle)
        assert said == {key: alone[seed] for key, seed in frames.items()}
    sizes = [row["size_bytes"] for key, row in found.items() if key.startswith("glioma/a.dcm")]
    assert len(MEMBERS["glioma/a.dcm"]) <= sum(sizes) <= len(MEMBERS["glioma/a.dcm"]) + 2


def test_a_member_that_occurs_again_is_no_frame(tmp_path, bundle):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as made:
        for content in (SLICE, several(1, 2), SLICE):
            entry = tarfile.TarInfo("a.dcm")
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    found = scored(archive, tmp_path / "run", bundle)
    assert set(found) == {"a.dcm", "a.dcm#2#frame=1", "a.dcm#2#frame=2", "a.dcm#3"}
    assert {row["status"] for row in found.values()} == {"ok"}


def test_members_without_suffix_and_those_cut_short_keep_their_rows(tmp_path, bundle):
    archive = packed(tmp_path / "a.zip", {"IM1": several(1, 2), "IM2": SLICE, "IM3": several(3, 4)[:-5000]})
    found = scored(archive, tmp_path / "run", bundle)
    assert {key: row["error"] for key, row in found.items()} == {
        "IM1#frame=1": None,
        "IM1#frame=2": None,
        "IM2": None,
        "IM3#frame=1": None,
        "IM3#frame=2": "truncated",
    }


def test_rows_of_a_run_name_frames_of_members(tmp_path, bundle):
    archive = packed(tmp_path / "a.zip", MEMBERS)
    before = scored(archive, tmp_path / "run", bundle)
    names = ["a.zip#glioma/a.dcm#frame=2", "a.zip#glioma/a.dcm#frame=9", "a.zip#glioma/slice.dcm"]
    (tmp_path / "list.csv").write_text("\n".join(["uri", *names, ""]))
    found = scored(tmp_path / "list.csv", tmp_path / "again", bundle)
    by_name = {uri.rpartition("/")[2]: row for uri, row in found.items()}
    assert by_name["a.dcm#frame=2"]["confidence"] == before["glioma/a.dcm#frame=2"]["confidence"]
    assert by_name["a.dcm#frame=9"]["error"] == "not_found"


def test_a_member_is_unpacked_once_for_all_its_frames(tmp_path, bundle, monkeypatch):
    archive = packed(tmp_path / "a.zip", {"a.dcm": several(*range(1, 8))})
    monkeypatch.setattr("brainray.inputs.ranges.RANGE_BYTES", 20_000)  # two frames a read
    read, real = [], storage.read_range
    monkeypatch.setattr(
        storage, "read_range", lambda uri, start, length, **at: read.append(uri) or real(uri, start, length, **at)
    )
    found = scored(archive, tmp_path / "run", bundle, shard_size=100)
    assert [row["status"] for row in found.values()] == ["ok"] * 7
    assert len(read) == 1


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_frames_that_do_not_follow_one_another_are_those_of_their_numbers(name, tmp_path, bundle):
    archive = packed(tmp_path / name, {"a.dcm": several(*range(1, 13))})
    before = scored(archive, tmp_path / "run", bundle)
    wanted = [f"a.dcm#frame={number}" for number in (2, 5, 10, 11, 12, 1)]
    (tmp_path / "list.csv").write_text("\n".join(["uri", *(f"{name}#{frame}" for frame in wanted), ""]))
    score_here(request_for(tmp_path / "list.csv", tmp_path / "some", bundle), engine_of(bundle, predict=brightness))
    found = {row["uri"].removeprefix(f"{archive}#"): row["confidence"] for row in rows(tmp_path / "some")}
    assert found == {frame: before[frame]["confidence"] for frame in wanted}
    assert len(set(found.values())) == len(wanted)
