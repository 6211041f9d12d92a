"""What the card and the command line say of the promise: which, by what, how sure, and that there is none."""

from dataclasses import replace

import numpy as np
from support.each import each

from brainray.cli.train import _promise_line
from brainray.config import TrainOptions
from brainray.evaluation.review import calibrate_review
from brainray.training.group_figures import MeasuredGroups
from brainray.training.report import Validation, model_card

CLASSES = ("glioma", "notumor")


def validation(*, patients, wrong=0, grouped=True, folds=4):
    """Ten slices of each patient; the first `wrong` patients are called the other class, with doubt."""
    patient = np.repeat(np.arange(patients), 10)
    labels = patient % 2
    called = np.where(patient < wrong, 1 - labels, labels)
    logits = np.where(patient < wrong, 0.1, 5.0)[:, None] * np.eye(2)[called]
    fold, units = patient % folds, patient if grouped else None
    calibrated = calibrate_review(logits, labels, fold_N=fold, unit_N=units)
    return Validation(
        classes=CLASSES,
        probs_NK=calibrated.probs_NK,
        labels_N=labels,
        fold_N=fold,
        review=calibrated.review,
        groups=MeasuredGroups(name_N=patient.astype(str), unit_N=patient) if grouped else None,
        history=[],
        best_epoch=1,
    )


def card_of(measured):
    counts = dict.fromkeys(CLASSES, 20)
    data = {"images": 80, "pictures": 60, "label_conflicts": 0, "digest": "d", "by_class": counts}
    told = {"by": ["--groups"], "groups": 9, "separate": 9, "images_without": 0, "share_without": 0.0}
    provenance = {
        "options": TrainOptions().to_json(),
        "given": [],
        "versions": {},
        "cost": {"parameters": 1, "gmac": 0.1},
        "data": data | {"pictures_by_class": counts} | ({"groups": told} if measured.groups else {}),
        "seconds": 9.0,
    }
    return model_card(measured, provenance, temperature=1.0)


def test_the_card_prints_a_promise_that_the_lower_end_by_groups_keeps():
    measured = validation(patients=200, wrong=10)
    card = card_of(measured)
    assert "**Promise: at least 98 % of the predictions that are not marked `review` are right, on new groups" in card
    assert "aimed at" not in card
    assert "Of all pictures 95.0 % are accepted, and 100.00 % of these are right." in card
    assert f"by groups keeps the promise: {100 * measured.review.right_low:.2f} %." in card
    assert "are stricter, 95.0 % are accepted, and 100.00 % of these are right (98.02 % to 100.00 %, 95 %)" in card
    ends = measured.figures()["intervals"]["ece"]
    assert f"({ends['low']:.4f} to {ends['high']:.4f}; 15 equal bins" in card
    assert "200 units" in card


def test_of_fewer_groups_less_is_promised_and_the_card_says_why():
    card = card_of(validation(patients=80, wrong=4))
    assert "at least 95 % of the predictions" in card
    assert (
        "98 %, which is aimed at, cannot be promised for half of them from 800 pictures of 80 groups or single pictures"
        in card
    )


def test_by_pictures_the_promise_is_greater_and_the_card_warns():
    card = card_of(validation(patients=80, wrong=4, grouped=False))
    assert "at least 98 % of the predictions" in card and "on new pictures like these" in card
    assert "On new patients fewer may be right." in card


def test_of_too_few_groups_nothing_is_promised_and_everything_is_for_review():
    measured = validation(patients=12)
    assert "**No promise.** At no confidence can even 90 % right ones be promised" in card_of(measured)
    assert (measured.probs_NK.max(axis=1) < measured.review.below).all()
    assert measured.figures()["review"]["promise"] is None


def test_what_the_other_folds_cannot_promise_is_said():
    measured = validation(patients=140, folds=2)
    assert (measured.review.promise, measured.review.accepted_unseen) == (0.98, 0.0)
    assert "cannot promise that, no prediction is accepted." in card_of(measured)
    unknown = replace(measured, review=measured.review._replace(accepted_unseen=None))
    assert "The threshold was chosen on these pictures." in card_of(unknown)


@each(
    ("review", "line"),
    [
        ({}, ""),
        ({"below": 0.97, "accepted": 0.8, "right": 0.99}, ""),
        ({"promise": None, "accepted": 0.0}, "every prediction will be marked for review\n"),
        (
            {"promise": 0.95, "accepted": 0.834},
            "95% or more of the predictions not marked for review, 83.4% of the pictures, are right\n",
        ),
    ],
)
def test_the_command_line_says_it_but_not_of_models_of_earlier_versions(review, line):
    assert _promise_line(review).endswith(line) and bool(_promise_line(review)) == bool(line)
