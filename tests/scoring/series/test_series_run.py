"""DICOM series through a run: their names, order, roll-up and labels."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.images import image_bytes
from support.scoring.laid_out import laid_out
from support.scoring.runs import engine_of, request_for, rows, score_here

from brainray import storage
from brainray.cli.app import run as command
from brainray.commands.report import report
from brainray.config import MaxFailed, PageOptions
from brainray.errors import BadRequest
from brainray.inputs.labels.answer_file import read_label_file

WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000}
SERIES, STUDY = "1.2.840.1.{}", "1.2.840.2.{}"


def slice_of(series: int, number: int, study: int = 1, **attributes) -> bytes:
    """A slice `number` times 5 mm up its series."""
    known = {
        "SeriesInstanceUID": SERIES.format(series),
        "StudyInstanceUID": STUDY.format(study),
        "InstanceNumber": number,
        "ImagePositionPatient": [3, 4, 5 * number],
        "WindowCenter": 1000,
        "WindowWidth": 2000,
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
    """A series of twelve slices in two folders, one of three, one that is left out, and a picture without a header."""
    (root / "more").mkdir(parents=True)
    for number in range(1, 13):
        folder = root / "more" if number > 6 else root
        (folder / f"{40 - number}.dcm").write_bytes(slice_of(1, number))
    for number in (1, 2, 4):
        (root / f"b{number}.dcm").write_bytes(slice_of(2, number, study=2))
    scout = slice_of(3, 1, study=2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (root / "scout.dcm").write_bytes(scout)
    return root


def scored(root, output, bundle, **options) -> str:
    def none_found(images):
        return np.tile(np.float32([0.02, 0.02, 0.94, 0.02][: len(bundle.classes)]), (len(images), 1))

    request = request_for(root, output, bundle, max_failed=MaxFailed(share=1.0), **options)
    score_here(request, engine_of(bundle, predict=none_found))
    return str(output)


def table(run):
    return {row["series"]: row for row in pq.read_table(f"{run}/series").to_pylist()}


def reported(run, **options) -> list[str]:
    """Report on a run; gives what was said."""
    told: list[str] = []
    report(run, page=PageOptions(report=False), say=told.append, **options)
    return told


def figures(run):
    return json.loads(storage.read_bytes(f"{run}/summary/summary.json"))["series"]


def by_size(run):
    return sorted(table(run).values(), key=lambda row: -row["slices"])


def test_slices_find_their_series_wherever_they_lie(run):
    long, short, scout = by_size(run)
    assert [each["slices"] for each in (long, short, scout)] == [12, 3, 1]
    assert (long["predicted"], long["reason"]) == ("notumor", "no_finding")
    assert (short["predicted"], short["reason"], short["gaps"]) == (None, "too_few", 1)
    assert (scout["predicted"], scout["reason"], scout["excluded"]) == (None, "none_eligible", 1)
    said = figures(run)
    assert (said["series"], said["decided"]) == (3, 1)
    assert said["reasons"] == {"no_finding": 1, "too_few": 1, "none_eligible": 1}
    assert said["studies"]["studies"] == 2


def test_heads_of_two_studies_under_one_uid_are_not_averaged(run, archive, bundle):
    for number in range(12):
        (archive / f"other{number}.dcm").write_bytes(slice_of(1, number, study=7))
    mixed = by_size(scored(archive, run, bundle))[0]
    assert (mixed["slices"], mixed["study"]) == (24, None)
    assert (mixed["predicted"], mixed["reason"], mixed["review"]) == (None, "several_studies", True)
    assert figures(run)["studies"]["decided"] == 0


def test_neither_rows_nor_anything_else_of_a_run_holds_a_uid(run):
    assert all(row["series"] and row["study"] for row in rows(run))
    for found in storage.list_files(run):
        content = storage.read_bytes(found.uri)
        if found.uri.endswith(".parquet"):
            content = str(pq.read_table(found.uri).to_pylist()).encode()
        assert b"1.2.840" not in content, found.uri


def test_the_names_are_those_of_this_run_alone_and_stay_as_it_grows(run, archive, tmp_path, bundle):
    before = {row["uri"]: row["series"] for row in rows(run)}
    (archive / "b5.dcm").write_bytes(slice_of(2, 5, study=2))
    scored(archive, run, bundle)
    after = {row["uri"]: row["series"] for row in rows(run)}
    assert after.items() >= before.items()
    assert after[f"{archive}/b5.dcm"] == after[f"{archive}/b4.dcm"]
    other = scored(archive, tmp_path / "other", bundle)
    assert not {row["series"] for row in rows(other)} & {*after.values()}


def test_a_lost_key_is_said_before_series_get_second_names(run, archive, bundle):
    (archive / "b5.dcm").write_bytes(slice_of(2, 5, study=2))
    storage.delete(f"{run}/.series_key")
    with pytest.raises(BadRequest, match=r"\.series_key is gone"):
        scored(archive, run, bundle)


def test_series_keep_their_names_in_a_new_generation(run, archive, bundle):
    before = table(run).keys()
    scored(archive, run, bundle, rescore=True)
    assert table(run).keys() == before


def test_a_report_builds_the_same_bytes_again(run):
    first = storage.read_bytes(f"{run}/series/series-00000.parquet"), storage.read_bytes(f"{run}/studies.parquet")
    storage.write_bytes(f"{run}/series/series-00001.parquet", b"of a run that was larger")
    reported(run)
    assert storage.list_names(f"{run}/series") == ["series-00000.parquet"]
    again = storage.read_bytes(f"{run}/series/series-00000.parquet"), storage.read_bytes(f"{run}/studies.parquet")
    assert again == first


def test_series_are_labelled_by_name_or_uid_and_their_accuracy_is_told(run, tmp_path):
    long, short, _ = by_size(run)
    (tmp_path / "labels.csv").write_text(
        f"SeriesInstanceUID,label\n{SERIES.format(1)},no tumor\n{short['series']},glioma\n1.2.3.4,glioma\n"
    )
    told = reported(run, labels=str(tmp_path / "labels.csv"))
    assert told == ["--labels: 2 of 3 series have a label that was given, 1 other(s) name none of the run"]
    assert [each["label"] for each in by_size(run)] == ["notumor", "glioma", None]
    said = figures(run)
    assert (said["measured"], said["undecided"], said["accuracy"]["value"]) == (1, 1, 1.0)
    (tmp_path / "labels.csv").write_text(f"series,label\n{long['series']},\n")
    reported(run, labels=str(tmp_path / "labels.csv"))
    assert [each["label"] for each in by_size(run)] == [None, "glioma", None]


def test_the_page_and_the_terminal_tell_of_series(run, capsys):
    assert command(["report", run, "--no-thumbnails"]) == 0
    assert "3 series: 1 notumor; of 2 nothing can be said (1 too few, 1 none eligible)" in capsys.readouterr().out
    assert '<section id="series"' in storage.read_bytes(f"{run}/summary/report.html").decode()


def test_pictures_without_a_header_are_rolled_up_by_folder(tmp_path, bundle):
    for patient in ("p1", "p2"):
        (tmp_path / "plain" / patient).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "plain" / patient / f"{number}.png").write_bytes(image_bytes(size=(40, 40)))
    run = scored(tmp_path / "plain", tmp_path / "run", bundle)
    assert figures(run) is None
    scored(tmp_path / "plain", run, bundle, series_by="folder")
    assert [name.rpartition("/")[2] for name in sorted(table(run))] == ["p1", "p2"]
    scored(tmp_path / "plain", run, bundle)
    assert figures(run)["series"] == 2, "a later run keeps what it was told"


def test_slices_of_one_place_count_once(tmp_path, bundle):
    root = tmp_path / "in"
    root.mkdir()
    for number in range(24):
        (root / f"{number}.dcm").write_bytes(slice_of(1, number, ImagePositionPatient=[0, 0, number // 3]))
    (only,) = by_size(scored(root, tmp_path / "run", bundle))
    assert (only["slices"], only["doubled"], only["predicted"], only["reason"]) == (24, 16, None, "too_few")


def test_where_slices_failed_nothing_found_means_nothing(tmp_path, bundle):
    root = tmp_path / "in"
    root.mkdir()
    for number in range(14):
        content = slice_of(1, number)
        (root / f"{number}.dcm").write_bytes(content[:-9] if number > 10 else content)
    (only,) = by_size(scored(root, tmp_path / "run", bundle))
    assert (only["scored"], only["failed"], only["predicted"], only["reason"]) == (11, 3, None, "too_many_failed")


def test_frames_of_a_file_that_names_no_series_are_one(tmp_path, bundle):
    root = tmp_path / "in"
    root.mkdir()
    frames = np.stack([slice_pixels(seed=k) for k in range(3)])
    for name in ("a", "b"):
        (root / f"{name}.dcm").write_bytes(dicom(frames, SeriesInstanceUID=None, **WINDOW))
    assert [each["slices"] for each in by_size(scored(root, tmp_path / "run", bundle))] == [3, 3]


def test_score_says_where_labels_of_series_go(tmp_path):
    (tmp_path / "labels.csv").write_text("SeriesInstanceUID,label\n1.2.3,glioma\n")
    with pytest.raises(BadRequest, match="names series and no images; once the run is scored"):
        read_label_file(str(tmp_path / "labels.csv"), ("glioma",))


def test_label_files_that_name_series_are_parquet_too(run, tmp_path):
    pq.write_table(pa.table({"series": [SERIES.format(1)], "label": ["glioma"]}), tmp_path / "labels.parquet")
    reported(run, labels=str(tmp_path / "labels.parquet"))
    assert figures(run)["accuracy"]["value"] == 0.0
