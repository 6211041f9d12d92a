import json
from dataclasses import replace

import pytest

from brainray import storage
from brainray.cli import tune
from brainray.cli.app import run
from brainray.commands import tune as tune_job
from brainray.config import TrainOptions
from brainray.errors import BadRequest
from brainray.training import search
from brainray.training.search import Space, Trial
from brainray.training.state import TrainRequest

SPACE = Space(lr=(1e-3, 1e-2), width=(0.5, 1.0), image_px=(96, 128), augment=(0.25, 0.5))
BASE = TrainOptions(epochs=5, image_px=96)


def ended(number, *, recall, loss=0.5, gmac=1.0):
    row = {"epoch": 1, "val_balanced_accuracy": recall, "val_loss": loss, "val_accuracy": recall, "seconds": 1.0}
    options = SPACE.draw(BASE, number)
    return Trial(number=number, options=options, history=(row,), ended=True, gmac=gmac)


def test_trials_are_drawn_from_what_was_asked_for_and_the_same_ones_again():
    drawn = [SPACE.draw(BASE, number) for number in range(40)]
    assert drawn[0] == BASE, "what `train` does without a search is the one to beat"
    assert drawn == [SPACE.draw(BASE, number) for number in range(40)]
    assert {options.width for options in drawn} == {0.5, 1.0}
    assert {options.image_px for options in drawn} == {96, 128}
    assert all(1e-3 <= options.lr <= 1e-2 for options in drawn[1:])
    assert drawn[1:] != [SPACE.draw(replace(BASE, seed=1), number) for number in range(1, 40)]


def test_the_best_comes_first_and_of_equals_the_cheaper_one():
    trials = [ended(0, recall=0.8), ended(1, recall=0.9, gmac=2.0), ended(2, recall=0.9), Trial(number=3, options=BASE)]
    assert [trial.number for trial in search.ranked(trials)] == [2, 1, 0]
    lines = search.table_csv(trials).decode().splitlines()
    assert len(lines) == 5 and lines[0].startswith("trial,lr,width,image_px,augment,epochs,accuracy,mean_recall,loss")
    assert lines[4].startswith("3,0.003,1.0,96,0.5,0,,,")


def test_a_trial_that_failed_is_not_recommended_however_good_its_first_epochs_were():
    trials = [replace(ended(0, recall=0.9), failure="training has diverged in epoch 2"), ended(1, recall=0.7)]
    assert [trial.number for trial in search.ranked(trials)] == [1]
    assert "diverged" in search.table_csv(trials).decode()


def test_a_trial_that_has_ended_is_known_again_and_one_that_has_not_begins_anew(tmp_path):
    writer = storage.Writer()
    options = [SPACE.draw(BASE, number) for number in range(3)]
    cut_short, failed = replace(ended(1, recall=0.7), ended=False), replace(ended(2, recall=0.7), failure="died")
    for trial in (ended(0, recall=0.7), cut_short, failed):
        writer.write_json(search.trial_uri(str(tmp_path), trial.number), trial.to_json())
    found = search.read_trials(str(tmp_path), options)
    assert [trial.ended for trial in found] == [True, False, False]
    assert found[0] == ended(0, recall=0.7)
    assert found[1].history == ()


def test_an_output_is_one_search(tmp_path):
    writer, request = storage.Writer(), TrainRequest(described={"images": "x"})
    search.begin_search(str(tmp_path), request, SPACE, writer)
    search.begin_search(str(tmp_path), request, SPACE, writer)
    with pytest.raises(BadRequest, match="holds the search of another command or of other images"):
        search.begin_search(str(tmp_path), TrainRequest(described={"images": "y"}), SPACE, writer)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(BadRequest, match="not empty and holds no search"):
        search.begin_search(str(tmp_path / "other"), request, SPACE, writer)


@pytest.mark.parametrize(
    ("option", "text", "complaint"),
    [
        ("--lr", "0.1,0.001", r"--lr is 0.1,0.001; give two rates above 0, the lower one first"),
        ("--lr", "0.1,inf", r"--lr is 0.1,inf; give two rates above 0, the lower one first"),
        ("--lr", "0.1", r"--lr is '0.1'; give the lowest and the highest"),
        ("--width", "1;2", r"--width is '1;2'; give numbers with commas between them"),
        ("--image-px", "96,4", r"--image-px is 4"),
        ("--trials", "0", r"--trials is 0; it must be 1 or more"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path, archive, capsys, option, text, complaint
):
    root, output = archive(images=2, classes=("a", "b")), tmp_path / "found"
    assert run(["tune", "--data", str(root), "--output", str(output), option, text]) == 2
    assert complaint in capsys.readouterr().err
    assert not output.exists()


def test_the_command_of_a_trial_names_what_it_varied():
    assert search.command_for(ended(1, recall=1)).startswith("brainray train --data DATA --output MODEL ")
    assert f"--lr {SPACE.draw(BASE, 1).lr}" in search.command_for(ended(1, recall=1))


def test_the_command_that_a_search_prints_excludes_what_the_search_excluded(monkeypatch, capsys, tmp_path):
    """Copied without `--exclude`, it would learn from the test set."""
    monkeypatch.setattr(tune_job, "tune", lambda request, say: [ended(0, recall=1)])
    given = ["--data", "scans", "--output", str(tmp_path / "found"), "--exclude", "test", "--groups", "patients.csv"]
    assert run(["tune", *given]) == 0
    assert "--output MODEL --exclude EXCLUDE --groups GROUPS " in capsys.readouterr().out


def test_trials_are_json(tmp_path):
    assert Trial.from_json(json.loads(json.dumps(ended(4, recall=0.5).to_json()))) == ended(4, recall=0.5)
    assert tune._middle((1, 2, 3, 4)) == 2
