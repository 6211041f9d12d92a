import dataclasses
import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each
from support.training.steps import plain_fitting

from brainray import storage
from brainray.config import ImageSpec, ModelSpec, TrainOptions
from brainray.errors import StorageError
from brainray.models.bundle import fingerprint
from brainray.models.networks import build_model
from brainray.training import checkpoint, loop
from brainray.training.checkpoint import Checkpoint
from brainray.training.fit_result import Measured, calibrate
from brainray.training.trainer import FitSpec, Trainer

SPEC = ModelSpec(classes=("a", "b"), width=0.25)
OPTIONS = TrainOptions(epochs=6, seed=4, image_px=32, width=0.25)
FITTING = plain_fitting()


def images(count=24):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (count, 32, 32), dtype=np.uint8), np.arange(count) % 2


def row(epoch, recall=0.5, loss=1.0, *, best=True):
    return {"epoch": epoch, "val_balanced_accuracy": recall, "val_loss": loss, "best": best, "seconds": 0.5}


def train(begun, epochs, *, steps=3):
    """Some epochs more, as a Ray Train worker does them, and what they leave."""
    torch.manual_seed(torch.seed() if begun else OPTIONS.seed)
    model = build_model(SPEC)
    if begun:
        model.load_state_dict(begun.model)
    history = list(begun.history) if begun else []
    optimizer = loop.make_optimizer(model, OPTIONS, moments=begun.moments if begun else None)
    schedule = loop.make_schedule(
        optimizer, total_steps=steps * OPTIONS.epochs, warmup_fraction=0.1, done_steps=steps * len(history)
    )
    for epoch in range(len(history) + 1, len(history) + epochs + 1):
        generator = loop.seed_epoch(seed=OPTIONS.seed, epoch=epoch, rank=0)
        batches = loop.shuffled_batches(*images(), np.arange(24), batch_size=8, steps=steps, generator=generator)
        loop.train_epoch(
            model, batches, step_config=FITTING, optimizer=optimizer, schedule=schedule, generator=generator
        )
        history.append(row(epoch) | {"lr": schedule.get_last_lr()[0]})
    return Checkpoint(
        model=model.state_dict(),
        average=None,
        moments=optimizer.state_dict()["state"],
        history=history,
        best=model.state_dict(),
        logits_NK=torch.tensor([[2.0, 1.0], [0.5, 3.0]]),
        labels_N=torch.tensor([0, 1]),
        data={"images": 24, "unreadable": {}, "pictures_by_class": {"a": 12, "b": 12}},
    )


@pytest.fixture(scope="module")
def third_epoch():
    return train(None, 3)


@pytest.fixture(scope="module")
def written(third_epoch):
    return checkpoint.to_bytes(third_epoch)


def test_training_goes_on_from_the_file_as_if_nothing_had_happened(third_epoch):
    whole = train(None, 6)
    resumed = train(checkpoint.from_bytes(checkpoint.to_bytes(third_epoch)), 3)
    assert resumed.history == whole.history
    assert all(torch.equal(resumed.model[name], whole.model[name]) for name in whole.model)
    marks = {
        fingerprint(weights=f.weights, image=ImageSpec(), model=SPEC, calibration=f.calibration)
        for f in (calibrate(last, Measured.of([last])) for last in (whole, resumed))
    }
    assert len(marks) == 1


def test_what_is_written_is_what_is_read(third_epoch, tmp_path):
    uri = str(tmp_path / "checkpoint.pt")
    assert checkpoint.read(uri) is None
    storage.write_bytes(uri, checkpoint.to_bytes(third_epoch))
    read = checkpoint.read(uri)
    assert (read.epoch, read.history, read.data) == (3, third_epoch.history, third_epoch.data)
    assert torch.equal(read.logits_NK, third_epoch.logits_NK)
    assert read.moments.keys() == third_epoch.moments.keys()


def test_a_file_of_an_earlier_version_has_no_positions_and_goes_on(third_epoch, monkeypatch):
    known = [field for field in dataclasses.fields(Checkpoint) if field.name != "positions_N"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "fields", lambda _: known)
        earlier = checkpoint.to_bytes(third_epoch)
    read = checkpoint.from_bytes(earlier)
    assert read.positions_N is None and read.epoch == 3
    assert Measured.of([read]).positions_N is None
    measured = dataclasses.replace(read, positions_N=torch.tensor([4, 9]))
    assert Measured.of([measured, measured, read]).positions_N.tolist() == [4, 9, 4, 9]
    assert Measured.of([measured, read, read]).positions_N is None


def test_there_is_nothing_in_it_that_could_run(third_epoch):
    archive = checkpoint.to_bytes(third_epoch).partition(b"\n")[2]
    assert torch.load(io.BytesIO(archive), weights_only=True).keys() == Checkpoint.__dataclass_fields__.keys()


@settings(max_examples=30)
@given(data=st.data())
def test_a_damaged_file_is_refused_with_a_reason_and_never_believed(written, data):
    content = bytearray(written)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StorageError):
        checkpoint.from_bytes(bytes(content))


@given(content=st.binary(max_size=300))
def test_any_other_file_is_no_checkpoint(content):
    with pytest.raises(StorageError):
        checkpoint.from_bytes(content)


def rates(*, epochs, steps, done_steps):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = loop.make_schedule(optimizer, total_steps=6 * steps, warmup_fraction=0.1, done_steps=done_steps)
    seen = []
    for _ in range(epochs * steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@each("done", [1, 3, 5])
def test_the_schedule_goes_on_where_it_was(done):
    assert rates(epochs=6 - done, steps=7, done_steps=7 * done) == rates(epochs=6, steps=7, done_steps=0)[7 * done :]


def test_with_other_workers_the_schedule_goes_on_at_the_same_epoch(third_epoch):
    resumed = train(third_epoch, 1, steps=4)
    assert resumed.history[-1]["lr"] == pytest.approx(rates(epochs=5, steps=4, done_steps=0)[16] * OPTIONS.lr)


def test_every_epoch_and_worker_draws_its_own_whatever_was_drawn_before():
    def draws(**key):
        generator = loop.seed_epoch(**{"seed": 1, "epoch": 2, "rank": 0, **key})
        return tuple(torch.rand(2, generator=generator).tolist() + torch.rand(2).tolist())

    first = draws()
    torch.rand(5)
    assert draws() == first
    assert len({first, draws(seed=2), draws(epoch=3), draws(rank=1)}) == 4


def test_what_is_drawn_is_the_same_with_every_python():
    generator = loop.seed_epoch(seed=1, epoch=2, rank=3)
    assert (generator.initial_seed(), torch.initial_seed()) == (12997252459554536576, 4810247055756232647)


def written_by_version_2(state):
    """As brainray wrote it before the average was torch's own."""
    body = checkpoint.to_bytes(state).partition(b"\n")[2]
    return b"brainray checkpoint 2 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def test_a_training_begun_before_the_average_was_torchs_own_goes_on(third_epoch):
    """Keys had no prefix and the number of averaged steps stood nowhere: it follows from the epochs."""
    average = {name: tensor + 1 for name, tensor in third_epoch.model.items()}
    before = checkpoint.from_bytes(written_by_version_2(replace(third_epoch, average=average)))
    fit_spec = FitSpec(options=OPTIONS, model=SPEC, class_counts=(12, 12), init=None)
    trainer = Trainer(fit_spec, resume_from=before, device=torch.device("cpu"))
    assert all(torch.equal(trainer.eval_model.state_dict()[name], average[name]) for name in average)
    assert int(trainer.average.n_averaged) == 1 + 3 * trainer.steps
    after = checkpoint.from_bytes(checkpoint.to_bytes(replace(before, average=trainer.average.state_dict())))
    again = Trainer(fit_spec, resume_from=after, device=torch.device("cpu")).average
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), after.average.values(), strict=True))
    assert checkpoint.from_bytes(written_by_version_2(third_epoch)).average is None


def test_better_is_more_recall_and_at_the_same_recall_less_loss():
    assert loop.is_better(row(1), None, OPTIONS)
    assert loop.is_better(row(2, 0.6, 9.0), row(1, 0.5, 1.0), OPTIONS)
    assert loop.is_better(row(2, 0.5, 0.9), row(1, 0.5, 1.0), OPTIONS)
    assert not loop.is_better(row(2, 0.5, 1.0), row(1, 0.5, 1.0), OPTIONS)


def test_when_to_stop_follows_from_the_history():
    options = TrainOptions(epochs=6, patience=3)
    history = [row(1), row(2), *(row(epoch, best=False) for epoch in (3, 4))]
    assert not loop.is_finished([], options)
    assert not loop.is_finished(history, options)
    assert loop.is_finished([*history, row(5, best=False)], options)
    assert loop.is_finished([row(epoch) for epoch in range(1, 7)], options)
    assert loop.best_of(history)["epoch"] == 2
