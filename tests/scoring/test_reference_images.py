"""What a run keeps of how the pictures look that its model was measured on."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import untrained, with_file
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here

from brainray.errors import BadRequest
from brainray.imaging.decode import decode
from brainray.imaging.exposure import exposure
from brainray.models.reference import COUNT, FILE, features_column, prob_column, reference_schema, to_bytes

pytestmark = pytest.mark.usefixtures("no_plot")


def referring(bundle, folder, pictures=3):
    """The same model with a reference of so many dark pictures of 512 x 400 pixels."""
    columns = {"label": [bundle.classes[0]] * pictures, "group": [None] * pictures, "fold": [None] * pictures}
    columns |= {"unit": range(pictures), "width": [400] * pictures, "height": [512] * pictures}
    columns |= {"brightness": [0.07] * pictures, "contrast": [0.11] * pictures}
    columns |= {prob_column(name): [0.25] * pictures for name in bundle.classes}
    columns["features"] = features_column(np.zeros((pictures, COUNT), np.float32))
    schema = reference_schema(bundle.classes)
    table = pa.table([pa.array(columns[name], schema.field(name).type) for name in schema.names], schema=schema)
    return with_file(bundle, folder, FILE, to_bytes(table))


@pytest.fixture
def model(tmp_path):
    return referring(untrained(tmp_path / "untrained"), tmp_path / "model")


def score(archive, output, bundle):
    score_here(request_for(archive, output, bundle), engine_of(bundle, predict=brightness))
    return [json.loads(Path(output, name).read_text()) for name in ("run.json", "summary/summary.json")]


def test_the_run_holds_the_counts_and_the_summary_how_far_its_images_are_from_them(archive, tmp_path, model):
    run, figures = score(archive(images=1), tmp_path / "run", model)
    known = run["reference_images"]
    assert known["images"] == 3
    bins = {name: np.flatnonzero(known[name]["images"]).tolist() for name in known if name != "images"}
    assert bins == {"brightness": [1], "contrast": [4], "longest_side_px": [4]}
    assert {"brightness_psi", "contrast_psi", "longest_side_psi"} <= set(figures["drift"])


def test_a_model_without_a_reference_has_none(archive, bundle, tmp_path):
    run, figures = score(archive(images=1), tmp_path / "run", bundle)
    assert run["reference_images"] is None
    assert sum(figures["brightness"]["images"]) == figures["totals"]["ok"] == 4


def test_rows_hold_the_exposure_of_what_the_model_got(tmp_path, bundle):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "a.jpg").write_bytes(image_bytes(1))
    (tmp_path / "archive" / "cut.jpg").write_bytes(image_bytes(1)[:300])
    score(tmp_path / "archive", tmp_path / "run", bundle)
    found = {Path(row["uri"]).name: (row["brightness"], row["contrast"]) for row in rows(tmp_path / "run")}
    assert found["a.jpg"] == pytest.approx(exposure(decode(image_bytes(1), bundle.image).pixels), abs=1e-6)
    assert found["cut.jpg"] == (None, None)


def test_a_damaged_reference_is_refused(archive, tmp_path, model):
    path = Path(model.uri, FILE)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadRequest, match=r"reference\.parquet: it is damaged"):
        score(archive(images=1), tmp_path / "run", model)
    assert not Path(tmp_path, "run").exists()
