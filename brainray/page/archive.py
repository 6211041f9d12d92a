"""The chapter on the archive: what its images look like and how they are called, beside what the model was measured on.

Beside it stands the generation before of the same run. Returns plain values; markup is in the template.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from . import territory
from .sections import MOST_CLASS_ROWS, PageSource, Values, estimate_of

_STABLE, _SHIFTED = 0.1, 0.25  # see `metrics.population_stability`
_FEW = 200  # scored images, below which the index means nothing
_SIDE = "longest_side_px"


def archive(source: PageSource) -> Values:
    """The archive beside what the model knows (images that it was measured on) and beside the generation before."""
    figures, before = source.figures, source.previous or {}
    reference, looks = source.run.get("reference") or {}, source.run.get("reference_images") or {}
    drift = figures["drift"] or {}
    few = bool(drift) and figures["totals"]["ok"] < _FEW
    drift = {} if few else drift
    return {
        "classes": _shares(source, reference.get("predicted_share"), before),
        "drift": drift,
        "few": few,
        "predictions": _worst_word(drift, ("predicted_psi", "confidence_psi")),
        "images": _worst_word(drift, ("brightness_psi", "contrast_psi", "longest_side_psi")),
        "reference_images": looks.get("images"),
        "charts": _charts(figures, reference, looks, before, drift),
        "formats": sorted(figures["formats"].items(), key=lambda each: (-each[1], each[0])),
        "sides": _side_rows(figures.get(_SIDE), looks.get(_SIDE), before.get(_SIDE)),
        "sides_reference": looks.get(_SIDE) is not None,
        "before": _previous(source.previous),
        "territory": territory.sentences(figures),
        "tests": territory.tests(figures)[: MOST_CLASS_ROWS + 2],
    }


def _charts(
    figures: Values, reference: Values, looks: Values, before: Values, drift: Mapping[str, float]
) -> list[Values]:
    """The histograms, of what is known here: shares of images by confidence, brightness and contrast."""
    confidence = [each.get("confidence_histogram") for each in (figures, reference, before)]
    charts = [_chart("confidence", 1.0, confidence, drift)]
    for name, high in (("brightness", 1.0), ("contrast", 0.5)):
        charts.append(_chart(name, high, [_images(each.get(name)) for each in (figures, looks, before)], drift))
    return [chart for chart in charts if chart["shares"]]


def _chart(name: str, high: float, counted: Sequence[Sequence[float] | None], drift: Mapping[str, float]) -> Values:
    """A histogram over equal bins from 0 to `high`: here, of the reference and before, where the bins are the same."""
    here = counted[0] or ()
    shares = [_distribution(each if each and len(each) == len(here) else None) for each in counted]
    psi = drift.get(f"{name}_psi")
    return {
        "name": name,
        "high": high,
        **dict(zip(("shares", "reference", "before"), shares, strict=True)),
        "psi": psi,
        "word": None if psi is None else _word(psi),
    }


def _images(counted: Values | None) -> Sequence[float] | None:
    return counted["images"] if counted else None


def _distribution(counts: Sequence[float] | None) -> list[float] | None:
    """Counts as shares; None for none."""
    total = sum(counts or ())
    return [each / total for each in counts or ()] if total else None


def _word(psi: float) -> str:
    return "alike" if psi < _STABLE else "somewhat different" if psi < _SHIFTED else "different"


def _worst_word(drift: Mapping[str, float], names: Sequence[str]) -> str | None:
    """What the highest of some indices says; None where none is known."""
    known = [drift[name] for name in names if name in drift]
    return _word(max(known)) if known else None


def _shares(source: PageSource, reference: Mapping[str, float] | None, before: Values) -> list[Values]:
    """The share of each predicted class: here, on the validation images, and before."""
    predicted, earlier = source.figures["predicted"], before.get("predicted") or {}
    scored, scored_before = sum(predicted.values()), sum(earlier.values())
    return [
        {
            "class": name,
            "images": predicted[name],
            "share": predicted[name] / scored if scored else None,
            "reference": None if reference is None else reference.get(name),
            "before": earlier[name] / scored_before if name in earlier and scored_before else None,
        }
        for name in source.classes[:MOST_CLASS_ROWS]
    ]


def _side_rows(sides: Values | None, reference: Values | None, before: Values | None) -> list[Values]:
    """The images by their longest side: here, as shares of the reference, and before."""
    if sides is None:
        return []
    ends = sides["from"]
    shares = [_side_shares(each, ends) for each in (sides, reference, before)]
    return [
        {"low": low, "high": high, "images": images, "share": here, "reference": known, "before": earlier}
        for low, high, images, here, known, earlier in zip(
            ends, [*ends[1:], None], sides["images"], *shares, strict=True
        )
        if images or known or earlier
    ]


def _side_shares(counted: Values | None, ends: Sequence[int]) -> list[Any]:
    """Shares over the bins of `ends`; None each where others were counted, or none."""
    known = _distribution(counted["images"]) if counted and counted["from"] == list(ends) else None
    return known or [None] * len(ends)


def _previous(before: Values | None) -> Values | None:
    """The main figures of the generation before."""
    if before is None:
        return None
    return {
        "fingerprint": before["fingerprint"],
        "totals": before["totals"],
        "accuracy": estimate_of(before.get("accuracy")),
        "confidence": before.get("mean_confidence"),
        "last": before.get("last_scored_at"),
    }
