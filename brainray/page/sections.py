"""The content of each chapter of the page, computed from the summary and ready for the template.

Every function takes a `PageSource` and returns plain values; words about figures stand here, markup in the template.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray.evaluation import metrics
from brainray.evaluation.counts import ALL, Ints
from brainray.evaluation.metrics import IntervalEstimate

from . import text
from .territory import images_to_pick
from .tiles import Row, TilePart

Values = dict[str, Any]

MOST_GROUPS = 50  # in the table of groups
MOST_UNSCORED_GROUPS = 20  # in that of groups without a scored image
MOST_CLASSES = 40  # up to which the confusion is shown as a matrix
MOST_CLASS_ROWS = 200  # in tables with a row for each class
MOST_CELLS = 60  # of the confusion, as a list

_REASONS = {  # what a reason means, and what can be done
    "not_found": "the file was gone when it was read",
    "forbidden": "it may not be read; check the permissions of the archive",
    "empty": "the file has no bytes",
    "not_an_image": "its bytes are no image",
    "truncated": "the file ends too early; copy it again",
    "too_large": "it has too many pixels",
    "unsupported": "a format that is not read",
    "read_failed": "the storage failed; --retry-unread reads such images again",
    "other": "a reason that this version does not know",
}


_EXCLUSIONS = {  # what the model does not know
    "not_mr": "of another modality than MR",
    "no_pixels": "reports, plans, documents and directories of DICOM",
    "localizer": "localisers",
    "diffusion": "diffusion-weighted images",
    "map": "parametric maps, phases and parts of complex images",
    "projection": "projections, which show many slices at once",
    "susceptibility": "susceptibility-weighted images",
    "functional": "functional and perfusion imaging, and mosaics",
    "derived": "subtractions and results of a calculation",
    "screen_save": "secondary captures in colour or with text in their pixels",
    "label_map": "masks and segmentations",
    "blank": "slices that show nothing, as beside the head",
}


@dataclass(frozen=True, kw_only=True)
class PageSource:
    """Everything that the page is made from: run.json, summary.json and its tables, and the tiles."""

    run_uri: str
    run: Values
    figures: Values
    confusion: pa.Table
    per_class: pa.Table
    parts: Sequence[TilePart]
    previous: Values | None = None  # summary.json of the generation before, of another model
    series: Sequence[Values] = ()  # rows of `series/*.parquet`, the first to look at
    strip: Sequence[Row] = ()  # one image a group, see `scoring.summary.group_strip`
    strip_groups: int = 0  # the number of groups of its level with a scored image
    strip_unscored: int = 0  # and of those without
    strip_level: str = "group"  # the name of that level

    @property
    def classes(self) -> list[str]:
        return list(self.figures["classes"])

    @property
    def card(self) -> Values:
        """What run.json holds of the model's own measurements; empty in runs of older versions."""
        return self.run.get("card") or {}

    @property
    def card_metrics(self) -> Values:
        """The model's figures on its validation images, None where unknown."""
        known = self.card.get("metrics") or {}
        return {name: known.get(name) for name in ("split", "images", "accuracy", "ece", "brier")}

    @property
    def labelled(self) -> bool:
        return bool(self.measured)

    @property
    def measured(self) -> int:
        """The number of images that accuracy and the like are of."""
        return int(self.figures["measured"])


def verdict(source: PageSource) -> Values:
    """Whether the run reconciles, with what and when it was scored, and how good it is or may be."""
    figures, listed = source.figures, source.run.get("images")
    totals, known = figures["totals"], figures.get("territory") or {}
    return {
        "reconciled": None if listed is None else listed == totals["images"],
        "listed": listed,
        "totals": totals,
        "missing": (listed or 0) - totals["images"],
        "accuracy": estimate_of(figures["accuracy"]),
        "measured": source.measured,
        "judged_wrong": figures.get("judged_wrong") or 0,
        "knows_seen": figures["seen"] is not None,
        "seen": figures["seen"] if figures["seen"] and figures["seen"]["images"] else None,
        "estimated": known.get("accuracy"),
        "unestimated": known.get("withheld"),
        "to_pick": images_to_pick(figures),
        "confidence": figures["mean_confidence"],
        "for_review": figures["for_review"],
        "labels_given": figures["labels_given"],
        "accepted": estimate_of(figures["accepted_accuracy"]),
        "model": source.card.get("name"),
        "first": figures["first_scored_at"],
        "last": figures["last_scored_at"],
        "throughput": figures["throughput"],
    }


def reconciliation(source: PageSource) -> Values:
    """Where every listed image and every other file of the input has gone."""
    figures = source.figures
    before = (source.previous or {}).get("failures", {})
    failures = dict.fromkeys(before, 0) | figures["failures"]
    return {
        "failures": [
            {
                "reason": reason,
                "means": _REASONS.get(reason, _REASONS["other"]),
                "images": images,
                "before": before.get(reason, 0) if source.previous else None,
            }
            for reason, images in sorted(failures.items(), key=lambda each: (-each[1], each[0]))
        ],
        "excluded": [
            {"reason": reason, "means": _EXCLUSIONS.get(reason, ""), "images": images}
            for reason, images in sorted((figures.get("excluded") or {}).items(), key=lambda each: (-each[1], each[0]))
        ],
        "skipped": sorted(figures["skipped"].items(), key=lambda each: (-each[1], each[0])),
        "passed_over": sum(figures["skipped"].values()),
        "gone": figures["gone"],
        "before": {"failed": sum(before.values())} if source.previous else None,
    }


def quality(source: PageSource) -> Values:
    """Confusion, figures of each class beside the model card's, and reliability."""
    confusion = _confusion(source.confusion, source.classes)
    of_all = source.per_class.filter(pc.equal(source.per_class["group"], ALL)).to_pylist()
    return {
        "matrix": confusion_rows(confusion.tolist(), source.classes) if len(source.classes) <= MOST_CLASSES else None,
        "cells": _largest_cells(confusion, source.classes),
        "wrong": int(confusion.sum() - confusion.trace()),
        "classes": _class_rows(source, of_all[:MOST_CLASS_ROWS]),
        "classes_left_out": max(0, len(of_all) - MOST_CLASS_ROWS),
        "low": _scale_low(row[f"{name}_low"] for row in of_all for name in ("precision", "recall", "f1")),
        "card": source.card_metrics,
        "bins": reliability(source.figures["calibration"]["bins"]),
        "ece": source.figures["calibration"]["ece"],
        "brier": source.figures["calibration"]["brier"],
    }


def _confusion(table: pa.Table, classes: Sequence[str]) -> Ints:
    """[K, K] the confusion of all groups together; rows are labels, columns are predictions."""
    place = {name: k for k, name in enumerate(classes)}
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    summed = table.group_by(["label", "predicted"]).aggregate([("images", "sum")])
    for row in summed.to_pylist():
        confusion[place[row["label"]], place[row["predicted"]]] = row["images_sum"]
    return confusion


def confusion_rows(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[Values]:
    """A row for each label: its cells with their count, their share of the row and a shade from 0 to 10."""
    rows = []
    for label, counts in zip(classes, confusion, strict=True):
        support = sum(counts)
        cells = [
            {
                "predicted": predicted,
                "images": images,
                "share": images / support if support else None,
                "shade": -(-10 * images // support) if support else 0,
                "right": predicted == label,
            }
            for predicted, images in zip(classes, counts, strict=True)
        ]
        rows.append({"label": label, "support": support, "cells": cells})
    return rows


def _largest_cells(confusion: Ints, classes: Sequence[str]) -> Values:
    """The most frequent confusions, and how many others there are."""
    off = confusion.copy()
    np.fill_diagonal(off, 0)
    places = [(int(off[i, j]), int(i), int(j)) for i, j in np.argwhere(off)]
    places.sort(key=lambda cell: (-cell[0], cell[1], cell[2]))
    shown = [
        {"label": classes[i], "predicted": classes[j], "images": n, "share": n / int(confusion[i].sum())}
        for n, i, j in places[:MOST_CELLS]
    ]
    return {"shown": shown, "left_out": len(places) - len(shown)}


def _class_rows(source: PageSource, of_all: Sequence[Values]) -> list[Values]:
    """Each class with support and precision, recall and F1 as intervals, here and on the model card."""
    card = _card_figures(source.card.get("confusion"), len(source.classes))
    rows = []
    for k, row in enumerate(of_all):
        figures = {
            name: {
                "value": row[name],
                "low": row[f"{name}_low"],
                "high": row[f"{name}_high"],
                "card": card[name][k] if card else None,
            }
            for name in ("precision", "recall", "f1")
        }
        predicted = source.figures["predicted"][row["class"]]
        known = {name: row[name] for name in ("class", "support", "failed")}
        rows.append({**known, "predicted": predicted, **figures})
    return rows


def _card_figures(confusion: Sequence[Sequence[int]] | None, classes: int) -> dict[str, list[Any]] | None:
    """The figures of each class on the model card, from its confusion; None where the run does not hold it."""
    if confusion is None or np.shape(confusion) != (classes, classes):
        return None
    figures = metrics.per_class(np.array(confusion, np.int64))
    return {name: [None if value != value else value for value in column.tolist()] for name, column in figures.items()}


def _scale_low(lows: Iterable[float | None]) -> float:
    """The lower end of the scale on which intervals are drawn: the lowest of them, rounded down to a tenth."""
    known = [low for low in lows if low is not None]
    return min(0.9, int(10 * min(known)) / 10) if known else 0.0


def reliability(bins: Sequence[Values]) -> list[Values]:
    """The bins of reliability that hold images, with the interval of their accuracy."""
    filled = []
    for each in bins:
        if each["images"]:
            low, high = map(float, metrics.wilson(round(each["accuracy"] * each["images"]), each["images"]))
            filled.append(each | {"accuracy_low": low, "accuracy_high": high})
    return filled


def group_tables(figures: Mapping[str, Any]) -> list[Values]:
    """The groups of each level from the top, worst first: those whose interval has a low upper end.

    Those without a scored image are apart, since nothing of the model is known there.
    """
    levels = figures.get("group_levels") or (["group"] if figures["groups"] else [])
    of_levels = [*figures.get("groups_above", {}).values(), figures["groups"]] if levels else []
    numbers = figures.get("group_counts") or {}  # where there are many, the figures list a bounded number of them
    unscored = figures.get("groups_unscored") or {}
    return [
        {
            "level": name if len(levels) > 1 else None,
            **_groups_of(groups, len(levels), numbers.get(name), unscored.get(name)),
            "excluded": figures["totals"].get("excluded", 0),  # summaries of earlier versions lack it
        }
        for name, groups in zip(levels, of_levels, strict=True)
    ]


def _groups_of(groups: Values, levels: int, number: int | None, unscored: int | None) -> Values:
    """The rows of a level's tables; without the numbers of its groups those of `groups` are all."""
    rows = []
    for name, group in groups.items():
        totals, accuracy = group["totals"], group["accuracy"]
        most = max(group["predicted"].items(), key=lambda each: each[1], default=("", 0))
        rows.append(
            {
                "key": name,
                "name": text.group_name(name, levels),
                **{key: totals[key] for key in ("images", "failed")},
                "excluded": totals.get("excluded", 0),  # summaries of earlier versions lack it
                "measured": group["measured"],
                "accuracy": estimate_of(accuracy),
                "confidence": group["mean_confidence"],
                "for_review": group["for_review"],
                "most": most if most[1] else None,
                "ok": totals["ok"],
            }
        )
    rows.sort(key=_badness)
    scored, without = [row for row in rows if row["ok"]], [row for row in rows if not row["ok"]]
    number = len(rows) if number is None else number
    unscored = len(without) if unscored is None else unscored
    shown = scored[:MOST_GROUPS]
    return {
        "rows": shown,
        "scored": [row["key"] for row in scored],
        "left_out": number - unscored - len(shown),
        "number": number,
        "unscored": unscored,
        "unscored_rows": without[:MOST_UNSCORED_GROUPS],
        "unscored_left_out": unscored - len(without[:MOST_UNSCORED_GROUPS]),
        "low": _scale_low(row["accuracy"].low for row in shown if row["accuracy"]),
    }


def _badness(row: Values) -> tuple[float, float, float, str]:
    """Sorts groups: first those in which nothing could be scored, then by the most that their accuracy may be.

    Last those whose images are all excluded: nothing is wrong with them. It is the order of groups.parquet.
    """
    nothing = 1.0 if row["ok"] or not row["images"] else 0.0 if row["failed"] else 2.0
    best = row["accuracy"].high if row["accuracy"] else (row["confidence"] or 0.0)
    return nothing, best, -row["images"], row["key"]


def provenance(source: PageSource) -> Values:
    """Where the figures come from: model, inputs, options and versions."""
    run = source.run
    return {
        "run": source.run_uri,
        "model": run.get("model"),
        "fingerprint": source.figures["fingerprint"],
        "inputs": list(run.get("inputs") or ()),
        "image": run.get("image") or {},
        "group_by": ", ".join(by) if isinstance(by := run.get("group_by"), list) else by,
        "options": run.get("options") or {},
        "versions": run.get("versions") or {},
        "review_below": source.card.get("review_below"),
        "card": source.card_metrics,
    }


def estimate_of(values: Mapping[str, float] | None) -> IntervalEstimate | None:
    return IntervalEstimate(**values) if values else None
