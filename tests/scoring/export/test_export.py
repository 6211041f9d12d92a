"""Series of a run as structured reports and as OMOP tables."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.uid import RLELossless
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.images import image_bytes
from support.scoring.laid_out import laid_out
from support.scoring.runs import engine_of, request_for, score_here

import brainray
from brainray import storage
from brainray.cli.app import run as command
from brainray.commands.export import export
from brainray.config import MaxFailed, PageOptions
from brainray.errors import BadRequest
from brainray.scoring.prediction_schema import LATER
from brainray.scoring.summary.build import build_summary

STUDY, SERIES = "1.2.840.2.1", "1.2.840.1.{}"


def slice_of(series: int, number: int, **attributes) -> bytes:
    known = {
        "SeriesInstanceUID": SERIES.format(series),
        "StudyInstanceUID": STUDY,
        "SOPInstanceUID": f"1.2.840.3.{series}.{number}",
        "PatientID": "patient 7",
        "ImagePositionPatient": [0, 0, 5 * number],
    }
    return dicom(slice_pixels(seed=7), **known | attributes)


@pytest.fixture
def kept(home, bundle):
    return laid_out(home, lambda now: scored(drawn(now / "in"), now / "run", bundle))


@pytest.fixture
def archive(kept):
    return kept / "in"


@pytest.fixture
def run(kept):
    return str(kept / "run")


def drawn(root):
    """A series with a finding, one of compressed frames, and one of two slices, of which nothing can be said."""
    root.mkdir()
    for number in range(4):
        (root / f"a{number}.dcm").write_bytes(slice_of(1, number))
    frames = np.stack([slice_pixels(seed=k) for k in range(3)])
    known = {"SeriesInstanceUID": SERIES.format(2), "StudyInstanceUID": STUDY, "SOPInstanceUID": "1.2.840.3.2"}
    (root / "b.dcm").write_bytes(dicom(frames, RLELossless, **known))
    for number in range(2):
        (root / f"c{number}.dcm").write_bytes(slice_of(3, number))
    return root


def scored(root, output, bundle, **options):
    def glioma(images):
        return np.tile(np.float32([0.97, 0.01, 0.01, 0.01][: len(bundle.classes)]), (len(images), 1))

    request = request_for(root, output, bundle, max_failed=MaxFailed(share=1.0), **options)
    score_here(request, engine_of(bundle, predict=glioma))


def reports(folder) -> dict[str, bytes]:
    return {name: storage.read_bytes(f"{folder}/{name}") for name in storage.list_names(str(folder))}


def test_a_report_says_what_by_which_model_and_of_which_images(run, tmp_path, bundle):
    done = export(run, to="sr", output=tmp_path / "sr")
    assert done.counts == {"written": 2, "nothing can be said of it": 1}
    (content,) = (each for each in reports(tmp_path / "sr").values() if b"patient 7" in each)
    first = pydicom.dcmread(io.BytesIO(content))
    assert (first.Modality, first.StudyInstanceUID, first.PatientID) == ("SR", STUDY, "patient 7")
    (evidence,) = first.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES.format(1)
    assert [str(each.ReferencedSOPInstanceUID) for each in series.ReferencedSOPSequence] == [
        f"1.2.840.3.1.{number}" for number in range(4)
    ]
    for said in (bundle.fingerprint, "glioma", "Artificial Intelligence"):
        assert said.encode() in content


def test_reports_are_the_same_again_and_are_not_written_twice(run, tmp_path):
    export(run, to="sr", output=tmp_path / "sr")
    first = reports(tmp_path / "sr")
    assert export(run, to="sr", output=tmp_path / "sr").counts["there already"] == 2
    export(run, to="sr", output=tmp_path / "again")
    assert reports(tmp_path / "again") == first == reports(tmp_path / "sr")


def test_a_slice_that_has_changed_leaves_its_series_without_a_report(run, archive, tmp_path):
    (archive / "a2.dcm").write_bytes(slice_of(1, 2, WindowCenter=3, WindowWidth=9))
    (archive / "b.dcm").unlink()
    counts = export(run, to="sr", output=tmp_path / "sr").counts
    assert counts == {
        "a slice has changed since it was scored": 1,
        "a slice cannot be read (not_found)": 1,
        "nothing can be said of it": 1,
    }
    assert reports(tmp_path / "sr") == {}


def test_a_report_of_another_generation_replaces_that_of_the_one_before(run, archive, tmp_path, bundle):
    export(run, to="sr", output=tmp_path / "sr")
    before = reports(tmp_path / "sr").keys()
    (archive / "a9.dcm").write_bytes(slice_of(1, 9))
    scored(archive, run, bundle)
    assert export(run, to="sr", output=tmp_path / "sr").counts["written"] == 1
    after = reports(tmp_path / "sr").keys()
    assert len(after) == 2
    assert len(after & before) == 1


def test_a_report_follows_its_patient_when_headers_are_corrected(run, archive, tmp_path, bundle):
    export(run, to="sr", output=tmp_path / "sr")
    for number in range(4):
        (archive / f"a{number}.dcm").write_bytes(slice_of(1, number, PatientID="patient 8"))
    scored(archive, run, bundle)
    export(run, to="sr", output=tmp_path / "sr")
    patients = [pydicom.dcmread(io.BytesIO(content)).PatientID for content in reports(tmp_path / "sr").values()]
    assert sorted(patients) == ["", "patient 8"]  # the pictures, and all that is said of them, are the same


def test_slices_of_two_patients_under_one_uid_get_no_report_of_either(run, archive, tmp_path, bundle):
    (archive / "a3.dcm").write_bytes(slice_of(1, 3, PatientID="patient 8"))
    scored(archive, run, bundle)
    counts = export(run, to="sr", output=tmp_path / "sr").counts
    assert counts["its slices are of several patients"] == 1
    assert not [content for content in reports(tmp_path / "sr").values() if b"patient" in content]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "script"), [("Single", "ISO_IR 100"), ("Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"])]
)
def test_names_of_any_script_are_in_the_report_and_in_no_warning(run, archive, tmp_path, bundle, name, script):
    for number in range(4):
        content = slice_of(1, number, SpecificCharacterSet=script, PatientName=name, ReferringPhysicianName=name)
        (archive / f"a{number}.dcm").write_bytes(content)
    scored(archive, run, bundle)
    export(run, to="sr", output=tmp_path / "sr")
    headers = (pydicom.dcmread(io.BytesIO(content)) for content in reports(tmp_path / "sr").values())
    assert name in [str(header.PatientName) for header in headers]


def test_tables_for_omop_hold_each_series_its_class_and_its_probabilities(run, tmp_path, bundle):
    done = export(run, to="omop", output=tmp_path / "omop")
    classes = len(bundle.classes)
    assert done.counts == {
        "image_occurrence": 3,
        "image_feature": 2 + 3 * classes,
        "observation": 2,
        "measurement": 3 * classes,
    }
    tables = {name: pq.read_table(tmp_path / "omop" / name).to_pylist() for name in done.counts}
    occurrences = {row["image_occurrence_id"] for row in tables["image_occurrence"]}
    assert len(occurrences) == 3
    events = {row["observation_id"] for row in tables["observation"]}
    events |= {row["measurement_id"] for row in tables["measurement"]}
    for row in tables["image_feature"]:
        assert row["image_occurrence_id"] in occurrences
        assert row["image_feature_event_id"] in events
        assert bundle.fingerprint in row["alg_system"]
    assert {row["value_as_string"] for row in tables["observation"]} == {"glioma"}
    first = {name: reports(tmp_path / "omop" / name) for name in tables}
    export(run, to="omop", output=tmp_path / "omop")
    assert {name: reports(tmp_path / "omop" / name) for name in tables} == first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "pdf"}, "--to is 'pdf'; it must be one of sr, omop"),
        ({"output": "{run}/export"}, "lies in the run, which holds nothing about a person"),
        ({"output": "{link}/export"}, "lies in the run, which holds nothing about a person"),
    ],
)
def test_a_wrong_request_is_said(run, tmp_path, options, said):
    (tmp_path / "link").symlink_to(run)
    known = {"to": "sr", "output": str(tmp_path / "out")} | options
    with pytest.raises(BadRequest, match=said):
        export(run, to=known["to"], output=known["output"].format(run=run, link=tmp_path / "link"))


def test_the_command_says_what_it_wrote(run, tmp_path, capsys):
    assert command(["export", run, "--to", "omop", "--output", str(tmp_path / "omop")]) == 0
    assert "3 rows of image_occurrence" in capsys.readouterr().out


def test_reports_that_no_longer_hold_are_withdrawn_and_those_of_others_stay(run, archive, tmp_path, bundle):
    export(run, to="sr", output=tmp_path / "sr")
    others = {"7-notours-0123456789ab.dcm": b"of another run", "scan.dcm": b"of a person"}
    for name, content in others.items():
        (tmp_path / "sr" / name).write_bytes(content)
    for number in range(2):
        (archive / f"a{number}.dcm").unlink()
    (archive / "b.dcm").unlink()
    score_here(
        request_for(archive, run, bundle, max_failed=MaxFailed(share=1.0), forget_missing=True), engine_of(bundle)
    )
    assert export(run, to="sr", output=tmp_path / "sr").counts == {"nothing can be said of it": 2, "withdrawn": 2}
    assert reports(tmp_path / "sr") == others


def test_pictures_that_are_no_dicom_are_said_to_be_none(tmp_path, bundle):
    root = tmp_path / "plain"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.png").write_bytes(image_bytes(size=(40, 40 + number)))
    scored(root, tmp_path / "run", bundle, series_by="folder")
    assert export(tmp_path / "run", to="sr", output=tmp_path / "sr").counts == {"it is no DICOM": 1}


def test_runs_of_an_earlier_version_are_told_how_their_series_become_reports(run, tmp_path, no_plot):
    storage.write_json(f"{run}/run.json", storage.read_json(f"{run}/run.json") | {"later_columns": ["seen"]})
    for name in storage.list_names(f"{run}/predictions"):
        part = f"{run}/predictions/{name}"
        table = pq.read_table(part)
        pq.write_table(
            table.drop_columns([name for name in LATER if name in table.column_names and name != "seen"]), part
        )
    build_summary(run, page=PageOptions(report=False))
    with pytest.raises(BadRequest, match="has no series: an earlier version scored it; see --rescore"):
        export(run, to="sr", output=tmp_path / "sr")
    storage.write_json(f"{run}/run.json", storage.read_json(f"{run}/run.json") | {"series_by": "folder"})
    build_summary(run, page=PageOptions(report=False))
    counts = export(run, to="sr", output=tmp_path / "sr").counts
    assert set(counts) <= {"an earlier version scored it; see --rescore of `score`", "nothing can be said of it"}
    assert counts["an earlier version scored it; see --rescore of `score`"]


def test_the_example_of_the_readme_writes_the_tables_and_counts_them(run, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).resolve().parents[3] / "brainray/scoring/series/README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(run)
    names: dict[str, object] = {}
    exec(example, names)
    done = names["done"]
    assert isinstance(done, brainray.ExportResult)
    assert (done.run, done.output) == (str(tmp_path / "run"), str(tmp_path / "tables"))
    assert capsys.readouterr().out == f"{done.counts}\n"
    assert done.counts["image_occurrence"] == len(pq.read_table(tmp_path / "tables/image_occurrence")) == 3


@pytest.mark.parametrize(
    "path", ["observation/part-0.parquet", "observation/observation-00000.parquet", "person/p.csv"]
)
def test_tables_are_not_written_among_those_of_others(run, tmp_path, capsys, path):
    foreign = tmp_path / "cdm" / path
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"a table of the hospital")
    assert command(["export", run, "--to", "omop", "--output", str(tmp_path / "cdm")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"holds {path}, which no export of this run wrote; give a new folder" in line
    assert [each for each in (tmp_path / "cdm").rglob("*") if each.is_file()] == [foreign]
    assert foreign.read_bytes() == b"a table of the hospital"


def test_tables_of_another_run_are_not_replaced(run, archive, tmp_path, bundle):
    scored(archive, tmp_path / "other", bundle)
    export(run, to="omop", output=tmp_path / "omop")
    before = {path: path.read_bytes() for path in (tmp_path / "omop").rglob("*.parquet")}
    with pytest.raises(BadRequest, match="which no export of this run wrote"):
        export(tmp_path / "other", to="omop", output=tmp_path / "omop")
    assert {path: path.read_bytes() for path in (tmp_path / "omop").rglob("*.parquet")} == before


def test_an_export_deletes_what_its_run_no_longer_has_and_shares_its_folder_with_its_reports(run, tmp_path):
    export(run, to="sr", output=tmp_path / "out")
    export(run, to="omop", output=tmp_path / "out")
    before = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (table,) = (tmp_path / "out/observation").iterdir()
    table.with_name(table.name.replace("00000", "00001")).write_bytes(b"of a generation with more rows")
    (table.parent / f".{table.name}.0.tmp").write_bytes(b"left by a crash")
    export(run, to="omop", output=tmp_path / "out")
    assert {path for path in (tmp_path / "out").rglob("[!.]*") if path.is_file()} == before
