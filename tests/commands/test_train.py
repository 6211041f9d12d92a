"""What the command does around the training, with no Ray: a stand-in trains."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from support.models.bundles import untrained

from brainray import storage
from brainray.commands import train as train_job
from brainray.commands.training_setup import list_images
from brainray.config import TrainOptions
from brainray.errors import BadRequest, OutputHeld
from brainray.models.bundle import kept_folds, load_bundle, load_fold
from brainray.models.networks import build_model
from brainray.training import checkpoint, state
from brainray.training.checkpoint import Checkpoint
from brainray.training.state import Progress, WorkFolder, epoch_line

OPTIONS = TrainOptions(image_px=32, width=0.25, epochs=3)
DATA = {
    "digest": "0" * 32,
    "images": 8,
    "pictures": 8,
    "label_conflicts": 0,
    "train_images": 4,
    "validation_images": 4,
    "by_class": {"glioma": 2, "meningioma": 2, "notumor": 2, "pituitary": 2},
    "pictures_by_class": {"glioma": 2, "meningioma": 2, "notumor": 2, "pituitary": 2},
}


def checkpoint_after(epochs, model_spec):
    torch.manual_seed(0)
    weights = build_model(model_spec).state_dict()
    figures = {"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 1.0, "val_balanced_accuracy": 1.0, "val_images": 4}
    rates = {"lr": 1e-3, "images_per_s": 10.0, "seconds": 100.0}
    return Checkpoint(
        model=weights,
        average=weights,
        moments={},
        history=[{"epoch": epoch, **figures, **rates, "best": epoch == 1} for epoch in range(1, epochs + 1)],
        best=weights,
        logits_NK=torch.eye(4) * 3,
        labels_N=torch.arange(4),
        data=DATA,
    )


class Trainer:
    """Stands in for what needs Ray: each part from the checkpoint it has to the last epoch, or to its death."""

    def __init__(self):
        self.began_after = []  # of each part that was trained
        self.dies_after = None  # epochs of the first part that is trained

    def __call__(self, job, parts, begun, writer):
        if begun.data is None:
            state.begin_training(job.output, job.request, writer=writer)
        for part, saved in zip(parts, begun.states, strict=True):
            if saved and saved.epoch == job.options.epochs:
                continue
            self.began_after.append(saved.epoch if saved else 0)
            epochs = self.dies_after or job.options.epochs
            writer.write_bytes(part.work.checkpoint, checkpoint.to_bytes(checkpoint_after(epochs, job.model)))
            if self.dies_after:
                killed()


@pytest.fixture
def trainer(monkeypatch):
    stand_in = Trainer()
    monkeypatch.setattr(train_job, "_fit", stand_in)
    return stand_in


@pytest.fixture
def command(archive, tmp_path):
    """Run the command; gives the bundle and what was said."""
    data, output = archive("data", images=2), tmp_path / "model"

    def train(*, init=None, keep_folds=False, exclude=None, **changes):
        said = []
        options = TrainOptions(**{**OPTIONS.to_json(), **changes})
        bundle = train_job.train(
            str(data),
            output=str(output),
            exclude=exclude,
            options=options,
            init=init,
            keep_folds=keep_folds,
            say=said.append,
        )
        return bundle, said

    train.data, train.output = str(data), str(output)
    train.work = WorkFolder.of(str(output))
    return train


def killed(*_, **__):
    raise SystemError("killed")


def kill_in(monkeypatch, command, name):
    with monkeypatch.context() as patch:
        patch.setattr(train_job, name, killed)
        with pytest.raises(SystemError):
            command()


def test_a_training_leaves_a_bundle_and_nothing_of_its_own(command, trainer, plots):
    bundle, said = command()
    assert trainer.began_after == [0]
    assert not any("going on" in line for line in said)
    assert storage.list_names(command.output) == ["bundle.json", "model.safetensors", "training"]
    assert not storage.exists(command.work.uri)
    assert len(bundle.provenance["request"]) == 32


def test_the_same_command_goes_on_after_the_last_epoch_and_says_so(command, trainer):
    trainer.dies_after = 2
    with pytest.raises(SystemError):
        command()
    trainer.dies_after = None
    bundle, said = command()
    assert trainer.began_after == [0, 2]
    assert "going on after epoch 2 of 3" in said
    assert bundle.provenance["seconds"] >= 200  # of the two epochs of the command before


@pytest.mark.parametrize("where", ["_write", "write_training_report", "save_bundle"])
def test_killed_after_the_last_epoch_it_is_finished_without_training(command, trainer, monkeypatch, where):
    kill_in(monkeypatch, command, where)
    bundle, said = command()
    assert trainer.began_after == [0]
    assert "going on after epoch 3 of 3" in said
    assert not storage.exists(command.work.uri)
    assert bundle.metrics["best_epoch"] == 1


def test_killed_between_the_bundles_two_files_it_is_finished(command, trainer, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(storage.Writer, "write_json", failing_for("bundle.json", storage.Writer.write_json))
        with pytest.raises(SystemError):
            command()
    assert storage.exists(f"{command.output}/model.safetensors")
    assert command()[0] == load_bundle(command.output)
    assert trainer.began_after == [0]


def failing_for(name, write):
    def fail(self, uri, value):
        if uri.endswith(name):
            raise SystemError("killed")
        write(self, uri, value)

    return fail


def test_a_damaged_checkpoint_is_told_and_training_begins_again(command, trainer):
    trainer.dies_after = 2
    with pytest.raises(SystemError):
        command()
    content = storage.read_bytes(command.work.checkpoint)
    storage.write_bytes(command.work.checkpoint, content[:-1])
    trainer.dies_after = None
    _, said = command()
    assert trainer.began_after == [0, 0]
    assert any("cannot be used (it is damaged); beginning again with epoch 1" in line for line in said)


def test_what_another_version_left_is_not_gone_on_with(command, trainer):
    storage.write_bytes(command.work.checkpoint, b"what it once meant")
    command()
    assert trainer.began_after == [0]


def test_the_model_of_another_request_is_left_alone(command, trainer):
    first, _ = command()
    with pytest.raises(BadRequest, match="holds a model already"):
        command(seed=1)
    assert load_bundle(command.output) == first


def test_a_trained_model_is_found_and_left_overs_go(command, trainer):
    first, _ = command()
    storage.write_json(command.work.request, {})
    again, said = command(workers=2)
    assert again == first
    assert said[-1].startswith("already trained")
    assert trainer.began_after == [0]
    assert not storage.exists(command.work.uri)


def test_a_trained_model_is_found_without_torch_and_ray(command, trainer, tmp_path):
    command()
    script = (
        "import sys; from brainray.cli.app import run\n"
        f"code = run(['train', '--data', {str(tmp_path / 'data')!r}, '--output', {command.output!r},"
        " '--image-px', '32', '--width', '0.25', '--epochs', '3'])\n"
        "print(code, sorted({'ray', 'torch'} & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "already trained" in done.stderr
    assert "Traceback" not in done.stderr


def test_images_that_could_not_be_read_before_are_not_mixed_in(command, trainer):
    job = list_images(command.data, output=command.output, exclude=None, options=OPTIONS, say=print)
    begun = Progress(states=(checkpoint_after(2, job.model),))
    with pytest.raises(BadRequest, match=r"9 images could be read, and when this training began 8"):
        train_job._begin(job, begun, DATA | {"images": 9}, storage.Writer())
    train_job._begin(job, begun, dict(DATA), storage.Writer())


def test_images_that_are_divided_otherwise_are_not_measured_on_after_they_were_learned_from(command, trainer):
    """As after an update of scikit-learn; trainings of earlier versions, which do not tell the division, go on."""
    job = list_images(command.data, output=command.output, exclude=None, options=OPTIONS, say=print)
    before = replace(checkpoint_after(2, job.model), data=DATA | {"division": "a"})
    with pytest.raises(BadRequest, match="other versions of libraries divide them otherwise"):
        train_job._begin(job, Progress(states=(before,)), DATA | {"division": "b"}, storage.Writer())
    for data in (DATA, DATA | {"division": "b"}):
        earlier = replace(before, data=data)
        train_job._begin(job, Progress(states=(earlier,)), DATA | {"division": "b"}, storage.Writer())


def test_an_output_that_somebody_trains_into_is_refused_before_anything_is_listed(command, trainer):
    from brainray.storage import lease

    with lease.hold(command.output, purpose="train", say=print), pytest.raises(OutputHeld, match=str(os.getpid())):
        command()


def test_with_folds_what_is_finished_is_not_done_again_and_all_pictures_are_measured_on(command, trainer):
    trainer.dies_after = 2
    with pytest.raises(SystemError):
        command(folds=3)
    trainer.dies_after = None
    bundle, said = command(folds=3)
    assert trainer.began_after == [0, 2, 0, 0, 0]
    assert "going on after fold 1 of 3, epoch 2 of 3" in said
    assert bundle.metrics["images"] == 3 * 4
    assert bundle.metrics["split"].startswith("3 folds")
    assert "folds.csv" in storage.list_names(f"{command.output}/training")
    assert not storage.exists(command.work.uri)


def test_what_training_begins_with_is_part_of_the_request(command, trainer, tmp_path):
    """Else another model's training would be gone on with."""
    first, other = (untrained(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "other")))
    trainer.dies_after = 2
    with pytest.raises(SystemError):
        command(init=first)
    trainer.dies_after = None
    with pytest.raises(BadRequest, match=f"--init was {first.fingerprint} and is {other.fingerprint}"):
        command(init=other)
    bundle, _ = command(init=first)
    assert bundle.provenance["options"]["init"] == first.fingerprint


def test_an_epoch_that_nothing_was_measured_on_has_its_line():
    row = {"epoch": 2, "train_loss": 0.5, "images_per_s": 1234.0, "seconds": 3.0, "best": True}
    row |= dict.fromkeys(("val_loss", "val_accuracy", "val_balanced_accuracy")) | {"val_images": 0}
    assert epoch_line(row, 9) == "epoch   2/9  loss 0.500  1,234 images/s, 3 s"


def test_networks_of_folds_are_kept_where_they_are_to_teach(command, trainer):
    bundle, _ = command(folds=3, keep_folds=True)
    assert storage.list_names(f"{command.output}/training/folds") == [f"{n}.safetensors" for n in (1, 2, 3)]
    assert kept_folds(bundle) == 3
    assert load_fold(bundle, 1).training is False


def test_the_command_on_the_card_excludes_what_was_excluded_and_keeps_the_folds(command, trainer, archive):
    command(folds=3, keep_folds=True, exclude=str(archive("test", images=1)))
    with open(f"{command.output}/training/model-card.md") as card:
        told = next(line for line in card if line.startswith("brainray train"))
    assert "--exclude EXCLUDE --keep-folds" in told


def test_folds_that_cannot_be_kept_any_more_are_not_promised(command, trainer):
    with pytest.raises(BadRequest, match="--keep-folds: there are no folds; give --folds 5"):
        command(keep_folds=True)
    command(folds=2)
    with pytest.raises(BadRequest, match="was trained without --keep-folds; give a new folder"):
        command(folds=2, keep_folds=True)
