"""The rule by which the slices of a series become what is said of it."""

import numpy as np
import pytest
from support.each import each

from brainray.evaluation.series import NOTHING, SeriesRule, judge

RULE = SeriesRule(neighbours=3, suspicion=0.8, least=5)
GLIOMA, MENINGIOMA, NONE = range(3)
SLICES = {
    ".": (0.02, 0.03, 0.95),
    "g": (0.9, 0.05, 0.05),
    "m": (0.05, 0.9, 0.05),
    "?": (0.4, 0.2, 0.4 - 1e-9),  # says glioma, and is suspicious to 0.6
}


def said(*series: str, sure: bool = True, negative: int | None = NONE, rule: SeriesRule = RULE):
    places = np.array([place for place, text in enumerate(series) for _ in text], np.int64)
    probs = np.array([SLICES[sign] for text in series for sign in text], np.float64).reshape(-1, 3)
    flags = np.full(len(places), sure)
    return judge(places, probs, flags, series=len(series), negative=negative, rule=rule)


@each(
    ("slices", "predicted"),
    [
        ("..ggg...", GLIOMA),
        ("ggg.....", GLIOMA),
        (".....mmm", MENINGIOMA),
        ("ggg", GLIOMA),
        ("..mmgmm.", MENINGIOMA),
        ("..gg.gg.", NONE),
        ("g.g.g.g.", NONE),
        ("..???...", NONE),
        ("........", NONE),
        ("....", NOTHING),
        ("gg", NOTHING),
    ],
)
def test_a_tumour_is_said_of_neighbouring_slices_only_and_none_only_of_enough(slices, predicted):
    assert said(slices).predicted_S.tolist() == [predicted]


def test_no_slice_counts_for_the_series_beside_it():
    found = said(".....gg", "g......")
    assert found.predicted_S.tolist() == [NONE, NONE]
    assert found.suspicion_S == pytest.approx([(0.05 + 0.95 + 0.95) / 3, (0.95 + 0.05 + 0.05) / 3])


@each(
    ("slices", "review"),
    [
        ("..ggg...", False),
        ("..gmg...", False),
        ("..ggmm..", True),
        ("...g....", True),
        ("..???...", True),
        ("........", False),
    ],
)
def test_a_person_looks_where_slices_disagree(slices, review):
    assert said(slices).review_S.tolist() == [review]


def test_one_unsure_slice_is_none_for_a_person():
    assert said("...g....", sure=False).review_S.tolist() == [False]


def test_a_finding_of_which_no_slice_is_sure_is_for_review():
    assert said("..ggg...", sure=False).review_S.tolist() == [True]


def test_it_tells_which_slice_to_look_at_and_how_sure_it_is():
    found = said("........", "", "..ggg...")
    assert found.place_S.tolist() == [0, -1, 10]
    assert found.confidence_S[2] == pytest.approx(0.9)
    assert found.found_S.tolist() == [0, 0, 3]
    assert np.isnan(found.confidence_S[1])
    assert np.isnan(found.suspicion_S[1])


def test_without_a_class_for_nothing_found_the_mean_decides():
    found = said("ggm", "mmmmmg", "g", negative=None)
    assert found.predicted_S.tolist() == [GLIOMA, MENINGIOMA, NOTHING]
    assert found.review_S.tolist() == [False, False, False]
    assert said("ggmm.", negative=None).review_S.tolist() == [True]


def test_no_slices_at_all_are_no_error():
    found = said("")
    assert found.predicted_S.tolist() == [NOTHING]
    assert found.place_S.tolist() == [-1]
