"""Series, studies and rows of a run with pseudonyms are those of a run with names, wherever the images lie."""

import pyarrow.parquet as pq
import pytest
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.images import image_bytes
from support.imaging.niftis import head, nifti
from support.imaging.paged import pages, tiff
from support.inputs.archives import tar_of, zip_of
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here

from brainray.commands.report import report
from brainray.config import MaxFailed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom
OWN = ("shard_id", "scored_at", "error_detail")  # columns that each run has for itself


def members(number: int) -> dict[str, bytes]:
    """Files of two patients: volumes, a file of frames, slices of a series, pages, and a file that is cut off."""
    small = head((12, 14, 9))
    uids = {"SeriesInstanceUID": f"1.2.3.{number}", "StudyInstanceUID": f"1.2.4.{number % 2}"}
    window = {"WindowCenter": 1000, "WindowWidth": 2000}
    slices = {
        f"jane/dicom/{place}.dcm": dicom(
            slice_pixels(seed=place), ImagePositionPatient=[0, 0, 5 * place], InstanceNumber=place, **uids, **window
        )
        for place in range(1, 4)
    }
    frames = dicom(slice_pixels(seed=4)[None].repeat(3, 0), SeriesInstanceUID=None, StudyInstanceUID=None, **window)
    return slices | {
        "jane/frames.dcm": frames,
        "jane/Flair.nii.gz": nifti(small),
        "jane/t1.nii": nifti(small[::-1], packed=False),
        "doe/two.nii.gz": nifti(head((12, 14, 9))[..., None].repeat(2, 3)),
        "doe/pages.tif": tiff(pages(3)),
        "doe/cut.nii.gz": nifti(small)[:900],
        "doe/1.jpg": image_bytes(number),
        "top.nii.gz": nifti(small[:, ::-1]),
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder with the files, and with an archive of each kind that holds them."""
    root = tmp_path_factory.mktemp("in")
    for name, content in members(1).items():
        path = root / "ward" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "a.zip").write_bytes(zip_of(members(2)))
    (root / "b.tar").write_bytes(tar_of(members(3)))
    (root / "c.tar.gz").write_bytes(tar_of(members(4), mode="w:gz"))
    return root


@pytest.fixture(scope="module")
def runs(tree, tmp_path_factory, bundle):
    """A run with names and one with pseudonyms of the same tree, and the name behind each pseudonym."""
    home = tmp_path_factory.mktemp("runs")
    options = {"max_failed": MaxFailed(share=1.0), "shard_size": 100, "series_by": "folder"}
    for output, more in (("plain", {}), ("hidden", {"pseudonymise_uris": str(home / "names")})):
        request = request_for(tree, home / output, bundle, **options, **more)
        score_here(request, engine_of(bundle, predict=brightness))
    table = pq.read_table(home / "names" / "names")
    return home, dict(zip(table["pseudonym"].to_pylist(), table["real"].to_pylist(), strict=True))


def told(run, real):
    """Rows, series and studies of a run by real names; the first image of a series or study stands for its name."""
    found = sorted((row | {"uri": real.get(row["uri"], row["uri"])} for row in rows(run)), key=lambda row: row["uri"])
    first = {None: "none"}
    for row in found:
        for name in (row["series"], row["study"]):
            first.setdefault(name, row["uri"])
    told = {"rows": found}
    for name in ("series", "studies.parquet"):
        told[name] = pq.read_table(run / name).to_pylist()
    return {name: sorted(str(shown(row, real, first)) for row in table) for name, table in told.items()}


def shown(row, real, first):
    row = {name: value for name, value in row.items() if name not in OWN}
    if "uri" in row:
        row["uri"] = real.get(row["uri"], row["uri"])
    # A folder that is a series has a name that no row has; `series` of a study is how many it has.
    names = ("series", "study") if "uri" in row else ("study",)
    return row | {name: first.get(row[name], f"a folder with {row.get('uri')}") for name in names}


def test_rows_series_and_studies_are_those_of_a_run_with_names(runs):
    home, real = runs
    plain, hidden = told(home / "plain", {}), told(home / "hidden", real)
    assert len(plain["rows"]) > 150 and len(plain["series"]) > 25 and len(plain["studies.parquet"]) == 2
    for name, table in plain.items():
        assert hidden[name] == table


def test_a_pseudonym_of_a_volume_labels_its_slices(runs, tmp_path):
    home, real = runs
    for output in ("plain", "hidden"):
        by_name = {real.get(row["uri"], row["uri"]): row["uri"] for row in rows(home / output)}
        volumes = {uri.rpartition("#")[0] for name, uri in by_name.items() if "/t1.nii#" in name or "Flair" in name}
        assert len(volumes) == 8
        (tmp_path / "labels.csv").write_text("uri,label\n" + "".join(f"{volume},glioma\n" for volume in volumes))
        names = str(home / "names") if output == "hidden" else None
        report(str(home / output), say=lambda _: None, labels=str(tmp_path / "labels.csv"), real_uris=names)
        assert sum(row["label"] == "glioma" for row in rows(home / output)) == 8 * 9
