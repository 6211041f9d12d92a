"""The maps of a run: which images get one, that they hold what the network computed, and what the page shows."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
from support.each import each
from support.imaging.images import image_bytes
from support.models.bundles import derived, untrained
from support.scoring.runs import contents, engine_of, request_for, score_here

from brainray import storage
from brainray.commands.report import report
from brainray.config import Explain
from brainray.errors import BadRequest

pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture
def root(begun):
    """The images of `run`."""
    return begun(images=2)


@pytest.fixture
def run(root):
    """A run over four classes of two images; its model finds all of them unsure, or wrong."""
    return str(root.parent / "run")


def explained(run, asked="all", **options):
    said = []
    report(run, say=said.append, explain=Explain.parse(asked), **options)
    return storage.read_parquet(f"{run}/summary/maps.parquet").to_pylist(), said


def test_every_row_has_the_map_of_its_scores(run):
    rows, said = explained(run)
    scored = contents(run)
    assert {row["uri"] for row in rows} == set(scored)
    assert said == ["--explain: 8 maps"]
    for row in rows:
        maps = np.array(row["values"], np.float32).reshape(len(row["classes"]), row["rows"], row["columns"])
        means = maps.mean((1, 2)) + row["biases"]
        np.testing.assert_allclose(means, row["logits"], atol=2e-3)  # values are stored in half precision
        probs = [scored[row["uri"]][f"prob_{name}"] for name in row["classes"]]
        assert probs == sorted(probs, reverse=True)
        assert row["classes"][0] == scored[row["uri"]]["predicted"]
        # Temperature 1.5 of the bundle; the run computes in bf16 where that is faster.
        odds = (means[0] - means[1]) / 1.5
        assert odds == pytest.approx(np.log(probs[0] / probs[1]), abs=0.02)


def test_a_number_asks_for_the_first_images_of_the_page_and_of_the_review_list(run):
    rows, _ = explained(run, "3")
    assert len(rows) == 3
    assert len(explained(run, "review")[0]) == 8


def test_images_that_are_gone_or_have_changed_have_no_map_and_are_counted(run, root):
    (root / "glioma" / "0.jpg").unlink()
    (root / "notumor" / "1.jpg").write_bytes(image_bytes(77))
    rows, said = explained(run)
    assert said == ["--explain: 6 maps; without one: 1 changed since they were scored, 1 gone"]
    assert len(rows) == 6


def test_the_page_shows_cells_over_its_thumbnails_and_keeps_them(run):
    explained(run)
    text = Path(run, "summary", "report.html").read_text()
    assert len(re.findall(r'<svg class="map"', text)) == 8
    assert '<input type="checkbox" id="show-maps">' in text
    report(run, say=print)
    assert Path(run, "summary", "report.html").read_text() == text


def test_maps_of_another_model_are_deleted(run, root, bundle, tmp_path):
    explained(run)
    other = derived(bundle, tmp_path / "other", factor=3.0)
    score_here(request_for(root, run, other, rescore=True), engine_of(other))
    assert not Path(run, "summary", "maps.parquet").exists()


def test_without_the_very_model_there_is_no_map(run, tmp_path):
    stranger = untrained(tmp_path / "stranger", seed=5)
    with pytest.raises(BadRequest, match="the run is of model"):
        explained(run, model=stranger.uri)
    with pytest.raises(BadRequest, match="needs the model of the run, with --model where it was moved to"):
        explained(run, model=str(tmp_path / "nowhere"))
    with pytest.raises(BadRequest, match="--model is for the maps"):
        report(run, say=print, model=stranger.uri)


def test_rows_of_many_shards_lie_together_and_are_read_by_others(run):
    explained(run)
    path = f"{run}/summary/maps.parquet"
    with storage.open_parquet(path) as file:
        assert file.num_row_groups == 1
    counted = duckdb.sql(f"SELECT count(*), max(len(\"values\")) FROM '{path}'").fetchall()
    assert counted == [(8, 4)]  # a grid of one cell for 32 pixels, of four classes


@each("text", ["0", "-3", "some", "1.5", ""])
def test_what_is_no_number_of_images_is_refused(text):
    with pytest.raises(BadRequest, match="--explain is"):
        Explain.parse(text)
