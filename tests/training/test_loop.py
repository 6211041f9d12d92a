import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.training.steps import plain_fitting

from brainray.config import ImageSpec, ModelSpec, TrainOptions
from brainray.evaluation import metrics
from brainray.evaluation.calibration import softmax
from brainray.evaluation.counts import count_probabilities
from brainray.models.networks import build_model
from brainray.training import loop
from brainray.training.augment import augment

SPEC = ImageSpec(image_px=32)


def blobs(count, seed=0):
    """Two classes: a bright square on the left or on top."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 60, (count, 32, 32), dtype=np.uint8)
    images[labels == 0, 12:20, :] += 150
    images[labels == 1, :, 12:20] += 150
    return images, labels.astype(np.int64)


def train(seed, epochs=6):
    torch.manual_seed(seed)
    options = TrainOptions(lr=3e-3, epochs=epochs)
    images, labels = blobs(96)
    pictures = np.arange(96)
    model = build_model(ModelSpec(classes=("a", "b"), width=0.25))
    optimizer = loop.make_optimizer(model, options)
    schedule = loop.make_schedule(optimizer, total_steps=6 * epochs, warmup_fraction=0.1)
    plain = plain_fitting()
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(epoch)
        batches = loop.shuffled_batches(images, labels, pictures, batch_size=16, steps=6, generator=generator)
        loop.train_epoch(model, batches, step_config=plain, optimizer=optimizer, schedule=schedule, generator=generator)
    return model


def test_a_few_epochs_learn_what_can_be_seen():
    images, labels = blobs(40, seed=1)
    logits_NK = loop.evaluate(
        train(0), loop.ordered_batches(images, labels, batch_size=16), step_config=plain_fitting()
    )
    assert (logits_NK.argmax(1) == labels).mean() > 0.9


def test_one_seed_gives_one_set_of_weights():
    first, second = train(3, epochs=1).state_dict(), train(3, epochs=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def prepared(threads):
    """Augmented images of some batches, each with its labels."""
    images, labels = blobs(22)
    return loop.prepared_ahead(
        loop.ordered_batches(images, labels, batch_size=4),
        step_config=plain_fitting(augment=1.0, outliers=0.25),
        generator=torch.Generator().manual_seed(5),
        threads=threads,
    )


def test_batches_augmented_ahead_keep_their_order_and_what_was_drawn_for_them():
    """Else weights would depend on how many processors a machine has, and images be learned with labels of others."""
    alone, one_ahead, many = (list(prepared(threads)) for threads in (0, 1, 8))
    labels = blobs(22)[1]
    assert torch.cat([batch.labels for batch, *_ in many]).tolist() == labels.tolist()
    for ahead in (one_ahead, many):
        assert all(torch.equal(one[1], other[1]) for one, other in zip(alone, ahead, strict=True))
    assert not torch.equal(alone[0][1][:2], alone[1][1][:2])


def test_an_image_that_cannot_be_augmented_ends_the_epoch(monkeypatch):
    monkeypatch.setattr(loop, "augment_with_regions", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(prepared(3))


@settings(max_examples=40)
@given(
    pictures=st.lists(st.integers(0, 30), min_size=1, max_size=40), batch=st.integers(1, 16), extra=st.integers(0, 3)
)
def test_every_picture_is_learned_from_equally_often_in_every_epoch(pictures, batch, extra):
    """Whatever number of copies it has; a batch that must be filled up takes some once more."""
    distinct, images = len(set(pictures)), len(pictures)
    steps = -(-distinct // batch) + extra
    pixels = np.arange(images, dtype=np.uint8).reshape(-1, 1, 1)
    batches = list(
        loop.shuffled_batches(
            pixels,
            np.arange(images),
            np.array(pictures),
            batch_size=batch,
            steps=steps,
            generator=torch.Generator().manual_seed(0),
        )
    )
    seen = torch.cat([batch.labels for batch in batches])
    assert len(seen) == steps * batch
    times = np.bincount(np.array(pictures)[seen.numpy()])
    assert set(times[sorted(set(pictures))]) <= {len(seen) // distinct, -(-len(seen) // distinct)}
    assert all(torch.equal(batch.images.flatten().long(), batch.labels) for batch in batches)


def test_each_copy_of_a_picture_has_its_turn():
    pixels, pictures = np.zeros((6, 1, 1), np.uint8), np.array([0, 1, 1, 1, 1, 1])
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(60):
        for batch in loop.shuffled_batches(pixels, np.arange(6), pictures, batch_size=2, steps=1, generator=generator):
            seen |= set(batch.labels.tolist())
    assert seen == set(range(6))


def test_the_average_of_the_weights_follows_them():
    model = build_model(ModelSpec(classes=("a", "b"), width=0.25))
    average = loop.make_average(
        build_model(ModelSpec(classes=("a", "b"), width=0.25)), decay=0.9, device=torch.device("cpu")
    )
    for _ in range(200):
        average.update_parameters(model)
    for mean, value in zip(average.module.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.allclose(mean.float(), value.float(), atol=1e-5)


def test_the_average_moves_fast_at_first_and_then_by_its_decay():
    """By hand: of what it was it keeps (1 + n) / (10 + n) at the n-th step, and never more than the decay."""
    model = torch.nn.BatchNorm1d(1)
    average = loop.make_average(model, decay=0.4, device=torch.device("cpu"))
    expected = 1.0
    for step, value in enumerate((5.0, -2.0, 3.0, 7.0, 7.5, 0.5), start=1):
        torch.nn.init.constant_(model.weight, value)
        model.running_mean.fill_(value)
        model.num_batches_tracked += 1
        average.update_parameters(model)
        expected += (1 - min(0.4, (1 + step) / (10 + step))) * (value - expected)
        assert average.module.weight.item() == pytest.approx(expected)
        assert int(average.module.num_batches_tracked) == step, "a count is taken as it is"
    assert average.module.running_mean.item() != 0


def test_evaluation_sees_every_image_once_in_order():
    images, labels = blobs(21)
    seen = torch.cat([batch.labels for batch in loop.ordered_batches(images, labels, batch_size=8)])
    assert seen.tolist() == labels.tolist()


def test_the_rate_rises_then_falls():
    factors = [loop.learning_rate_factor(step, total=100, warmup_fraction=0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == 1.0
    assert factors.index(1.0) in (9, 10)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.02


def test_rare_classes_weigh_more_and_the_mean_image_weighs_one():
    counts = np.array([900, 100])
    weights = loop.class_weights(counts).numpy()
    assert weights[1] / weights[0] == pytest.approx(3.0)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1.0)


def test_the_figures_of_an_epoch_are_those_of_every_other_report():
    """One count and one formula: else a model is chosen by one figure and described by another."""
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(200, 4)).astype(np.float32), rng.integers(0, 3, 200)
    figures = loop.validation_figures(logits, labels, 4)
    tally = count_probabilities(labels, softmax(logits, 1.0))
    assert figures["val_accuracy"] == metrics.accuracy(tally).value
    assert figures["val_balanced_accuracy"] == metrics.balanced_accuracy(tally)
    assert figures["val_loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))), abs=1e-6
    )
    assert figures["val_images"] == 200


def test_without_images_there_is_no_figure():
    figures = loop.validation_figures(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 4)
    assert figures == {"val_loss": None, "val_accuracy": None, "val_balanced_accuracy": None, "val_images": 0}


def test_augmentation_keeps_shape_and_repeats_with_its_seed():
    images = torch.rand(6, 1, 32, 32)
    first = augment(images.clone(), torch.Generator().manual_seed(1))
    again = augment(images.clone(), torch.Generator().manual_seed(1))
    other = augment(images.clone(), torch.Generator().manual_seed(2))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(augment(images, torch.Generator().manual_seed(1), strength=0), images)


def test_augmentation_turns_few_heads_upside_down():
    images = torch.zeros(400, 1, 32, 32)
    images[:, :, :8] = 1  # bright on top
    moved = augment(images, torch.Generator().manual_seed(0))
    upright = (moved[:, 0, :10].mean((1, 2)) > moved[:, 0, 22:].mean((1, 2))).float().mean()
    assert 0.9 < upright < 1


def test_colours_are_changed_alike():
    images = torch.rand(8, 1, 32, 32).expand(-1, 3, -1, -1).contiguous()
    changed = augment(images, torch.Generator().manual_seed(3), strength=0.5)
    assert changed.shape == images.shape
    assert torch.allclose(changed[:, 0], changed[:, 1], atol=1e-6)
