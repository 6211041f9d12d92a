"""The model in the package: what it claims of itself, and what it says of pictures that are drawn here."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.scoring.runs import contents, engine_of, score_here

import brainray
from brainray.commands.score import read_request
from brainray.config import ScoreOptions
from brainray.duplicates.seen import read_seen
from brainray.imaging.phantom import write_archive
from brainray.models.bundle import SHIPPED, SHIPPED_FAST, load_bundle
from brainray.models.networks import cost_of
from brainray.models.reference import prob_column, read_reference
from brainray.training.report import command_of

MODELS = (SHIPPED, SHIPPED_FAST)
FOLDERS = {SHIPPED: Path(brainray.__file__).parent / "shipped"}
FOLDERS[SHIPPED_FAST] = FOLDERS[SHIPPED] / "fast"
SIDE = 256


@pytest.fixture(scope="module", params=MODELS)
def shipped(request):
    """Read, and checked against its fingerprint."""
    return load_bundle(request.param)


def test_both_are_small_and_cheap(shipped):
    cost = cost_of(shipped.model, shipped.image)
    assert cost.parameters <= 4e6 and cost.gmac <= 0.5
    assert sum(path.stat().st_size for path in FOLDERS[SHIPPED].rglob("*") if path.is_file()) <= 16e6


def test_what_it_claims_was_measured_on_pictures_it_had_not_seen(shipped):
    figures = shipped.metrics
    assert shipped.classes == ("glioma", "meningioma", "notumor", "pituitary")
    assert figures["split"].startswith("5 folds")
    assert figures["ece"] <= 0.015
    assert 0.25 < shipped.calibration.temperature < 4 and 0.5 < shipped.calibration.review_below < 1


def test_they_were_measured_by_patients_and_keep_what_they_promise_them(shipped):
    """A card by pictures said 0.965 where new patients had 0.949."""
    figures = shipped.metrics
    assert shipped.provenance["data"]["groups"]["groups"] == 30 and "no image of the same group" in figures["split"]
    assert figures["accuracy"]["value"] >= 0.91 and figures["accuracy"]["low"] >= 0.85
    review = figures["review"]
    assert review["promise"] == 0.95 <= review["right_low"] and review["accepted"] >= 0.7
    assert review["right_unseen"] >= review["promise"], "also where threshold and temperature are those of other folds"
    reference = read_reference(shipped)
    assert reference.num_rows == figures["images"]
    probs_NK = np.stack([reference[prob_column(name)].to_numpy() for name in shipped.classes], axis=1)
    predicted = np.array(shipped.classes, object)[probs_NK.argmax(axis=1)]
    right = (predicted == np.array(reference["label"].to_pylist(), object)).mean()
    assert right == pytest.approx(figures["accuracy"]["value"]), "the reference is what the card was made of"


def test_it_tells_what_it_has_learned_from(shipped):
    files = len(read_seen(shipped).content_N)  # each content once
    assert shipped.provenance["data"]["pictures"] < files <= shipped.provenance["data"]["images"]


def test_the_table_of_folds_in_the_repository_is_the_one_it_was_made_with(shipped):
    rows = list(csv.DictReader((FOLDERS[shipped.uri] / "training" / "folds.csv").open()))
    pictures = np.array([int(row["pictures"]) for row in rows])
    accuracy = np.array([float(row["accuracy"]) for row in rows])
    assert len(rows) == 5 and pictures.sum() == shipped.metrics["images"]
    assert (accuracy * pictures).sum() / pictures.sum() == pytest.approx(shipped.metrics["accuracy"]["value"])


def test_its_card_tells_how_to_make_it_and_what_it_is_not_for(shipped):
    card = (FOLDERS[shipped.uri] / "training" / "model-card.md").read_text()
    assert command_of(shipped.provenance["options"]).partition("--model")[2] in card
    assert "--folds 5" in card and "Not a medical device" in card
    assert "EfficientNet-Lite" in card and "Apache-2.0" in card, "whose weights it began with"
    assert shipped.provenance["data"]["digest"] in card


def strange_pictures():
    rng = np.random.default_rng(0)
    across = np.linspace(0, 255, SIDE)
    yield "black", np.zeros((SIDE, SIDE))
    yield "white", np.full((SIDE, SIDE), 255)
    yield "grey", np.full((SIDE, SIDE), 90)
    yield "noise", rng.integers(0, 256, (SIDE, SIDE))
    yield "slope", np.add.outer(across, across) / 2
    yield "stripes", np.tile(across > 127, (SIDE, 1)) * 255.0 * (np.arange(SIDE)[:, None] // 16 % 2)
    yield "board", np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((32, 32))) * 255
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8))
    yield "clouds", np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def test_with_no_model_given_the_first_scores_and_both_leave_what_is_no_head_to_a_person(shipped, tmp_path):
    root, run = tmp_path / "in", tmp_path / "run"
    (root / "strange").mkdir(parents=True)
    for name, pixels in strange_pictures():
        Image.fromarray(pixels.astype(np.uint8)).save(root / "strange" / f"{name}.png")
    write_archive(str(root / "drawn"), images=8, seed=0)
    request = read_request(
        [str(root)],
        model=None if shipped.uri == SHIPPED else shipped.uri,
        output=str(run),
        labels=None,
        options=ScoreOptions(),
    )
    assert request.bundle.uri == shipped.uri
    score_here(request, engine_of(request.bundle))
    rows = list(contents(run).values())
    assert len(rows) == 16 and {row["status"] for row in rows} == {"ok"}
    assert {row["model"] for row in rows} == {shipped.fingerprint}
    assert all(sum(row[f"prob_{name}"] for name in shipped.classes) == pytest.approx(1, abs=1e-5) for row in rows)
    sure = [(row["uri"], row["predicted"]) for row in rows if "/strange/" in row["uri"] and not row["review"]]
    assert not sure, "confidently called, though there is no head"


def test_loading_it_runs_no_code_of_its_own(shipped):
    """Weights are safetensors, which hold numbers; a pickle could run anything."""
    folder = FOLDERS[shipped.uri]
    assert sorted(path.name for path in folder.glob("*") if path.is_file()) == ["bundle.json", "model.safetensors"]
    content = (folder / "model.safetensors").read_bytes()
    header = int.from_bytes(content[:8], "little")
    assert content[8 : 8 + header].lstrip().startswith(b"{")
