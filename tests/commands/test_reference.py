"""What `brainray train` leaves in the bundle about its images, with no Ray: a stand-in trains."""

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import untrained
from support.models.telling import telling
from support.training.fitting import fit_here

from brainray.cli.app import run
from brainray.commands import train as train_job
from brainray.duplicates.seen import FILE as SEEN
from brainray.duplicates.seen import read_seen
from brainray.errors import BadRequest
from brainray.models.bundle import load_bundle
from brainray.models.reference import COUNT, FILE, read_reference

CLASSES = ("a", "b")
IMAGES = 8  # of each class
SMALL = ("--epochs", "1", "--image-px", "32", "--width", "0.25")


@pytest.fixture
def data(archive):
    root = archive("data", images=IMAGES, classes=CLASSES)
    (root / "b" / "7.jpg").write_bytes((root / "b" / "6.jpg").read_bytes())
    return root


@pytest.fixture
def train(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train_job, "_fit", fit_here)
    output = tmp_path / "model"

    def command(*options):
        return run(["train", "--data", str(data), "--output", str(output), *SMALL, *options])

    return command


def contents(*files):
    return {int(hashlib.sha256(file.read_bytes()).hexdigest()[:16], 16) for file in files}


@pytest.mark.parametrize("killed", [False, True], ids=["at once", "after its last epoch"])
def test_with_folds_the_reference_has_every_picture_once(train, data, tmp_path, monkeypatch, killed):
    groups = tmp_path / "groups.csv"
    groups.write_text("image,patient\n" + "".join(f"a/{i}.jpg,p{i // 2}\n" for i in range(IMAGES)))
    given = ("--folds", "2", "--groups", str(groups))
    if killed:
        with monkeypatch.context() as patch:
            patch.setattr(train_job, "_write", lambda *_, **__: 1 / 0)
            assert train(*given) == 1
    assert train(*given) == 0
    bundle = load_bundle(str(tmp_path / "model"))
    rows = read_reference(bundle).to_pylist()
    assert len(rows) == 2 * IMAGES - 1, "a copy is no picture of its own"
    assert sorted({(row["label"], row["group"]) for row in rows}, key=str) == [
        *(("a", f"p{i}") for i in range(4)),
        ("b", None),
    ]
    assert {row["fold"] for row in rows} == {1, 2}
    for group in {row["group"] for row in rows if row["group"]}:
        of_group = [row for row in rows if row["group"] == group]
        assert len({row["unit"] for row in of_group}) == len({row["fold"] for row in of_group}) == 1
    for row in rows:
        assert row["prob_b"] > 0.5 and row["prob_a"] + row["prob_b"] == pytest.approx(1)
        assert len(row["features"]) == COUNT and np.std(row["features"]) > 0
        assert row["width"] > 32 and 0 < row["brightness"] < 1 and 0 < row["contrast"] < 1
    features = np.array([row["features"] for row in rows])
    assert len(np.unique(features, axis=0)) == len(rows)
    assert (features.astype(np.float16) == features).all(), "they compress"
    every = contents(*(data / k / f"{i}.jpg" for k in CLASSES for i in range(IMAGES)))
    assert set(read_seen(bundle).content_N.tolist()) == every, "the last fit learns from all images"


def test_without_folds_it_has_the_validation_pictures_which_are_not_seen(train, data, tmp_path):
    assert train("--val-fraction", "0.3") == 0
    bundle = load_bundle(str(tmp_path / "model"))
    reference = read_reference(bundle)
    assert len(reference) == bundle.metrics["images"] < IMAGES
    assert reference["fold"].null_count == reference["group"].null_count == len(reference)
    images = bundle.provenance["data"]
    assert len(read_seen(bundle).content_N) in (images["train_images"], images["train_images"] - 1)
    assert len(read_seen(bundle).content_N) + len(reference) == 2 * IMAGES - 1


def test_what_the_model_of_init_had_seen_is_seen_still(train, tmp_path):
    before = tmp_path / "before.jpg"
    before.write_bytes(image_bytes(77))
    plain = untrained(tmp_path / "plain", image_px=32, classes=CLASSES)
    telling(plain, tmp_path / "init", [before.read_bytes()])
    assert train("--init", str(tmp_path / "init"), "--folds", "2") == 0
    found = set(read_seen(load_bundle(str(tmp_path / "model"))).content_N.tolist())
    assert contents(before) < found and len(found) == 2 * IMAGES


def test_a_model_of_init_that_does_not_tell_is_named(train, tmp_path, capfd):
    untrained(tmp_path / "init", image_px=32, classes=CLASSES)
    assert train("--init", str(tmp_path / "init")) == 0
    assert "nothing tells what the model of --init had learned from" in capfd.readouterr().err


def test_a_training_that_an_earlier_version_has_begun_ends_without(train, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(train_job, "_fit", lambda *given: fit_here(*given, describes=False))
    assert train() == 0
    bundle = load_bundle(str(tmp_path / "model"))
    assert read_reference(bundle) is None and read_seen(bundle) is None
    assert "an earlier version of brainray" in capfd.readouterr().err


def test_a_damaged_reference_is_refused_and_scoring_needs_none(train, tmp_path):
    assert train() == 0
    path = tmp_path / "model" / FILE
    path.write_bytes(path.read_bytes() + b" ")
    bundle = load_bundle(str(tmp_path / "model"))
    with pytest.raises(BadRequest, match=r"reference\.parquet: it is damaged or was edited"):
        read_reference(bundle)
    path.unlink()
    assert read_reference(bundle) is None


def test_other_programs_read_both_files(train, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    assert train() == 0
    for name in (FILE, SEEN):
        found = duckdb.sql(f"SELECT * FROM '{tmp_path}/model/{name}'").to_arrow_table()
        assert len(found) == len(pq.read_table(tmp_path / "model" / name)) > 0
