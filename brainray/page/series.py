"""The chapter on series: what the rule says of them, and the first to look at. Returns plain values."""

from typing import Any

from .sections import PageSource, Values, estimate_of

_WHY = {  # the reasons of `scoring.series.rollup`
    "finding": "neighbouring slices say so",
    "no_finding": "enough slices were scored, and no neighbouring ones say a finding",
    "mean": "the class with the highest mean probability",
    "too_few": "nothing can be said: too few slices were scored",
    "too_many_failed": "nothing can be said: too many of its slices failed, or of images in their folders",
    "none_scored": "nothing can be said: no slice could be scored",
    "none_eligible": "nothing can be said: all slices are left out by their headers",
    "too_large": "nothing can be said: too large to be a series",
    "several_studies": "nothing can be said: its slices name several studies, so they are none of one series",
}


def series(source: PageSource) -> Values | None:
    """The series of a run; None where none of its images belongs to one."""
    figures = source.figures.get("series")
    if not figures:
        return None
    said = [{"name": name, "series": n, "why": ""} for name, n in figures["predicted"].items() if n]
    said += [
        {"name": "nothing", "series": n, "why": _WHY[name].removeprefix("nothing can be said: ")}
        for name, n in figures["reasons"].items()
        if _WHY[name].startswith("nothing")
    ]
    return {
        "figures": figures,
        "accuracy": estimate_of(figures["accuracy"]),
        "rule_text": rule_text(figures["rule"], source.classes),
        "said": said,
        "rows": [_row(row) for row in source.series],
        "left_out": max(0, figures["series"] - len(source.series)),
    }


def rule_text(rule: Values, classes: list[str]) -> str:
    """The rule in words."""
    if "notumor" not in classes:
        return f"the class with the highest mean probability, where {rule['neighbours']} slices or more were scored."
    return (
        f"a finding is {rule['neighbours']} neighbouring slices or more that say one, each with a "
        f"probability of {rule['suspicion']:g} for any; without one, {rule['least']} "
        "scored slices or more mean that there is none, and of fewer nothing can be said."
    )


def _row(row: Values) -> dict[str, Any]:
    name = row["uri"].rpartition("/")[2] or row["uri"]
    return {**row, "name": name, "why": _WHY.get(row["reason"], "").removeprefix("nothing can be said: ")}
