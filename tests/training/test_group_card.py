"""What a card says with groups and without: how many there are, which are wrong, and whose interval it is."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainray.config import TrainOptions
from brainray.evaluation.metrics import wilson
from brainray.evaluation.review import choose_review
from brainray.training.group_figures import MeasuredGroups, group_rows
from brainray.training.report import Validation, model_card, write_training_report

CLASSES = ("glioma", "meningioma", "notumor")
NAMES = ["p1"] * 18 + ["p2"] * 12 + ["p3|x"] * 1 + ["p4"] * 9 + [""] * 20
LABELS = np.array([1] * 18 + [1] * 12 + [0] * 1 + [0] * 9 + [2] * 20)
UNITS = np.array([0] * 18 + [1] * 12 + [2] * 10 + list(range(3, 23)))  # p3 and p4 share a picture
PREDICTED = LABELS.copy()
PREDICTED[:18] = [0] * 17 + [2]  # all of p1
PREDICTED[[20, 30, 59]] = [0, 1, 0]  # one of p2, the only one of p3, one of none


def validation(*, groups=None, folds=3):
    probs = np.full((60, 3), 0.05)
    probs[np.arange(60), PREDICTED] = 0.9
    return Validation(
        classes=CLASSES,
        probs_NK=probs,
        labels_N=LABELS,
        fold_N=np.arange(60) % max(folds, 1),
        review=choose_review(probs.max(1), PREDICTED == LABELS, groups.unit_N if groups else None),
        groups=groups,
        history=[
            dict.fromkeys(("val_loss", "val_accuracy", "val_balanced_accuracy")) | {"epoch": 1, "train_loss": 1.0}
        ],
        best_epoch=1,
    )


GROUPS = MeasuredGroups(name_N=np.array(NAMES), unit_N=UNITS)


def provenance(*, grouped, **options):
    counts = dict.fromkeys(CLASSES, 20)
    data = {"images": 80, "pictures": 60, "label_conflicts": 0, "digest": "d" * 32}
    told = {"by": ["--groups"], "groups": 1204, "separate": 1203, "images_without": 26, "share_without": 0.325}
    return {
        "options": TrainOptions(folds=3, **options).to_json(),
        "given": ["--groups"] if grouped else [],
        "versions": {},
        "cost": {"parameters": 1, "gmac": 0.1},
        "data": data | {"by_class": counts, "pictures_by_class": counts} | ({"groups": told} if grouped else {}),
        "seconds": 9.0,
    }


def test_the_card_counts_the_groups_and_lists_the_worst():
    card = model_card(validation(groups=GROUPS), provenance(grouped=True), temperature=1.0)
    assert "1,204 groups, such as patients, are given by `--groups`; 26 images (32.5 %) have none." in card
    assert "Some groups share pictures, and stay together: 1,203 are left to divide." in card
    assert "no copy of it and no image of the same group" in card
    assert "2,000 draws of 23 units" in card and "60 pictures of 4 groups and of none" in card
    assert "Among the images without a group, slices of one patient may lie on both sides." in card
    worst = [line for line in card.splitlines() if line.startswith("| p")]
    assert worst == [
        "| p1 | 18 | 0 | 17 meningioma as glioma; 1 meningioma as notumor |",
        "| p3\\|x | 1 | 0 | 1 glioma as meningioma |",
        "| p2 | 12 | 11 | 1 meningioma as glioma |",
    ]
    assert "brainray train --data DATA --output MODEL --groups GROUPS --folds 3" in card
    assert "No groups" not in card and "by picture" not in card


def test_without_groups_the_card_says_so_and_that_its_figures_may_flatter():
    card = model_card(validation(), provenance(grouped=False), temperature=1.0)
    assert "**No groups.** Nothing tells which images are of one patient" in card
    assert "Intervals are by picture" in card
    assert "worst groups" not in card and "--groups" not in card


def test_where_every_group_is_right_the_card_says_that():
    right = replace(validation(groups=GROUPS), labels_N=PREDICTED)
    assert "Every picture of a group is right." in model_card(right, provenance(grouped=True), temperature=1.0)


def test_intervals_are_by_group_and_wider_than_by_picture():
    by_picture, by_group = validation().figures()["accuracy"], validation(groups=GROUPS).figures()["accuracy"]
    assert by_picture["value"] == by_group["value"] == 39 / 60
    assert (by_picture["low"], by_picture["high"]) == tuple(map(float, wilson(39, 60)))
    assert by_group["high"] - by_group["low"] > 1.3 * (by_picture["high"] - by_picture["low"])
    assert validation(groups=GROUPS).figures()["resampled"] == {"groups": 4, "units": 23}
    meningioma = validation(groups=GROUPS).per_class()[1]
    assert (meningioma["recall_low"], meningioma["recall_high"]) == pytest.approx((0, 11 / 12))


def test_the_bundle_has_a_table_of_all_groups(tmp_path):
    write_training_report(str(tmp_path), validation(groups=GROUPS), provenance(grouped=True), temperature=1.0)
    rows = list(csv.DictReader((tmp_path / "training" / "groups.csv").open()))
    assert [row["group"] for row in rows] == ["p1", "p3|x", "p2", "p4"]
    assert rows[2] | {"accuracy": None} == {
        "group": "p2",
        "classes": "meningioma",
        "pictures": "12",
        "right": "11",
        "accuracy": None,
        "errors": "1 meningioma as glioma",
    }


def test_without_groups_there_is_no_such_table(tmp_path):
    write_training_report(str(tmp_path), validation(), provenance(grouped=False), temperature=1.0)
    assert not (tmp_path / "training" / "groups.csv").exists()


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 2)), max_size=60))
def test_every_picture_of_a_group_counts_once(rows):
    names = np.array([f"p{group}" if group else "" for group, _, _ in rows], np.str_)
    labels, predicted = (np.array([row[place] for row in rows], np.int64) for place in (1, 2))
    groups = MeasuredGroups(name_N=names, unit_N=np.arange(len(rows)))
    made = group_rows(groups, labels, predicted, CLASSES)
    assert sum(row["pictures"] for row in made) == (names != "").sum()
    assert sum(row["right"] for row in made) == (labels == predicted)[names != ""].sum()
    assert {row["group"] for row in made} == set(names) - {""} == set(groups.names)
