"""What the model card says, and what it must not say."""

import re
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from support.each import each

from brainray import storage
from brainray.cli.train import train
from brainray.config import TrainOptions
from brainray.evaluation.review import choose_review
from brainray.training.report import Validation, command_of, model_card, write_training_report

CLASSES = ("glioma", "notumor")


def validation(*, folds=3, rows=60):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, rows)
    right = rng.random(rows) < 0.9
    probs = np.full((rows, 2), 0.1)
    probs[np.arange(rows), np.where(right, labels, 1 - labels)] = 0.9
    return Validation(
        classes=CLASSES,
        probs_NK=probs,
        labels_N=labels,
        fold_N=np.arange(rows) % max(folds, 1),
        review=choose_review(probs.max(1), right, promises=(0.95, 0.7)),
        history=[
            {"epoch": 1, "train_loss": 1.0, "val_loss": None, "val_accuracy": None, "val_balanced_accuracy": None}
        ],
        best_epoch=1,
    )


def provenance(**options):
    counts = dict.fromkeys(CLASSES, 40)
    data = {"images": 80, "pictures": 60, "label_conflicts": 2, "digest": "d" * 32}
    return {
        "options": TrainOptions(**options).to_json(),
        "given": [],
        "versions": {},
        "cost": {"parameters": 1_250_000, "gmac": 0.1236},
        "data": data | {"by_class": counts, "pictures_by_class": counts},
        "seconds": 9.0,
    }


def judged_by_other_folds():
    unseen = {"accepted_unseen": 0.5, "right_unseen": 0.98, "right_unseen_low": 0.95, "right_unseen_high": 0.99}
    return validation().review._replace(**unseen)


CARDS = Path(__file__).parent / "cards"


def card_in_folds():
    begun = provenance(model="lite0", weights="imagenet", folds=3, group_regex="p(.)|q")
    return model_card(replace(validation(), review=judged_by_other_folds()), begun, temperature=1.2)


def card_of_one_split():
    return model_card(validation(folds=0, rows=2400), provenance(), temperature=1.0)


def card_of_which_nothing_is_accepted():
    """Of one class no picture was measured on, and the model goes on from another."""
    few = validation(folds=0, rows=9)
    few = replace(few, labels_N=np.zeros(9, np.int64), review=choose_review(np.ones(9), np.ones(9, bool)))
    options = {"model": "resnet18", "weights": "imagenet", "channels": 3, "epochs": 3, "init": "f" * 32}
    return model_card(few, provenance(**options), temperature=0.8703)


@pytest.mark.parametrize("card", [card_in_folds, card_of_one_split, card_of_which_nothing_is_accepted])
def test_the_card_reads_as_it_is_kept_here(card):
    """But for its options, of which there will be more."""
    text = re.sub(r"^Options: `{.*}`\. V", "Options: `OPTIONS`. V", card(), flags=re.MULTILINE)
    assert text == (CARDS / f"{card.__name__}.md").read_text()


def test_a_bar_in_the_name_of_a_class_ends_no_cell_of_the_card():
    classes, counts = ("a|b", "c"), {"a|b": 40, "c": 40}
    known = provenance()
    known["data"] |= {"by_class": counts, "pictures_by_class": counts}
    card = model_card(replace(validation(), classes=classes), known, temperature=1.0)
    rows = [line for line in card.splitlines() if line.startswith("| a")]
    assert len(rows) == 3 and all(row.startswith("| a\\|b | ") for row in rows)
    assert "|  | a\\|b | c |" in card


def test_with_folds_there_is_a_table_of_them_and_no_word_of_flattery(tmp_path, plots):
    write_training_report(str(tmp_path), validation(), provenance(folds=3), temperature=1.2)
    folder = tmp_path / "training"
    lines = (folder / "folds.csv").read_text().splitlines()
    assert len(lines) == 4 and "recall_glioma" in lines[0]
    card = (folder / "model-card.md").read_text()
    assert "flatter" not in card and "60 pictures" in card and "80 images that show 60 pictures" in card
    assert storage.list_names(str(folder)) == [
        "confusion.parquet",
        "curves.png",
        "folds.csv",
        "history.parquet",
        "model-card.md",
        "reliability.png",
    ]


def test_with_one_split_the_card_says_that_its_figures_flatter():
    card = model_card(validation(folds=0), provenance(), temperature=1.0)
    assert "These figures flatter" in card


def test_the_card_says_what_to_accept_and_who_made_what_it_began_with():
    card = model_card(validation(), provenance(model="lite0", weights="imagenet", folds=3), temperature=1.0)
    assert "Google, Apache-2.0" in card
    assert "brainray train --data DATA --output MODEL --model lite0 --weights imagenet --folds 3" in card
    assert "where its confidence is below 0.9000" in card and "The threshold was chosen on these pictures." in card
    card = model_card(replace(validation(), review=judged_by_other_folds()), provenance(folds=3), temperature=1.0)
    assert "50.0 % are accepted, and 98.00 % of these are right (95.00 % to 99.00 %, 95 %)." in card
    assert "Not a medical device" in card


def test_the_card_names_the_models_whose_knowledge_is_in_this_one():
    """Else nothing but a number among the options would tell that it has learned from more than the images named."""
    assert "--init" not in model_card(validation(), provenance(), temperature=1.0)
    card = model_card(validation(), provenance(init="f" * 32, teacher="e" * 32), temperature=1.0)
    assert f"began with the weights of the model `{'f' * 32}`" in card
    assert f"taught by the fold networks of the model `{'e' * 32}`" in card


def test_the_command_has_each_option_of_train_that_changes_the_model():
    """Copied without `--exclude`, it would learn from the test set."""
    changed = {"model": "lite0", "weights": "imagenet", "init": "f" * 32, "teacher": "f" * 32, "crop": "none"}
    changed |= {"channels": 3, "width": 0.5, "epochs": 3, "batch_size": 8, "lr": 0.1, "augment": 1.0, "patience": 3}
    changed |= {"val_fraction": 0.3, "folds": 3, "group_regex": "x", "seed": 1, "precision": "fp32", "all_series": True}
    told = command_of(TrainOptions(**changed).to_json(), given=["--exclude", "--groups", "--boxes", "--keep-folds"])
    kept = signature(train).parameters.keys() - {"context", "preset", "workers", "as_json", "log_format"}
    assert {name for name in kept if f"--{name.replace('_', '-')}" not in told.split()} == set()


@each("options", [{}, {"epochs": 3, "group_regex": "p(.)", "init": "f" * 32}])
def test_the_command_names_what_is_not_the_default(options):
    told = command_of(TrainOptions(**options).to_json())
    assert told.startswith("brainray train --data DATA --output MODEL")
    assert ("--epochs 3" in told, "--group-regex 'p(.)'" in told, "--init MODEL" in told) == (bool(options),) * 3
