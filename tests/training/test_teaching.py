"""Each picture is taught by a network that has not seen it, nor another picture of its group."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.models.bundles import CLASSES, untrained
from support.training.steps import plain_fitting

from brainray.config import ImageSpec, TrainOptions
from brainray.errors import BadRequest
from brainray.models.bundle import fold_file, load_bundle, load_fold, load_model, save_bundle, weights_bytes
from brainray.models.predictor import standardise
from brainray.training.dataset import SelectedImages, describe_data
from brainray.training.decoded import DecodedRows
from brainray.training.splits import fold_by_picture
from brainray.training.teaching import Teachers, Teaching, check_teacher, fold_numbers
from brainray.training.trainer import FitSpec, Trainer

OPTIONS = TrainOptions(folds=3, image_px=32)


def selected_images():
    """48 images, of which every second picture has a copy and every group three pictures; row 48 is left out."""
    pictures = np.arange(48) * 3 // 4
    units = pictures // 3
    labels = units % 4
    positions = np.delete(np.arange(49), 7)
    splits = fold_by_picture(pictures, labels, joined=units, classes=CLASSES, folds=OPTIONS.folds, seed=OPTIONS.seed)
    return SelectedImages(
        positions=positions,
        labels=labels,
        pictures=pictures,
        groups=np.array([f"p{unit}" for unit in units]),
        grouped_by=("--groups",),
        units=units,
        splits=tuple(splits),
        digest="d",
        unreadable={},
        ineligible={},
        excluded=0,
        conflicts=0,
    )


@pytest.fixture
def teacher(tmp_path):
    """A model of three folds whose networks were kept."""
    plain = untrained(tmp_path / "model")
    provenance = {"data": describe_data(selected_images(), CLASSES), "options": OPTIONS.to_json()}
    networks = {
        fold_file(number): load_model(untrained(tmp_path / f"fold{number}", seed=number)) for number in (1, 2, 3)
    }
    bundle = save_bundle(
        plain.uri,
        weights=weights_bytes(load_model(plain).state_dict()),
        image=OPTIONS.image_spec,
        model=plain.model,
        calibration=plain.calibration,
        provenance=provenance,
        files={name: weights_bytes(network.state_dict()) for name, network in networks.items()},
    )
    return load_bundle(bundle.uri)


def test_the_network_that_teaches_a_picture_has_seen_nothing_of_its_group(teacher):
    selected = selected_images()
    taught = fold_numbers(teacher, selected).fold_N
    assert taught[7] == -1 and len(taught) == 49
    for place, position in enumerate(selected.positions):
        learned = selected.splits[taught[position]].train
        assert selected.units[place] not in selected.units[learned]


def test_a_teacher_of_other_images_is_refused(teacher):
    """It may have seen what it would be asked about, and would be sure of it."""
    selected = selected_images()
    swapped = selected.units.copy()
    swapped[[0, 30]] = swapped[[30, 0]]
    for other in (replace(selected, digest="other"), replace(selected, units=swapped)):
        with pytest.raises(BadRequest, match=r"--teacher .* has learned from other images or groups"):
            fold_numbers(teacher, other)


def test_each_image_is_asked_of_its_own_network_with_its_mirror_image(teacher):
    images, folds = torch.rand(5, 1, 32, 32), np.array([2, 0, 1, 0, 2], np.int8)
    said = Teachers(teacher, torch.device("cpu"), bf16=False).logits(images, folds)
    for image, fold, given in zip(images, folds, said, strict=True):
        network = load_fold(teacher, int(fold) + 1)
        with torch.inference_mode():
            wanted = (network(image[None]) + network(image[None].flip(3)))[0] / 2
        assert torch.allclose(given, wanted, atol=1e-4)


def test_a_teacher_of_larger_images_sees_them_enlarged(teacher):
    assert Teachers(teacher, torch.device("cpu"), bf16=False).logits(
        torch.rand(2, 1, 24, 24), np.zeros(2, np.int8)
    ).shape == (2, 4)


def test_a_model_that_cannot_teach_is_refused_before_anything_starts(teacher, tmp_path):
    image = OPTIONS.image_spec
    check_teacher(teacher, CLASSES, image)
    with pytest.raises(BadRequest, match=r"knows glioma.* and is to teach a, b"):
        check_teacher(teacher, ("a", "b"), image)
    with pytest.raises(BadRequest, match="prepared otherwise"):
        check_teacher(teacher, CLASSES, ImageSpec(image_px=32, crop="none"))
    with pytest.raises(BadRequest, match="no networks of folds; train it with --folds 5 --keep-folds"):
        check_teacher(untrained(tmp_path / "plain"), CLASSES, replace(image, crop="none", tone="as_is"))


def test_a_damaged_network_of_a_fold_teaches_nothing(teacher, tmp_path):
    path = tmp_path / "model" / "training" / "folds" / "2.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BadRequest, match="damaged"):
        load_fold(teacher, 2)
    path.unlink()
    with pytest.raises(BadRequest, match="the network of fold 2 is missing"):
        load_fold(teacher, 2)


def test_agreeing_with_the_teacher_costs_less_than_disagreeing():
    step_config, labels = plain_fitting(classes=3), torch.tensor([0, 1])
    teacher = torch.tensor([[2.0, 1.5, -3], [0, 3, 0]])
    alike, unlike = teacher.clone(), torch.tensor([[2.0, -3, 1.5], [0, 3, 0]])
    assert step_config.loss(alike, labels) == pytest.approx(float(step_config.loss(unlike, labels)))
    assert step_config.loss(alike, labels, teacher) < step_config.loss(unlike, labels, teacher)


def test_a_taught_network_learns_what_the_teacher_says(teacher):
    """The labels say nothing of these images, so where pupil and teacher agree, the teacher was heard."""
    rng = np.random.default_rng(0)
    rows = {
        "position": np.arange(64),
        "label": np.arange(64) % 4,
        "picture": np.arange(64),
        "finding": np.full((64, 4), np.nan, np.float32),
        "pixels": (rng.random((64, 1, 1)) * rng.integers(0, 256, (64, 32, 32))).astype(np.uint8),
    }
    fold_N = (np.arange(64) % 3).astype(np.int8)
    images = standardise(torch.from_numpy(rows["pixels"])[:, None].float() / 255, OPTIONS.image_spec)
    wanted = Teachers(teacher, torch.device("cpu"), bf16=False).logits(images, fold_N).softmax(1)
    apart = {}
    for taught in (True, False):
        fit_spec = FitSpec(
            options=TrainOptions(image_px=32, epochs=8, augment=0, outliers=0, batch_size=16, precision="fp32"),
            model=teacher.model,
            class_counts=(16, 16, 16, 16),
            init=None,
            teaching=Teaching(bundle=teacher, fold_N=fold_N) if taught else None,
        )
        trainer = Trainer(fit_spec, resume_from=None, device=torch.device("cpu"))
        kept = DecodedRows([rows])
        for _ in range(8):
            trainer.epoch(kept)
        said = torch.from_numpy(trainer.evaluate(kept)).softmax(1)
        apart[taught] = float((said - wanted).abs().sum(1).mean())
    assert apart[True] < 0.6 * apart[False], apart
