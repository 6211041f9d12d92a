"""NIfTI files in archives: each slice has its row, and the prediction that it has in a folder."""

import numpy as np
import pytest
from support.imaging.niftis import SHAPE, head, nifti, with_header
from support.inputs.archives import write_in_folder, write_packed, zip_of
from support.models.bundles import CLASSES
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here

from brainray import storage
from brainray.config import MaxFailed
from brainray.inputs.frames.nifti.file import NiftiFile

MEMBERS = {
    "sub-1/sub-1_T1w.nii.gz": nifti(),
    "plain.nii": nifti(head()[::-1], packed=False),
    "labels.nii.gz": nifti((head() > 0).astype("u1")),
    "cut.nii.gz": nifti()[:3000],
    "colours.nii": with_header(nifti(packed=False), 70, b"\x80\0\x18\0"),
}


def scored(source, output, bundle, **options) -> dict[str, dict]:
    options = {"max_failed": MaxFailed(share=1.0), "shard_size": 50} | options
    score_here(request_for(source, output, bundle, **options), engine_of(bundle, predict=brightness))
    return {row["uri"].removeprefix(f"{source}").lstrip("#/"): row for row in rows(output)}


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory, bundle):
    folder = write_in_folder(tmp_path_factory.mktemp("in"), MEMBERS)
    return scored(folder, tmp_path_factory.mktemp("run"), bundle)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_slices_of_members_have_the_rows_that_they_have_in_a_folder(name, in_a_folder, tmp_path, bundle, monkeypatch):
    opened = []
    monkeypatch.setattr(NiftiFile, "__init__", lambda *given, made=NiftiFile.__init__: opened.append(made(*given)))
    found = scored(write_packed(tmp_path / name, MEMBERS), tmp_path / "run", bundle)
    same = ("status", "error", "confidence", "size_bytes", "scan_sequence", "scan_likely", "width", "content_hash")
    told = {name: {column: row[column] for column in same} for name, row in found.items()}
    there = {name: {column: row[column] for column in same} for name, row in in_a_folder.items()}
    whole = "colours.nii"  # one row, of which only the file in a folder is not read
    assert (told.pop(whole)["error"], there.pop(whole)["error"]) == ("unsupported", "unsupported")
    assert told == there
    assert len(told) == 4 * SHAPE[2]
    assert found["plain.nii#z=7"]["series"] is not None
    assert len({row["series"] for key, row in found.items() if key.startswith("plain")}) == 1
    assert len(opened) == 4, "each member that can be opened is so once"


def test_volumes_of_a_member_that_are_not_listed_are_counted(tmp_path, bundle):
    members = {"a.nii": nifti(packed=False), "b.nii.gz": nifti(np.stack([head(), head(), head()], axis=3))}
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(members))
    found = scored(archive, tmp_path / "run", bundle)
    assert {name for name in found if name.endswith("z=3")} == {"a.nii#z=3", "b.nii.gz#t=0,z=3"}
    assert storage.read_json(f"{tmp_path}/run/run.json")["skipped"] == {"volume of a 4-D file": 2}
    members.pop("b.nii.gz")
    archive.write_bytes(zip_of(members))
    scored(archive, tmp_path / "again", bundle)
    assert storage.read_json(f"{tmp_path}/again/run.json")["skipped"] == {}


def test_a_list_names_slices_of_members(tmp_path, bundle):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(MEMBERS))
    before = scored(archive, tmp_path / "run", bundle)
    (tmp_path / "list.csv").write_text(
        'uri\na.zip#plain.nii#z=9\n"a.zip#plain.nii#t=0,z=10"\na.zip#plain.nii#z=99\na.zip#no.nii#z=1\n'
    )
    found = scored(tmp_path / "list.csv", tmp_path / "again", bundle)
    by_name = {uri.rpartition("/")[2].partition("a.zip#")[2]: row for uri, row in found.items()}
    assert {name: row["error"] for name, row in by_name.items()} == {
        "plain.nii#z=9": None,
        "plain.nii#z=10": None,
        "plain.nii#z=99": "not_found",
        "no.nii#z=1": "not_found",
    }
    assert by_name["plain.nii#z=10"]["confidence"] == before["plain.nii#z=10"]["confidence"]


def test_a_list_names_volumes_in_an_archive_for_all_their_slices(tmp_path, bundle):
    archive, names = tmp_path / "a.zip", ("plain.nii", "cut.nii.gz", "colours.nii")
    archive.write_bytes(zip_of(MEMBERS))
    before = scored(archive, tmp_path / "run", bundle)
    (tmp_path / "list.csv").write_text("uri,label\n" + "".join(f"a.zip#{name},{CLASSES[1]}\n" for name in names))
    found = scored(tmp_path / "list.csv", tmp_path / "again", bundle)
    by_name = {uri.rpartition("/")[2].partition("a.zip#")[2]: row for uri, row in found.items()}
    of_names = {name: row for name, row in before.items() if name.startswith(names)}
    assert len(of_names) == 2 * SHAPE[2] + 1
    told = ("confidence", "error", "size_bytes")
    assert {name: [row[column] for column in told] for name, row in by_name.items()} == {
        name: [row[column] for column in told] for name, row in of_names.items()
    }
    assert {row["label"] for row in by_name.values()} == {CLASSES[1]}
