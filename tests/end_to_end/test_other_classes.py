"""Nothing assumes four classes: models of two and of five are trained, fine-tuned, and go through score and report."""

from dataclasses import replace

import numpy as np
import pytest
from support.models.bundles import learned
from support.scoring.runs import contents, engine_of, request_for, score_here

from brainray import storage
from brainray.cli.app import run
from brainray.config import TrainOptions
from brainray.models.bundle import Bundle, load_bundle
from brainray.training.dataset import list_training_set
from brainray.training.decoded import DecodedRows, decode_rows

TWO, FIVE = ("healthy", "tumor"), ("a", "b", "c", "d", "e")
IMAGES = 4  # of each class
OPTIONS = TrainOptions(image_px=32, width=0.25, epochs=25, batch_size=20, augment=0.0, outliers=0.0, averaging=0.0)


def trained(root, output, *, epochs: int = OPTIONS.epochs, init: Bundle | None = None) -> Bundle:
    """A model of the class folders, which has learned their few images by heart where it has the time."""
    found = list_training_set(str(root))
    rows = decode_rows(found.table, OPTIONS.image_spec)
    kept = DecodedRows([rows | {"picture": rows["position"]}])
    return learned(
        output,
        kept,
        options=replace(OPTIONS, epochs=epochs),
        classes=found.classes,
        class_counts=tuple(np.bincount(rows["label"]).tolist()),
        init=init,
    )


@pytest.mark.parametrize("classes", [TWO, FIVE], ids=["two", "five"])
def test_a_model_of_so_many_classes_is_trained_scores_and_is_reported(classes, archive, tmp_path, capfd):
    root = archive(images=IMAGES, classes=classes)
    bundle = trained(root, tmp_path / "model")
    named = bundle.classes
    assert len(named) == len(classes)
    output = tmp_path / "run"
    outcome = score_here(request_for(root, output, bundle), engine_of(bundle))
    rows = list(contents(output).values())
    assert len(rows) == IMAGES * len(classes)
    assert {row["label"] for row in rows} == set(named), "folders are labels"
    assert all(sum(row[f"prob_{name}"] for name in named) == pytest.approx(1, abs=1e-5) for row in rows)
    figures = outcome.summary.figures
    assert figures["accuracy"]["value"] > 1.5 / len(classes), "it knows the images it has learned"

    assert run(["report", str(output)]) == 0
    said = capfd.readouterr().out
    assert all(name in said for name in named)
    confusion = storage.read_parquet(str(output / "summary" / "confusion.parquet")).to_pylist()
    assert {row["predicted"] for row in confusion} <= set(named)
    assert sum(row["images"] for row in confusion) == len(rows)
    assert len(storage.read_parquet(str(output / "summary" / "per_class.parquet"))) == len(named)


def test_a_model_is_fine_tuned_for_other_classes(archive, tmp_path):
    before = trained(archive("two", images=IMAGES, classes=TWO), tmp_path / "before", epochs=1)
    after = trained(archive("five", images=IMAGES, classes=FIVE), tmp_path / "after", epochs=1, init=before)
    assert after.classes == FIVE and load_bundle(after.uri).fingerprint != before.fingerprint
    output = tmp_path / "run"
    score_here(request_for(tmp_path / "five", output, after), engine_of(after))
    assert {f"prob_{name}" for name in FIVE} <= set(next(iter(contents(output).values())))
