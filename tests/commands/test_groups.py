"""`--groups` through the commands, with no Ray: stand-ins train, search and read."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from support.training.fitting import write_checkpoints

from brainray import storage
from brainray.cli.app import run
from brainray.commands import train as train_job
from brainray.commands import tune as tune_job
from brainray.config import TrainOptions
from brainray.errors import BadRequest
from brainray.training import state
from brainray.training.dataset import describe_data, select_images
from brainray.training.search import Trial


@pytest.fixture
def data(archive):
    return archive("data", images=8, classes=("a", "b"))


@pytest.fixture
def groups(tmp_path):
    """Pairs of images of each class: a0, a1, … and of the first class only."""
    path = tmp_path / "groups.csv"
    path.write_text("image,patient\n" + "".join(f"a/{i}.jpg,a{i // 2}\nb/{i}.jpg,\n" for i in range(8)))
    return path


def fit_here(job, parts, begun, writer):
    """Writes a checkpoint for each part as workers would, that is right about class b only."""
    count = len(job.training_set.table)
    every = np.arange(count)
    selected = select_images(
        job.training_set,
        every,
        every.astype(str),
        np.full(count, ""),
        excluded=np.zeros(count, bool),
        options=job.options,
    )
    data = describe_data(selected, job.model.classes)
    train_job._begin(job, begun, data, writer)
    state.write_groups(job.output, selected, writer=writer)
    write_checkpoints(job, parts, selected, data, writer)


def train(data, output, *options):
    small = ["--epochs", "1", "--image-px", "32", "--width", "0.25"]
    return run(["train", "--data", str(data), "--output", str(output), *small, *options])


def test_a_trained_bundle_tells_its_groups(data, groups, tmp_path, monkeypatch, capfd):
    """Also where the training was killed after its last epoch."""
    monkeypatch.setattr(train_job, "_fit", fit_here)
    given = (data, tmp_path / "model", "--folds", "2", "--groups", str(groups))
    with monkeypatch.context() as patch:
        patch.setattr(train_job, "_write", lambda *_, **__: 1 / 0)
        assert train(*given) == 1
    assert train(*given) == 0
    said = capfd.readouterr()
    assert "--groups: 8 row(s) have no group" in said.err and ", by groups) on 16 pictures" in said.out
    card = (tmp_path / "model" / "training" / "model-card.md").read_text()
    assert "4 groups, such as patients, are given by `--groups`; 8 images (50.0 %) have none." in card
    rows = list(csv.DictReader((tmp_path / "model" / "training" / "groups.csv").open()))
    assert [(row["group"], row["pictures"], row["right"], row["errors"]) for row in rows] == [
        (f"a{i}", "2", "0", "2 a as b") for i in range(4)
    ]
    assert train(*given) == 0, "trained already"
    assert train(*given[:-2]) == 2, "without groups it is another request"


def test_an_unfinished_training_goes_on_only_with_the_groups_it_began_with(data, groups, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(train_job, "_fit", fit_here)
    monkeypatch.setattr(train_job, "_write", lambda *_, **__: 1 / 0)
    assert train(data, tmp_path / "model", "--groups", str(groups)) == 1
    groups.write_text(groups.read_text().replace("a/1.jpg,a0", "a/1.jpg,a1"))
    capfd.readouterr()
    assert train(data, tmp_path / "model", "--groups", str(groups)) == 2
    assert "an unfinished training of another request: other --groups; run that one again" in capfd.readouterr().err


def test_a_training_by_regex_of_an_earlier_version_is_not_divided_anew(data, tmp_path):
    job = train_job.list_images(
        str(data), output=str(tmp_path), exclude=None, options=TrainOptions(group_regex=r"./\d"), say=print
    )
    begun = state.Progress(states=(SimpleNamespace(data={"images": 16}),))
    with pytest.raises(BadRequest, match="an earlier version of brainray, which divided groups otherwise; delete"):
        train_job._begin(job, begun, {"images": 16, "groups": {}}, storage.UNLEASED)


@pytest.mark.parametrize("command", ["train", "tune", "audit"])
def test_rows_that_fit_no_image_are_refused_before_ray_is_started(command, data, groups, tmp_path, capfd):
    groups.write_text(groups.read_text().replace("a/1.jpg", "a/one.jpg"))
    output = tmp_path / "output"
    assert run([command, "--data", str(data), "--output", str(output), "--groups", str(groups)]) == 2
    said = capfd.readouterr().err
    assert said.count("brainray: --groups") == 1 and "name images that are not in the input: 'a/one.jpg'" in said
    assert not output.exists()


def test_a_search_divides_by_groups_and_names_them_in_its_command(data, groups, tmp_path, monkeypatch, capfd):
    seen = []

    def search(job, trials, waiting, writer, *, on_end):
        seen.append(job.training_set.table["group"].to_pylist())
        row = {"epoch": 1, "val_balanced_accuracy": 0.5, "val_accuracy": 0.5, "val_loss": 1.0, "seconds": 1.0}
        for trial in waiting:
            on_end(Trial(number=trial.number, options=trial.options, history=(row,), ended=True))

    monkeypatch.setattr(tune_job, "_run_with_ray", search)
    given = ["tune", "--data", str(data), "--output", str(tmp_path / "search"), "--trials", "1"]
    assert run([*given, "--groups", str(groups)]) == 0
    assert seen == [[f"a{i // 2}" for i in range(8)] + [None] * 8]
    assert "brainray train --data DATA --output MODEL --groups GROUPS" in capfd.readouterr().out
    assert run(given) == 2, "without groups it is another search"
    assert "holds the search of another command or of other images" in capfd.readouterr().err
