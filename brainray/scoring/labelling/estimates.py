"""The figures of `brainray estimate`: what the labels of a sample say of all its images, and what more would say."""

from typing import Any

from brainray.evaluation.metrics import IntervalEstimate
from brainray.evaluation.stratified import Population, estimate

from .answers import Answers
from .picks import Pick

_MORE = (100, 200, 400, 800, 1600)  # labels


def estimate_figures(pick: Pick, answers: Answers) -> dict[str, Any]:
    """What `--json` prints; a figure of which nothing is known is null."""
    population = pick.population
    found = estimate(population, answers.sample)
    counted = population.predicted.sum(axis=0) + population.known.sum(axis=0)
    images = pick.figures["images"]
    classes = [
        {
            "class": name,
            "recall": recall and recall._asdict(),
            "prevalence": prevalence._asdict(),
            "predicted_share": int(count) / images,
        }
        for name, recall, prevalence, count in zip(pick.classes, found.recall, found.prevalence, counted, strict=True)
    ]
    return {
        "fingerprint": pick.figures["fingerprint"],
        "seed": pick.figures["seed"],
        "images": images,
        "labelled_before": pick.figures["labelled_before"],
        "picked": pick.figures["picked"],
        "whole_groups": pick.figures["whole_groups"],
        "labels": answers.figures(),
        "accuracy": found.accuracy._asdict(),
        "classes": classes,
        "more": _more(population, answers, images - pick.figures["labelled_before"]),
    }


def _more(population: Population, answers: Answers, images: int) -> list[dict[str, Any]]:
    """How wide the interval of accuracy would be with more labels like these, as many as there are images for."""
    drawn = len(answers.sample.label)
    return [
        {
            "labels": more,
            "accuracy_half_width": _half_width(estimate(population, answers.sample, times=1 + more / drawn).accuracy),
        }
        for more in _MORE
        if drawn + more <= images
    ]


def _half_width(interval: IntervalEstimate) -> float:
    return (interval.high - interval.low) / 2
