"""The training report of a bundle, its folder `training/`: history, validation figures, groups, plots and model card.

Reads no checkpoint and no image. File names and columns are a stored format.
"""

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from brainray import storage
from brainray.config import LITE_FAST, LITE_NAMES, TrainOptions
from brainray.evaluation import metrics
from brainray.evaluation.clusters import RESAMPLES, ClusterIntervals, calibration_interval, cluster_intervals
from brainray.evaluation.counts import CALIBRATION_BINS, Counts, count_probabilities
from brainray.evaluation.metrics import IntervalEstimate
from brainray.evaluation.plots import draw_curves, draw_reliability
from brainray.evaluation.review import PROMISES, Review

from .group_figures import MeasuredGroups, group_rows
from .learned_before import KEY, Knowledge

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = "training"
_WORST_GROUPS = 10  # on the card


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Calibrated probabilities of every validation picture, one image each, and the history of the model.

    With folds, a picture's probabilities come from the fit that was not trained on it, and the history is that of the
    final fit on all images.
    """

    classes: tuple[str, ...]
    probs_NK: npt.NDArray[np.float64]
    labels_N: npt.NDArray[np.int64]
    fold_N: npt.NDArray[np.int64]
    review: Review
    groups: MeasuredGroups | None = None  # None where each picture is a unit; then intervals are by picture
    before: Knowledge | None = None  # of pictures that were learned from before; None where nothing was
    history: list[dict[str, Any]]
    best_epoch: int

    @property
    def flatters(self) -> bool:
        """Whether the pictures had been learned from before this training, or may have been."""
        return self.before is not None and self.before.flatters

    @property
    def folds(self) -> int:
        """Number of folds; 0 where there is one split."""
        folds = int(self.fold_N.max(initial=0)) + 1
        return folds if folds > 1 else 0

    def counts(self, fold: int | None = None) -> Counts:
        """Counts of all validation pictures, or of those of one fold, from 0."""
        rows = slice(None) if fold is None else self.fold_N == fold
        return count_probabilities(self.labels_N[rows], self.probs_NK[rows])

    def figures(self) -> dict[str, Any]:
        """Metrics and the split they were measured on. One split is optimistic, because it also chose the epoch."""
        counts = self.counts()
        accuracy = self.intervals.accuracy if self.groups and self.intervals else metrics.accuracy(counts)
        return {
            "split": self._split(),
            "images": len(self.labels_N),
            "best_epoch": self.best_epoch,
            "accuracy": accuracy and accuracy._asdict(),
            "macro_f1": metrics.macro_f1(counts),
            "balanced_accuracy": metrics.balanced_accuracy(counts),
            "ece": metrics.expected_calibration_error(counts),
            "brier": metrics.brier(counts),
            "intervals": {name: each._asdict() for name, each in self.other_intervals().items()},
            "review": self.review._asdict(),
            **({"resampled": {"groups": len(self.groups.names), "units": self.groups.units}} if self.groups else {}),
            **({KEY: self.before._asdict()} if self.before else {}),
        }

    def _split(self) -> str:
        """What the figures were measured on, in words."""
        if self.before and self.before.flatters:
            kind = f"{self.folds} folds" if self.folds else "validation"
            had, flatters = ("had", "flatters") if self.before.pictures else ("may have", "may flatter")
            return f"{kind}: pictures that {self.before.owners} {had} learned from, so every figure {flatters}"
        kind = "group" if self.groups and self.groups.names else "series or file"
        others = f" and no image of the same {kind}" if self.groups else ""
        judged = f"{self.folds} folds: each picture judged by a model that has seen no copy of it{others}"
        split = judged if self.folds else f"validation: pictures of which no copy{others} was learned from"
        left_out = self.before and self.before.pictures
        return f"{split}; without what {self.before.owners} had learned from" if self.before and left_out else split

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """The unit of each picture, for resampling."""
        return self.groups.unit_N if self.groups else np.arange(len(self.labels_N))

    @cached_property
    def intervals(self) -> ClusterIntervals | None:
        """Intervals by resampling units; None without pictures."""
        if not len(self.labels_N):
            return None
        return cluster_intervals(self.labels_N, self.probs_NK.argmax(axis=1), self.units, classes=len(self.classes))

    def other_intervals(self) -> dict[str, IntervalEstimate]:
        """The intervals of the figures that are no proportions of pictures, by the bootstrap; none without pictures."""
        if not self.intervals:
            return {}
        right_N = self.probs_NK.argmax(axis=1) == self.labels_N
        return {
            "macro_f1": self.intervals.macro_f1,
            "balanced_accuracy": self.intervals.balanced_accuracy,
            "ece": calibration_interval(self.units, self.probs_NK.max(axis=1), right_N),
        }

    def per_class(self) -> list[dict[str, Any]]:
        """One row of metrics for each class; the intervals are by units where these are no single pictures."""
        figures = metrics.per_class(self.counts().confusion)
        if self.groups and self.intervals:
            figures |= self.intervals.per_class
        return [
            {"name": name} | {figure: values[k] for figure, values in figures.items()}
            for k, name in enumerate(self.classes)
        ]

    def group_table(self) -> list[dict[str, Any]]:
        """One row for each group, the worst first; none without groups."""
        if self.groups is None:
            return []
        return group_rows(self.groups, self.labels_N, self.probs_NK.argmax(axis=1), self.classes)

    def fold_table(self) -> list[dict[str, Any]]:
        """One row for each fold: pictures, accuracy, and recall of each class."""
        rows = []
        for fold in range(self.folds):
            counts = self.counts(fold)
            accuracy, recall = metrics.accuracy(counts), metrics.per_class(counts.confusion)["recall"]
            figures = {
                "fold": fold + 1,
                "pictures": counts.scored_and_labelled,
                "accuracy": accuracy and accuracy.value,
            }
            rows.append(figures | {f"recall_{name}": float(recall[k]) for k, name in enumerate(self.classes)})
        return rows

    def confusion(self) -> pa.Table:
        """Confusion matrix as K * K rows of (label, predicted, images)."""
        K = len(self.classes)
        return pa.table(
            {
                "label": [name for name in self.classes for _ in range(K)],
                "predicted": list(self.classes) * K,
                "images": self.counts().confusion.ravel(),
            }
        )


def write_training_report(
    uri: str,
    validation: Validation,
    provenance: dict[str, Any],
    *,
    temperature: float,
    writer: storage.Writer = storage.UNLEASED,
) -> None:
    """Write history and confusion (Parquet), curves and reliability (PNG) and model-card.md.

    With folds also folds.csv, and with groups groups.csv. No confusion where the figures flatter.
    """
    folder = storage.join(uri, FOLDER)
    writer.write_parquet(storage.join(folder, "history.parquet"), pa.Table.from_pylist(validation.history))
    if not validation.flatters:  # what is read there must be of pictures not seen
        writer.write_parquet(storage.join(folder, "confusion.parquet"), validation.confusion())
    writer.write_bytes(
        storage.join(folder, "curves.png"), draw_curves(validation.history, best_epoch=validation.best_epoch)
    )
    writer.write_bytes(storage.join(folder, "reliability.png"), draw_reliability(validation.counts()))
    for name, rows in (("folds.csv", validation.fold_table()), ("groups.csv", validation.group_table())):
        if rows:
            content = pa.BufferOutputStream()
            csv.write_csv(pa.Table.from_pylist(rows), content)
            writer.write_bytes(storage.join(folder, name), content.getvalue().to_pybytes())
    card = model_card(validation, provenance, temperature=temperature)
    writer.write_bytes(storage.join(folder, "model-card.md"), card.encode())


def model_card(validation: Validation, provenance: dict[str, Any], *, temperature: float) -> str:
    """Render the model card as Markdown from the package's template."""
    options = provenance["options"]
    return (
        _templates()
        .get_template("model-card.md")
        .render(
            **{name: provenance[name] for name in ("options", "data", "cost", "versions", "seconds")},
            classes=validation.classes,
            figures=validation.figures(),
            per_class=validation.per_class(),
            groups=provenance["data"].get("groups"),
            series=provenance["data"].get("series"),
            measured_groups=validation.groups,
            worst_groups=[row for row in validation.group_table() if row["errors"]][:_WORST_GROUPS],
            resamples=RESAMPLES,
            confusion=validation.counts().confusion.tolist(),
            calibration_bins=CALIBRATION_BINS,
            temperature=temperature,
            folds=validation.folds,
            review=validation.review,
            before=validation.before,
            promises=PROMISES,
            is_lite=options["model"] in (LITE_FAST, *LITE_NAMES),
            command=command_of(options, given=provenance["given"]),
        )
    )


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("brainray.training"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "figure": _figure,
        "thousands": "{:,}".format,
        "percent": _percent,
        "ends": _ends,
        "cell": _cell,
    }
    return templates


def _figure(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


def _ends(interval: dict[str, float]) -> str:
    return f"{interval['low']:.4f} to {interval['high']:.4f}"


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


# Options of `train` that are not in `TrainOptions`, as the command shows them.
_GIVEN = {
    "--exclude": "--exclude EXCLUDE",
    "--groups": "--groups GROUPS",
    "--boxes": "--boxes BOXES",
    "--keep-folds": "--keep-folds",
}


def command_of(options: dict[str, Any], *, given: Collection[str] = ()) -> str:
    """Return the command that trains the same model from the same images. `options` is `TrainOptions.to_json()`.

    `given` are the options beside these, such as `--exclude`.
    """
    defaults = TrainOptions().to_json()
    if options["init"]:
        del defaults["image_px"]  # the default is that of the other model, which may be another one
    changed = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}")
        for name, value in options.items()
        if value != defaults.get(name) and name not in ("workers", "most_workers", "init", "teacher", "region_weight")
    ]
    init = ["--init MODEL"] if options["init"] else []
    init += ["--teacher MODEL"] if options.get("teacher") else []
    named = [shown for option, shown in _GIVEN.items() if option in given]
    return " ".join(["brainray train --data DATA --output MODEL", *named, *init, *changed])
