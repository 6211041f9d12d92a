"""Lists of images as input: CSV or Parquet with a row an image."""

import datetime
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.encoded import packed
from support.imaging.images import image_bytes
from support.imaging.niftis import nifti
from support.imaging.paged import pages
from support.inputs.archives import tar_of, zip_of
from support.scoring.runs import brightness, contents, engine_of, request_for, rows, score_here
from support.storage.s3_servers import decided_s3, s3_endpoints

from brainray import storage
from brainray.errors import BadRequest
from brainray.inputs.lists.file_lists import open_file_list
from brainray.scoring.run_folder import verify_run
from brainray.storage.s3.backend import S3Objects

__all__ = ["decided_s3", "s3_endpoints"]  # fixtures


pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture
def run(bundle, tmp_path):
    def start(root, *, output=str(tmp_path / "run"), **options):
        return score_here(request_for(root, output, bundle, **options), engine_of(bundle, predict=brightness))

    start.uri = str(tmp_path / "run")
    return start


@pytest.fixture
def folder(tmp_path):
    """Images here and there, none of which a listing of the list's folder would find alone."""
    for number, name in enumerate(("in/a.jpg", "in/deep/glioma/b.jpg", "elsewhere/c", "in/not-listed.jpg")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number))
    return tmp_path


def write(path, text):
    path.write_text(text)
    return path


def test_what_a_list_names_is_scored_and_nothing_else(run, folder):
    listed = write(
        folder / "in" / "list.csv",
        f"uri\na.jpg\ndeep/glioma/b.jpg\nfile://{folder}/in/gone.jpg\n{folder}/elsewhere\n",
    )
    run(listed)
    found = {uri.removeprefix(f"{folder}/"): row for uri, row in contents(run.uri).items()}
    assert {name: row["error"] for name, row in found.items()} == {
        "in/a.jpg": None,
        "in/deep/glioma/b.jpg": None,
        "elsewhere/c": None,
        "in/gone.jpg": "not_found",
    }
    assert found["in/deep/glioma/b.jpg"]["label"] == "glioma"
    assert found["in/a.jpg"]["size_bytes"] == os.path.getsize(folder / "in" / "a.jpg")
    assert run(listed).scored == 0
    (folder / "in" / "a.jpg").write_bytes(image_bytes(99))
    assert run(listed).scored == 1, "an image that has changed is scored again"


def test_columns_are_kept_in_their_types_and_may_change_without_scoring(run, folder):
    def listed(age):
        table = {
            "path": ["in/a.jpg", "in/deep/glioma/b.jpg"],
            "age": pa.array([age, None], pa.int16()),
            "patient": ["007", 'a "quoted", \nname'],
            "weight": [61.25, 1e-7],
            "smoker": [True, None],
            "born": [datetime.date(1950, 2, 28), None],
            "scanned": [datetime.datetime(2026, 1, 2, 3, 4, 5), None],
        }
        pq.write_table(pa.table(table), folder / "list.parquet")
        return folder / "list.parquet"

    keep = ("age", "patient", "weight", "smoker", "born", "scanned")
    run((listed(71), folder / "elsewhere"), keep_columns=keep)
    first, second = (contents(run.uri)[f"{folder}/in/{name}"] for name in ("a.jpg", "deep/glioma/b.jpg"))
    assert [first[name] for name in keep[:5]] == [71, "007", 61.25, True, datetime.date(1950, 2, 28)]
    assert first["scanned"].startswith("2026-01-02 03:04:05")
    assert [second[name] for name in keep[:3]] == [None, 'a "quoted", \nname', 1e-7]
    schemas = {
        pq.read_schema(f"{run.uri}/predictions/{name}").remove_metadata()
        for name in os.listdir(f"{run.uri}/predictions")
    }
    assert len(schemas) == 1
    assert run((listed(72), folder / "elsewhere"), keep_columns=keep).scored == 0
    assert contents(run.uri)[f"{folder}/in/a.jpg"]["age"] == 72
    with pytest.raises(BadRequest, match="holds a run whose --keep-columns are age"):
        run((listed(72), folder / "elsewhere"))


def test_text_of_a_csv_stays_as_it_is_written(run, folder):
    run(write(folder / "list.csv", "uri,patient\nin/a.jpg,007\nelsewhere/c,\n"), keep_columns=("patient",))
    assert sorted(row["patient"] or "" for row in rows(run.uri)) == ["", "007"]


def test_a_list_may_bring_labels(run, folder):
    listed = write(
        folder / "list.csv", "uri,label\nin/a.jpg,glioma_tumor\nin/deep/glioma/b.jpg,no tumor\nelsewhere/c,\n"
    )
    run(listed)
    found = {uri.rpartition("/")[2]: row["label"] for uri, row in contents(run.uri).items()}
    assert found == {"a.jpg": "glioma", "b.jpg": "notumor", "c": None}
    with pytest.raises(BadRequest, match=r"label 'goblin' is no class of the model"):
        run(write(folder / "list.csv", "uri,label\nin/a.jpg,goblin\n"))


def test_members_of_containers_may_be_listed(run, folder):
    (folder / "all.tar").write_bytes(tar_of({f"x/{i}.jpg": image_bytes(i) for i in range(9)}))
    listed = write(
        folder / "list.csv", "uri\nall.tar#x/7.jpg\nall.tar#x/2.jpg\nall.tar#none.jpg\nnone.tar#1.jpg\nall.tar\n"
    )
    run(listed)
    found = {uri.removeprefix(f"{folder}/"): row["error"] for uri, row in contents(run.uri).items()}
    assert found == {
        "all.tar#x/7.jpg": None,
        "all.tar#x/2.jpg": None,
        "all.tar#none.jpg": "not_found",
        "none.tar#1.jpg": "not_found",
        "all.tar": "unsupported",
    }
    assert verify_run(run.uri).rows == 5


def test_predictions_of_an_earlier_run_are_a_list(run, folder, tmp_path):
    run(folder / "in")
    pq.write_table(pq.read_table(f"{run.uri}/predictions").select(["uri", "confidence"]), folder / "again.parquet")
    outcome = run(folder / "again.parquet", output=str(tmp_path / "again"))
    assert outcome.scored == 3


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("uri\nin/a.jpg\n./in/a.jpg\n", {}, r"images are listed more than once \(.*in/a.jpg\); list each once"),
        (
            "name,age\nx,1\n",
            {},
            "is no list of images: it needs a column uri or path, and has name, age",
        ),
        ("uri\nin/a.jpg\n\nelsewhere/c\n,\n", {}, "is no readable CSV"),
        ("uri,b\nin/a.jpg,1\n,2\n", {}, "row 2 names no image"),
        ("uri\ngs://bucket/x.jpg\n", {}, "gs:// is not served"),
        ("uri,a\nin/a.jpg,1\n", {"keep_columns": ("b",)}, "has no such column; it has uri, a"),
        ("uri,label\nin/a.jpg,\n", {"keep_columns": ("label",)}, "predictions have such a column already"),
        ("", {}, "is empty, so no readable CSV"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_a_line(run, folder, text, options, told):
    with pytest.raises(BadRequest, match=told) as raised:
        run(write(folder / "list.csv", text), **options)
    assert "list.csv" in str(raised.value) or "gs://" in str(raised.value) or "--keep-columns" in str(raised.value)
    assert not storage.exists(run.uri)


def test_an_image_that_is_listed_and_lies_in_a_folder_too_is_refused(run, folder):
    with pytest.raises(BadRequest, match="listed more than once"):
        run((write(folder / "list.csv", "uri\nin/a.jpg\n"), folder / "in"))


@pytest.mark.parametrize(
    "names",
    [
        ("y.tif", "y.tif#1"),
        ("y.tif#1", "y.tif"),
        ("s.dcm", "s.dcm#1"),
        ("a.zip#v.nii.gz", "a.zip#v.nii.gz#z=7"),
        ("a.zip#s.dcm", "a.zip#s.dcm#frame=1"),
    ],
)
def test_a_list_that_names_a_file_and_a_part_of_it_is_refused(run, tmp_path, names):
    (tmp_path / "y.tif").write_bytes(packed(pages(1)[0], "TIFF"))
    (tmp_path / "s.dcm").write_bytes(dicom(slice_pixels(seed=1)))
    (tmp_path / "a.zip").write_bytes(zip_of({"v.nii.gz": nifti(), "s.dcm": dicom(slice_pixels(seed=1))}))
    with pytest.raises(BadRequest, match=r"listed more than once .*(y[.]tif|s[.]dcm|nii[.]gz)"):
        run(write(tmp_path / "list.csv", "uri\n" + "\n".join(names) + "\n"))


def test_keeping_columns_needs_a_list(run, folder):
    with pytest.raises(BadRequest, match="--keep-columns needs an --input that is a list of images"):
        run(folder / "in", keep_columns=("age",))


def test_objects_of_a_bucket_are_listed_without_a_request_for_each(decided_s3, run, monkeypatch, tmp_path):
    backend = S3Objects(settle_s=0.2, sleep=lambda _: None)
    monkeypatch.setattr(storage, "_s3", lambda: backend)
    for number in range(12):
        decided_s3.put(f"in/{number}.jpg", image_bytes(number))
    names = "\n".join(f"{decided_s3.bucket},in/{number}.jpg,etag{number}" for number in range(10))
    listed = write(tmp_path / "inventory.csv", f"bucket,key,e_tag\n{decided_s3.bucket},in/gone.jpg,x\n{names}\n")
    decided_s3.proxy.counts.clear()
    run(listed)
    asked = {key: n for key, n in decided_s3.proxy.counts.items() if "/in/" in key[1]}
    assert asked == {("GET", f"/{decided_s3.bucket}/in/{name}.jpg"): 1 for name in (*range(10), "gone")}
    assert sorted(row["error"] or "" for row in rows(run.uri)) == [""] * 10 + ["not_found"]
    assert run(listed).scored == 0
    listed.write_text(listed.read_text().replace("etag3", "another"))
    assert run(listed).scored == 1, "the list says that it has changed"


def test_a_list_is_read_a_part_at_a_time(tmp_path, monkeypatch):
    """A list of 40 million rows must not come into memory at once."""
    monkeypatch.setattr("brainray.inputs.tables.delimited_text._BLOCK_BYTES", 1 << 12)
    listed = write(tmp_path / "list.csv", "uri\n" + "".join(f"/in/{number:06}.jpg\n" for number in range(50_000)))
    before = pa.total_allocated_bytes()
    for number, row in enumerate(open_file_list(str(listed)).rows()):
        assert row.uri == f"/in/{number:06}.jpg"
        if number % 10_000 == 0:
            assert pa.total_allocated_bytes() - before < 1 << 20
    assert number == 49_999
