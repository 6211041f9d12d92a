"""`training/` of a bundle: how training went and how good the model was on images it had not seen."""

import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from brainray import storage
from brainray.config import LITE_NAMES, TrainOptions
from brainray.evaluation import metrics
from brainray.evaluation.calibration import Review
from brainray.evaluation.counts import CALIBRATION_BINS, Counts, count_probabilities
from brainray.evaluation.plots import draw_curves, draw_reliability

FOLDER = "training"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What is said of every validation image, each picture once, and the epochs that led to the model.

    With folds, a fold's images are judged by a model that has learned from the others, and the epochs are those of the
    model of all images.
    """

    classes: tuple[str, ...]
    probs_NK: npt.NDArray[np.float64]
    labels_N: npt.NDArray[np.int64]
    fold_N: npt.NDArray[np.int64]
    review: Review
    history: list[dict[str, Any]]
    best_epoch: int

    @property
    def folds(self) -> int:
        """0 where there is one split."""
        folds = int(self.fold_N.max(initial=0)) + 1
        return folds if folds > 1 else 0

    def tally(self, fold: int | None = None) -> Counts:
        chosen = slice(None) if fold is None else self.fold_N == fold
        return count_probabilities(self.labels_N[chosen], self.probs_NK[chosen])

    def figures(self) -> dict[str, Any]:
        """Metrics with the split they were measured on. Those of one split flatter: it chose the epoch too."""
        tally = self.tally()
        accuracy = metrics.accuracy(tally)
        folds = f"{self.folds} folds: each picture judged by a model that has seen no copy of it"
        return {
            "split": folds if self.folds else "validation: pictures of which no copy was learned from",
            "images": len(self.labels_N),
            "best_epoch": self.best_epoch,
            "accuracy": accuracy and accuracy._asdict(),
            "macro_f1": metrics.macro_f1(tally),
            "balanced_accuracy": metrics.balanced_accuracy(tally),
            "ece": metrics.expected_calibration_error(tally),
            "brier": metrics.brier(tally),
            "review": self.review._asdict(),
        }

    def fold_table(self) -> list[dict[str, Any]]:
        """A row a fold: pictures, accuracy, and recall of each class."""
        rows = []
        for fold in range(self.folds):
            tally = self.tally(fold)
            accuracy, recall = metrics.accuracy(tally), metrics.per_class(tally.confusion)["recall"]
            figures = {"fold": fold + 1, "pictures": tally.scored_and_labelled, "accuracy": accuracy and accuracy.value}
            rows.append(figures | {f"recall_{name}": float(recall[k]) for k, name in enumerate(self.classes)})
        return rows

    def confusion(self) -> pa.Table:
        K = len(self.classes)
        return pa.table(
            {
                "label": [name for name in self.classes for _ in range(K)],
                "predicted": list(self.classes) * K,
                "images": self.tally().confusion.ravel(),
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
    """history.parquet, confusion.parquet, curves.png, reliability.png, model-card.md, and with folds folds.csv."""
    folder = storage.join(uri, FOLDER)
    writer.write_parquet(storage.join(folder, "history.parquet"), pa.Table.from_pylist(validation.history))
    writer.write_parquet(storage.join(folder, "confusion.parquet"), validation.confusion())
    writer.write_bytes(
        storage.join(folder, "curves.png"), draw_curves(validation.history, best_epoch=validation.best_epoch)
    )
    writer.write_bytes(storage.join(folder, "reliability.png"), draw_reliability(validation.tally()))
    if validation.folds:
        table = pa.Table.from_pylist(validation.fold_table())
        content = pa.BufferOutputStream()
        csv.write_csv(table, content)
        writer.write_bytes(storage.join(folder, "folds.csv"), content.getvalue().to_pybytes())
    card = model_card(validation, provenance, temperature=temperature)
    writer.write_bytes(storage.join(folder, "model-card.md"), card.encode())


def model_card(validation: Validation, provenance: dict[str, Any], *, temperature: float) -> str:
    """What a reader must know before using the model, as Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    options = provenance["options"]
    templates = Environment(
        loader=PackageLoader("brainray.training"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"figure": _figure, "thousands": "{:,}".format, "percent": _percent}
    return templates.get_template("model-card.md").render(
        **{name: provenance[name] for name in ("options", "data", "cost", "versions", "seconds")},
        classes=validation.classes,
        figures=validation.figures(),
        per_class=_per_class(validation),
        confusion=validation.tally().confusion.tolist(),
        calibration_bins=CALIBRATION_BINS,
        temperature=temperature,
        folds=validation.folds,
        review=validation.review,
        is_lite=options["model"] in LITE_NAMES,
        command=command_of(options),
    )


def _per_class(validation: Validation) -> list[dict[str, Any]]:
    """A row of figures a class."""
    figures = metrics.per_class(validation.tally().confusion)
    return [
        {"name": name} | {figure: values[k] for figure, values in figures.items()}
        for k, name in enumerate(validation.classes)
    ]


def _figure(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


def command_of(options: dict[str, Any]) -> str:
    """What makes the same model of the same images."""
    before = TrainOptions().to_json()
    given = [
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in options.items()
        if value != before[name] and name not in ("workers", "most_workers", "init")
    ]
    init = ["--init MODEL"] if options["init"] else []
    return " ".join(["brainray train --data DATA --output MODEL", *init, *given])
