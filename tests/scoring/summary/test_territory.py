"""The summary of a run says whether its archive is like what the model knows, and keeps what it compared."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.page.html_pages import read_page
from support.scoring.run_rows import CLASSES, scored, write_run

from brainray import storage
from brainray.models.reference import COUNT, FEATURES, features_column, reference_schema
from brainray.page.territory import sentences
from brainray.scoring.prediction_schema import LATER
from brainray.scoring.summary.build import build_summary


def looks(images, *, seed, moved=0.0):
    """Labels, probabilities of the first class, and features."""
    rng = np.random.default_rng(seed)
    label = np.arange(images) % 2
    features = rng.normal(size=(images, COUNT)) + moved
    features[:, 0] += 3 * (1 - 2 * label)
    return label, 1 / (1 + np.exp(-4 * features[:, 0])), features


def images(number, *, seed=1, moved=0.0, **values):
    _, first, features = looks(number, seed=seed, moved=moved)
    given = []
    for i, (share, own) in enumerate(zip(first.tolist(), features.tolist(), strict=True)):
        row = scored(
            f"/{seed}-{i}.png", CLASSES[int(share < 0.5)], content_hash=f"{hash((seed, i)) % 2**52:013x}{'0' * 51}"
        )
        row |= {"prob_glioma": share, "prob_notumor": 1 - share, "features": own, "confidence": max(share, 1 - share)}
        given.append(row | values)
    return given


def write(folder, rows, **values):
    return write_run(folder, rows, later_columns=list(LATER), parts=3, **values)


def with_reference(run, number=500):
    label, first, features = looks(number, seed=0)
    columns = dict.fromkeys(reference_schema(CLASSES).names, np.zeros(number))
    columns |= {
        "label": [CLASSES[k] for k in label],
        "group": pa.nulls(number, pa.string()),
        "fold": pa.nulls(number, pa.int16()),
        "unit": np.arange(number),
        "prob_glioma": first,
        "prob_notumor": 1 - first,
        FEATURES: features_column(features.astype(np.float32)),
    }
    storage.write_parquet(f"{run}/reference.parquet", pa.table(columns).cast(reference_schema(CLASSES)))
    return run


TEST = {"name": "pictures", "effect": 3.0, "different": True}


def territory(run):
    return build_summary(run).figures["territory"]


def test_images_like_the_reference_are_known_territory(tmp_path):
    run = with_reference(write(tmp_path / "run", images(150)))
    found = territory(run)
    assert found["kind"] == "pictures alike" and found["images"] == 150 and found["reference_pictures"] == 500
    kept = storage.read_parquet(f"{run}/summary/features.parquet")
    assert kept.column_names == ["uri", "content_hash", "group", "features"] and len(kept) == 150
    assert kept["content_hash"].to_pylist() == sorted(kept["content_hash"].to_pylist())
    shown = read_page(Path(run, "summary", "report.html").read_text()).by_id("archive").text
    assert "Known territory: 150 images beside 500 pictures that the model had not learned from" in shown
    assert "Whether its classes are as common as there cannot be told" in shown  # for no shares are given


def test_a_run_that_has_grown_is_compared_by_images_that_all_have_features(tmp_path):
    """Rows of the time when it was small have features beyond today's limit, where those of later rows are null."""
    rows = sorted(images(150), key=lambda row: row["content_hash"])
    for row in rows[100::2]:
        row["features"] = None
    run = with_reference(write(tmp_path / "run", rows))
    assert (territory(run)["kind"], territory(run)["images"]) == ("pictures alike", 100)
    assert len(storage.read_parquet(f"{run}/summary/features.parquet")) == 100


def test_other_pictures_are_said_to_be_so_on_the_page(tmp_path):
    run = with_reference(write(tmp_path / "run", images(150, moved=1.0)))
    assert territory(run)["kind"] == "pictures"
    shown = read_page(Path(run, "summary", "report.html").read_text()).by_id("archive").text
    assert "Its pictures differ from what the model knows" in shown
    assert "is not estimated: the pictures differ from those that the model knows. Counted predictions" in shown


def test_a_class_that_is_called_another_is_said_on_the_page(tmp_path):
    rows = images(300)
    for row in rows[::6]:  # of the first class
        row |= {"prob_glioma": row["prob_notumor"], "prob_notumor": row["prob_glioma"]}
    assert territory(with_reference(write(tmp_path / "run", rows)))["kind"] == "unclear"
    shown = read_page(Path(tmp_path, "run", "summary", "report.html").read_text()).by_id("archive").text
    assert "What the model calls its images does not fit what they look like: 300 images beside 500" in shown
    assert "more of the images than usual are called notumor and look like glioma (1" in shown


def test_of_few_patients_it_is_said_that_they_may_differ_by_chance():
    known = {"kind": "pictures", "images": 60, "reference_pictures": 500, "strangers": 0.0, "tests_at_mix": [TEST]}
    known |= {"prevalence": None, "accuracy": None, "withheld": "they differ", "patients": 7}
    assert "With 7 patients only, this may be chance." in sentences({"territory": known})[0]
    assert "chance" not in sentences({"territory": known | {"patients": 70}})[0]


def test_images_without_a_patient_are_no_patients(tmp_path):
    """Else the page of an archive of one patient and many loose files would not say that it has but one."""
    rows = [row | {"group": "patient=1" if k < 20 else None} for k, row in enumerate(images(60))]
    run = with_reference(write(tmp_path, rows, group_by="patient", group_levels=["patient"]))
    assert territory(run)["patients"] == 1


@pytest.mark.parametrize("column", ["prob_glioma", FEATURES])
def test_a_reference_with_values_that_are_none_is_as_good_as_none(tmp_path, column):
    run = with_reference(write(tmp_path, images(60)))
    table = storage.read_parquet(f"{run}/reference.parquet")
    values = np.full((len(table), COUNT), np.nan, np.float32)
    bad = features_column(values) if column == FEATURES else pa.array(values[:, 0])
    place = table.column_names.index(column)
    bad = table.set_column(place, table.schema.field(place), bad.cast(table.schema.field(place).type))
    storage.write_parquet(f"{run}/reference.parquet", bad)
    assert territory(run)["reason"].startswith("the model brings no reference")


def test_photographs_among_the_images_are_counted_on_the_page(tmp_path):
    rows = images(150)
    for row in rows[::15]:
        row["features"] = [value + 20 for value in row["features"]]
    found = territory(with_reference(write(tmp_path / "run", rows)))
    assert found["kind"] == "pictures" and found["beyond"]["value"] == pytest.approx(10 / 150, abs=0.02)
    shown = read_page(Path(tmp_path, "run", "summary", "report.html").read_text()).by_id("archive").text
    assert " % of the images are like none of them" in shown


@pytest.mark.parametrize(
    ("rows", "has_reference", "why"),
    [
        (images(150), False, "the model brings no reference"),
        (images(150, features=None), True, "fewer than 50 scored images have features"),
        (images(150, seen=True), True, "fewer than 50 scored images have features"),
        (images(20), True, "fewer than 50 scored images have features"),
    ],
    ids=["a bundle without", "a run without features", "what was learned from", "few"],
)
def test_what_cannot_be_told_is_said_with_the_reason(tmp_path, rows, has_reference, why):
    run = write(tmp_path / "run", rows)
    found = territory(with_reference(run) if has_reference else run)
    assert found["kind"] is None and found["reason"].startswith(why)
    shown = read_page(Path(run, "summary", "report.html").read_text()).by_id("archive").text
    assert "Whether the model knows such an archive cannot be told" in shown


def test_a_run_of_an_earlier_version_has_its_summary(tmp_path):
    run = write_run(tmp_path / "run", images(60), later_columns=["seen"])
    for part in Path(run, "predictions").iterdir():
        table = storage.read_parquet(str(part))
        kept = table.drop_columns([name for name in LATER if name != "seen"])
        storage.write_parquet(str(part), kept.replace_schema_metadata(table.schema.metadata))
    assert territory(run)["kind"] is None
    assert not Path(run, "summary", "features.parquet").exists()


def test_the_generation_before_is_compared_by_its_pictures(tmp_path):
    run = with_reference(write(tmp_path / "run", images(100)))
    build_summary(run)
    write(tmp_path / "run", images(100, model="beef" * 8), fingerprint="beef" * 8)
    _as_model(tmp_path / "run", "beef" * 8)
    before = territory(run)["before"]
    assert before["same_images"] == 100 and not before["different"]
    assert territory(run)["before"] == before, "a rebuilt summary is the same"
    write(tmp_path / "run", images(100, seed=3, moved=1.0), fingerprint="feed" * 8)
    _as_model(tmp_path / "run", "feed" * 8)
    before = territory(run)["before"]
    assert before["same_images"] == 0 and before["different"]
    shown = read_page(Path(run, "summary", "report.html").read_text()).by_id("archive").text
    assert "The pictures differ from those of the generation before" in shown


def _as_model(run, model):
    """Write the parts as those of another model."""
    for part in Path(run, "predictions").iterdir():
        table = storage.read_parquet(str(part))
        info = json.loads(table.schema.metadata[b"brainray"]) | {"model": model}
        metadata = table.schema.metadata | {b"brainray": json.dumps(info).encode()}
        storage.write_parquet(str(part), table.replace_schema_metadata(metadata))


def test_the_verdict_gives_an_estimate_only_where_it_holds(tmp_path, monkeypatch):
    """It flattered: the model's own confidence stood in the title as a best estimate, also of other pictures."""
    run = with_reference(write(tmp_path / "run", images(150, moved=1.0)))
    found = territory(run)
    said = verdict_of(run)
    assert "how many are right is not known" in said and "best estimate" not in said
    assert f"It is not estimated either: {found['withheld']}." in said

    accuracy = {"by_confidence": 0.91, "by_threshold": 0.93, "gap": 0.02, "low": 0.89, "high": 0.95}
    shares = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in CLASSES}
    told = found | {"kind": "alike", "withheld": None, "accuracy": accuracy, "prevalence": shares}
    monkeypatch.setattr("brainray.scoring.summary.build.territory_figures", lambda *_: told)
    build_summary(run)
    assert "about 91.0 % right by best estimate" in verdict_of(run) and "89.0 % to 95.0 % are" in verdict_of(run)


def verdict_of(run):
    return read_page(Path(run, "summary", "report.html").read_text()).by_id("verdict").text
