"""What can be said of an archive without labels: whether a model knows it, how common classes are, how accurate it is.

Figures are withheld, with the reason, where nothing vouches for them: `tests/bench/territory_coverage.py` measures how
often intervals hold the truth where they are given. Axes are those of `shift`. Must not read files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from . import label_shift
from .counts import Ints, Reals
from .metrics import IntervalEstimate
from .shift import CONTRADICTED, FEWEST, MOST, Comparison, Contradiction, Kind, Pictures, ShiftTest, kind_of, one_thread
from .stratified import clopper_pearson

# Pictures of a reference. With fewer, features of others are too far from those that distances are fitted to: with 300
# one drawn archive in twelve was called different that was not.
LEAST_REFERENCE = 500
# Equal groups of each class that a reference must be worth. Of fewer, resampling groups gives intervals that are too
# narrow (Cameron, Gelbach and Miller, Review of Economics and Statistics 90, 2008).
LEAST_GROUPS = 30
LEAST_SEPARATION = 0.2  # see `label_shift.separation`; below it, calibration errors become ten times as large ones
WIDEST = 0.025  # half of an interval of a share: wider ones say too little
OTHER_MIX = 0.05  # between a share in the reference and the nearer end of its interval in the archive
_USUAL_STRANGERS = 0.02  # share of images of other patients that are far from the reference, as 1 % of its own are
ESTIMATED = 5_000  # images whose probabilities shares and accuracy are estimated from
PATIENTS = 20  # groups of an archive, from which they count as such of patients; fewer may be sites or scanners


def territory(
    reference: tuple[Pictures, Ints] | None,
    archive: Pictures,
    *,
    features: int,
    classes: Sequence[str],
    patient_count: int | None = None,
) -> dict[str, Any]:
    """The figures, for JSON.

    `reference` are pictures that the model had not learned from, and their classes. `archive` are images in random
    order, of which the first `features` have features (the others may have any). `patient_count`: how many patients
    its groups are known to be, without those of images that belong to nobody known; intervals then allow for how few
    they are, also below `PATIENTS`.
    """
    classes = tuple(classes)
    found: dict[str, Any] = {
        "images": min(features, MOST),
        "reference_pictures": None if reference is None else len(reference[1]),
        "kind": None,
        "reason": _why_untested(reference, features, classes),
        "strangers": None,
        "beyond": None,
        "contradiction": None,
        "patients": None,
        "tests": [],
        "tests_at_mix": [],
        "counted": _counted(archive, classes),
        "prevalence": None,
        "accuracy": None,
        "withheld": None,
    }
    if reference is None or found["reason"] is not None:
        return found | {"withheld": found["reason"]}
    with one_thread():
        return found | _compared(reference, archive, features, classes, patient_count=patient_count)


def _compared(
    reference: tuple[Pictures, Ints],
    archive: Pictures,
    features: int,
    classes: tuple[str, ...],
    *,
    patient_count: int | None,
) -> dict[str, Any]:
    """The figures that need a reference."""
    known = label_shift.Rows(reference[0].probs_NK, reference[0].group_N, reference[1])
    archive = archive if patient_count is not None else archive._replace(group_N=patients(archive.group_N))
    other = label_shift.Rows(archive.probs_NK, archive.group_N, np.zeros(0, np.int64))
    comparison = Comparison(*reference, archive.at(np.arange(features)), classes)
    shares_K = np.bincount(reference[1], minlength=len(classes)) / len(reference[1])
    own = comparison.tests(shares_K)
    mix_K = label_shift.shares_of(known, other)
    mixed, contradiction = comparison.tests(mix_K), comparison.contradiction(mix_K)
    beyond = _beyond(comparison)
    # Of fewer groups halves say too little of what is usual: 6 % of archives of real pictures were contradicted.
    has_groups = label_shift.fewest_groups(known)[1] >= LEAST_GROUPS
    is_contradicted = has_groups and contradiction.effect >= CONTRADICTED
    kind = kind_of(own, mixed, others=beyond.low, is_contradicted=is_contradicted)
    found: dict[str, Any] = {
        "kind": kind,
        "strangers": comparison.strangers,
        "beyond": _interval(beyond),
        "contradiction": asdict(contradiction) | {"effect": contradiction.effect, "different": is_contradicted},
        "tests": [_test(each) for each in own],
        "tests_at_mix": [_test(each) for each in mixed],
        "patients": patient_count,
        "withheld": _why_withheld(kind, known, classes, contradiction if is_contradicted else None),
    }
    if found["withheld"] is None:
        # More than usual that are merely far count too.
        most = max(beyond.high, comparison.strangers - _USUAL_STRANGERS)
        strangers = label_shift.Strangers(most, comparison.is_beyond_N)
        estimates = label_shift.estimate(known, other, strangers=strangers)
        found["withheld"] = _why_too_wide(estimates.prevalence, most, len(archive.group_N))
    if found["withheld"] is None:
        found |= _estimated(estimates, comparison.strangers, classes)
        if kind == "pictures alike":
            # Shares tell mixes that are too near, or of too few images, for the tests.
            found["kind"] = "class mix" if _is_other_mix(found["prevalence"].values(), shares_K) else "alike"
    return found


def _beyond(comparison: Comparison) -> IntervalEstimate:
    """The share of images that are beyond the reference.

    Photographs are: of 1,000 images with 1 % or 2 % of them all were found, and one image more (in the middle of 42
    drawn archives). Of archives without, 95 % had at most 6.
    """
    share = float(comparison.is_beyond_N.mean())
    return IntervalEstimate(share, *clopper_pearson(share, len(comparison.is_beyond_N)))


def patients(group_N: Ints) -> Ints:
    """[N] the groups of images, or a group for each image where they are too few to be patients."""
    return group_N if len(np.unique(group_N)) >= PATIENTS else np.arange(len(group_N))


def _why_untested(reference: tuple[Pictures, Ints] | None, features: int, classes: tuple[str, ...]) -> str | None:
    if reference is None:
        return "the model brings no reference to compare with"
    if features < FEWEST:
        return f"fewer than {FEWEST} scored images have features and are new to the model"
    if len(reference[1]) < LEAST_REFERENCE:
        return f"the model's reference has fewer than {LEAST_REFERENCE} pictures"
    present = np.bincount(reference[1], minlength=len(classes))
    missing = [name for name, pictures in zip(classes, present, strict=True) if pictures < 2]
    if missing:
        return f"the model's reference has no pictures of {missing[0]}"
    if len(classes) < 2:
        return "the model has one class only"
    # What is usual among patients is seen between them: of one, everything would be as usual.
    units = [len(np.unique(reference[0].group_N[reference[1] == k])) for k in range(len(classes))]
    if min(units) < 2:
        return f"the model's reference has one patient, or one site, of {classes[units.index(min(units))]} only"
    return None


def _is_other_mix(shares: Iterable[Mapping[str, float]], known_K: Reals) -> bool:
    """Whether the share that a class has in the reference is far outside of its interval in the archive."""
    gaps = [max(one["low"] - known, known - one["high"]) for one, known in zip(shares, known_K, strict=True)]
    return bool(max(gaps) >= OTHER_MIX)


def _why_withheld(
    kind: Kind, known: label_shift.Rows, classes: tuple[str, ...], contradiction: Contradiction | None
) -> str | None:
    """Why shares of classes and accuracy cannot be estimated; None where they can."""
    if kind == "pictures":
        return "the pictures differ from those that the model knows"
    if contradiction:
        return (
            f"more of the images than usual are called {contradiction.called} and look like {contradiction.like} "
            f"({100 * contradiction.share:.1f} % instead of {100 * contradiction.expected:.1f} %)"
        )
    if kind == "unclear":
        return "the pictures may differ from those that the model knows"
    k, groups = label_shift.fewest_groups(known)
    if groups < LEAST_GROUPS:
        return (
            f"the model's reference knows {classes[k]} from too few patients: its groups are worth "
            f"{groups:.1f} equal ones, and {LEAST_GROUPS} of each class are needed"
        )
    if label_shift.separation(known) < LEAST_SEPARATION:
        return "the model hardly tells some of its classes apart"
    return None


def _why_too_wide(shares: Sequence[IntervalEstimate], strangers: float, images: int) -> str | None:
    """Why intervals of shares say too little; None where they do not. `strangers`: the share that they may have."""
    widest = max((one.high - one.low) / 2 for one in shares)
    if widest <= WIDEST:
        return None
    is_their_doing = widest - strangers / 2 <= WIDEST
    unlike = f", of which up to {100 * strangers:.1f} % are like none that the model knows," if is_their_doing else ""
    return f"from {images:,} images{unlike} the intervals would be ± {100 * widest:.1f} points or wider"


def _estimated(found: label_shift.LabelShiftEstimates, strangers: float, classes: tuple[str, ...]) -> dict[str, Any]:
    ways = (found.by_confidence, found.by_threshold)
    # Alone, the interval of mean confidence held the truth in 85 % of the draws with another mix of classes. Images
    # that are like none of the reference may all be wrong.
    return {
        "prevalence": {name: _interval(each) for name, each in zip(classes, found.prevalence, strict=True)},
        "accuracy": {
            "by_confidence": ways[0].value,
            "by_threshold": ways[1].value,
            "gap": abs(ways[0].value - ways[1].value),
            "low": max(0.0, min(way.low for way in ways) - strangers),
            "high": max(way.high for way in ways),
        },
    }


def _counted(archive: Pictures, classes: tuple[str, ...]) -> dict[str, float] | None:
    """The shares of predictions, which are no estimate of the shares of the classes."""
    if not len(archive.group_N):
        return None
    shares = np.bincount(archive.probs_NK.argmax(axis=1), minlength=len(classes)) / len(archive.group_N)
    return dict(zip(classes, shares.tolist(), strict=True))


def _test(test: ShiftTest) -> dict[str, Any]:
    return {
        "name": test.name,
        "distance": test.distance,
        "usual": test.usual,
        "effect": test.effect,
        "p_value": test.p_value,
        "different": test.is_different,
    }


def _interval(estimate: IntervalEstimate) -> dict[str, float]:
    return dict(estimate._asdict())
