"""The figures of a summary that say how right a model is: of images that it has not learned from.

On the others it is right because it knows them by heart. `seen` are the counts of the rows that are marked as such,
among those of `counts`; None where a run does not tell.
"""

from typing import Any

from brainray.evaluation import metrics
from brainray.evaluation.counts import Counts


def unseen_of(counts: Counts, seen: Counts | None) -> Counts:
    """The counts of the images that the model has not learned from; all where nothing is known."""
    return counts if seen is None else counts.without(seen)


def quality_figures(counts: Counts, seen: Counts | None) -> dict[str, Any]:
    """For summary.json: `measured` is the number of images that accuracy and calibration are of.

    Those of `judged_wrong` are among them: a person said that they are wrong, and not which class they are.
    """
    unseen = unseen_of(counts, seen)
    return {
        "measured": unseen.measured,
        "judged_wrong": int(unseen.judged_wrong.sum()),
        **_quality(unseen),
        "seen": None if seen is None else _seen_figures(counts, seen),
    }


def calibration_figures(unseen: Counts) -> dict[str, Any]:
    """How far confidence can be trusted."""
    return {"ece": metrics.expected_calibration_error(unseen), "brier": metrics.brier(unseen)}


def _seen_figures(counts: Counts, seen: Counts) -> dict[str, Any]:
    """How many images were learned from, how many of them have a label, and the figures with them."""
    over_all = _quality(counts) | calibration_figures(counts)
    return {"images": seen.ok, "labelled": seen.measured, "over_all": over_all}


def _quality(counts: Counts) -> dict[str, Any]:
    accuracy, accepted = metrics.accuracy(counts), metrics.accepted_accuracy(counts)
    return {
        "accuracy": accuracy and accuracy._asdict(),
        "accepted_accuracy": accepted and accepted._asdict(),
        "macro_f1": metrics.macro_f1(counts),
        "balanced_accuracy": metrics.balanced_accuracy(counts),
    }


def seen_line(figures: dict[str, Any]) -> str | None:
    """A line on the images that the model has learned from; None where there are none. `figures`: summary.json."""
    seen = figures.get("seen")  # summaries of earlier versions lack it
    if not seen or not seen["images"]:
        return None
    images = "1 image" if seen["images"] == 1 else f"{seen['images']:,} images"
    line = f"the model has learned from {images} of these"
    accuracy = seen["over_all"]["accuracy"]
    if not seen["labelled"] or accuracy is None:
        return line
    return (
        f"{line}; {seen['labelled']:,} with a label are left out of accuracy, its tables and calibration "
        f"(with them accuracy would be {accuracy['value']:.4f})"
    )


def judged_wrong_line(figures: dict[str, Any]) -> str | None:
    """A line on the images that were judged wrong without a class; None without any. `figures`: summary.json."""
    images = figures.get("judged_wrong")  # summaries of earlier versions lack it
    if not images:
        return None
    were = "1 image was" if images == 1 else f"{images:,} images were"
    return (
        f"{were} judged wrong without a class: wrong in accuracy, precision and calibration; recall and F1 do not know "
        "which class missed them (their low ends suppose each), so mean recall, macro F1 and Brier score are left out"
    )
