"""What a summary says of an archive without labels, in words: for the page and for the terminal.

The figures are those of `evaluation.territory`. Text is plain; markup is in the template.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from brainray.evaluation.rounding import in_percent, percent_ends
from brainray.evaluation.shift import SOME_OTHERS, STRANGERS
from brainray.evaluation.territory import PATIENTS

from .text import count, cut, percent, plural

Figures = Mapping[str, Any]

_IF = "if the model recognises each class here as well as it did there"
PICKED = 200  # images that `pick` draws unless told otherwise
_MOST_CLASSES, _MOST_CHARS = 12, 40  # named in a line, and of each name


def sentences(figures: Figures) -> list[str]:
    """What is known, most important first. `figures`: summary.json, of an earlier version with less."""
    known: Figures | None = figures.get("territory")
    if not known:
        return []
    lines = [_kind(known), _shares(known, figures), _accuracy(known), _before(known.get("before"))]
    return [line for line in lines if line]


def images_to_pick(figures: Figures) -> int:
    """How many images `pick` would draw of a run without labels: none that the model has learned from."""
    seen = figures.get("seen")  # summaries of earlier versions lack it
    return min(PICKED, int(sum(figures["predicted"].values())) - int(seen["images"] if seen else 0))


def tests(figures: Figures) -> list[dict[str, Any]]:
    """The tests as rows: against the reference as it is, and weighted to the mix of classes that is estimated here."""
    known = figures.get("territory") or {}
    at_mix = {test["name"]: test for test in known.get("tests_at_mix") or ()}
    return [dict(test) | {"at_mix": at_mix.get(test["name"])} for test in known.get("tests") or ()]


def _kind(known: Figures) -> str:
    kind = known["kind"]
    if kind is None:
        return f"Whether the model knows such an archive cannot be told: {known['reason']}."
    beside = (
        f"{count(known['images'])} images beside {count(known['reference_pictures'])} pictures that the model had "
        "not learned from"
    )
    if kind in ("alike", "pictures alike"):
        is_told = kind == "alike" and known["prevalence"]  # earlier versions said "alike" without looking at shares
        mix = "" if is_told else ". Whether its classes are as common as there cannot be told"
        return f"Known territory: {beside} differ no more than other patients do{mix}."
    if kind == "class mix":
        return (
            f"It differs from what the model knows in how common the classes are, and in nothing else that was found: "
            f"{beside}."
        )
    patients = known.get("patients")  # earlier versions did not count them
    by_chance = f" With {plural(patients or 0, 'patient')} only, this may be chance." if _is_few(patients) else ""
    contradiction = known.get("contradiction")  # earlier versions did not look for one
    if kind == "unclear" and contradiction and contradiction["different"]:
        return f"What the model calls its images does not fit what they look like: {beside}.{by_chance}"
    if kind == "unclear":
        return (
            "It may differ from what the model knows by its pictures, or only by how common the classes are; which of "
            f"the two cannot be told: {beside}.{by_chance}"
        )
    return (
        "Its pictures differ from what the model knows, and how common the classes are may differ too: "
        f"{_how(known, beside)}.{by_chance}"
    )


def _is_few(patients: int | None) -> bool:
    return patients is not None and patients < PATIENTS


def _how(known: Figures, beside: str) -> str:
    """How pictures differ: by the tests, by images that are like none that the model knows, or by both."""
    worst = max(known["tests_at_mix"], key=lambda test: float(test["effect"]))
    beyond = known.get("beyond") or {"value": 0.0, "low": 0.0}  # earlier versions did not count them
    is_beyond = beyond["low"] > SOME_OTHERS
    strange = beyond["value"] if is_beyond else known["strangers"]
    said = [beside]
    if worst["different"] or not is_beyond:
        said[0] += f", {worst['effect']:.1f} times as far apart as is usual among patients"
    if is_beyond or any(test["different"] for test in known["tests_at_mix"] if test["name"] == STRANGERS):
        said.append(f"{percent(strange)} of the images are like none of them")
    return "; ".join(said)


def _shares(known: Figures, figures: Figures) -> str | None:
    predicted = figures.get("predicted") or {}
    total = sum(predicted.values())
    if not total:
        return None
    counted = _listed([(name, percent(images / total)) for name, images in predicted.items()])
    if known["prevalence"] is None:
        why = " either" if known["kind"] is None else f": {known['withheld']}"  # the line above has the reason
        return (
            f"How common each class is, and how often the model is right here, is not estimated{why}. "
            f"Counted predictions, which are not the same: {counted}."
        )
    shares = _listed([(name, _ends(share)) for name, share in known["prevalence"].items()])
    return (
        f"How common each class is (with 95 % intervals), {_IF}: {shares}. "
        f"Counted predictions, which are not the same: {counted}."
    )


def _accuracy(known: Figures) -> str | None:
    accuracy = known["accuracy"]
    if accuracy is None:
        return None
    low = in_percent(accuracy["low"])
    return (
        f"Accuracy, {_IF}: between {low} and {percent(accuracy['high'])} (95 % interval). "
        f"Two ways to estimate it say {percent(accuracy['by_confidence'])} (mean calibrated confidence) and "
        f"{percent(accuracy['by_threshold'])} (thresholds of confidence)."
    )


def _before(before: Figures | None) -> str | None:
    if not before:
        return None
    same = f"{count(before['same_images'])} of {count(before['images'])} images of its sample are here too"
    if before["different"]:
        return (
            f"The pictures differ from those of the generation before, {before['effect']:.1f} times as far as chance "
            f"would put them ({same})."
        )
    return f"No difference was found from the pictures of the generation before ({same})."


def _ends(share: Figures) -> str:
    return f"{percent(share['value'])} ({percent_ends(share['low'], share['high'])})"


def _listed(each: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{cut(name, _MOST_CHARS)} {text}" for name, text in each[:_MOST_CLASSES])
    left = len(each) - _MOST_CLASSES
    return f"{shown}, and {left:,} more in summary.json" if left > 0 else shown
