"""Counts of what images look like, and how far those of two archives are apart."""

import numpy as np
from support.each import each

from brainray.evaluation.appearance import LOWER_ENDS, Appearance


def test_values_fall_into_the_bin_that_begins_at_or_below_them():
    found = Appearance.of({"brightness": [0.0, 0.049, 0.05, 1.0], "longest_side_px": [127, 128, 90_000, float("nan")]})
    figures = found.figures()
    assert figures["brightness"]["images"] == [2, 1, *[0] * 17, 1]
    assert figures["longest_side_px"] == {
        "from": list(LOWER_ENDS["longest_side_px"]),
        "images": [1, 1, 0, 0, 0, 0, 0, 1],
    }
    assert figures["contrast"] is None


def test_parts_add_up():
    values = np.random.default_rng(0).uniform(0, 0.5, 1_000)
    whole = Appearance.of({"contrast": values})
    cut = Appearance.total([Appearance.of({"contrast": values[:300]}), Appearance.of({"contrast": values[300:]})])
    assert cut.figures() == whole.figures()
    assert sum(whole.figures()["contrast"]["images"]) == 1_000


def test_images_of_one_kind_are_alike_and_darker_ones_are_not():
    draw = np.random.default_rng(0)
    known = Appearance.of({"brightness": draw.normal(0.3, 0.1, 5_000)}).figures()
    assert Appearance.of({"brightness": draw.normal(0.3, 0.1, 5_000)}).drift(known)["brightness_psi"] < 0.05
    assert Appearance.of({"brightness": draw.normal(0.1, 0.1, 5_000)}).drift(known)["brightness_psi"] > 0.25


@each("reference", [None, {}, {"brightness": None}, {"brightness": {"from": [0, 1], "images": [1, 2]}}])
def test_nothing_is_said_beside_a_reference_that_is_not_known(reference):
    assert Appearance.of({"brightness": [0.5], "longest_side_px": [300]}).drift(reference) == {}
