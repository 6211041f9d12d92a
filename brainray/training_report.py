"""`training/` of a bundle: how training went and how good the model was on its validation images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from . import metrics, storage
from .metrics import Tally
from .plots import draw_curves

FOLDER = "training"
_UNOWNED = storage.Writer()


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What the best epoch says of every validation image, and the epochs that led there."""

    classes: tuple[str, ...]
    probs_NK: npt.NDArray[np.float64]
    labels_N: npt.NDArray[np.int64]
    history: list[dict[str, Any]]
    best_epoch: int

    def tally(self) -> Tally:
        return metrics.count_probabilities(self.labels_N, self.probs_NK)

    def figures(self) -> dict[str, Any]:
        """Metrics with the split they were measured on. They flatter: it chose the epoch and the temperature too."""
        tally = self.tally()
        accuracy = metrics.accuracy(tally)
        return {
            "split": "validation: pictures that are in no training image, pixel for pixel",
            "images": len(self.labels_N),
            "best_epoch": self.best_epoch,
            "accuracy": accuracy and accuracy._asdict(),
            "macro_f1": metrics.macro_f1(tally),
            "balanced_accuracy": metrics.balanced_accuracy(tally),
            "ece": metrics.expected_calibration_error(tally),
            "brier": metrics.brier(tally),
        }

    def confusion(self) -> pa.Table:
        K = len(self.classes)
        counts_KK = np.bincount(self.labels_N * K + self.probs_NK.argmax(1), minlength=K * K)
        return pa.table(
            {
                "label": [name for name in self.classes for _ in range(K)],
                "predicted": list(self.classes) * K,
                "images": counts_KK,
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
    """history.parquet, confusion.parquet, curves.png and model-card.md."""
    folder = storage.join(uri, FOLDER)
    writer.write_parquet(storage.join(folder, "history.parquet"), pa.Table.from_pylist(validation.history))
    writer.write_parquet(storage.join(folder, "confusion.parquet"), validation.confusion())
    writer.write_bytes(
        storage.join(folder, "curves.png"), draw_curves(validation.history, best_epoch=validation.best_epoch)
    )
    card = model_card(validation, provenance, temperature=temperature)
    writer.write_bytes(storage.join(folder, "model-card.md"), card.encode())


def model_card(validation: Validation, provenance: dict[str, Any], *, temperature: float) -> str:
    """What a reader must know before using the model, as Markdown."""
    figures, data, options = validation.figures(), provenance["data"], provenance["options"]
    accuracy = figures["accuracy"]
    lines = [
        "# Model card",
        "",
        "**Not a medical device.** Not for diagnosis, nor for any decision about a patient.",
        "",
        f"A `{options['model']}` network for {len(validation.classes)} classes ({', '.join(validation.classes)}), "
        f"on {options['channels']}-channel images of {options['image_px']} x {options['image_px']} px.",
        "",
        "## Data",
        "",
        f"{data['images']:,} images, {data['pictures']:,} of them distinct to the pixel; "
        f"{data['train_images']:,} to learn from, {data['validation_images']:,} to measure on, none on both sides. "
        f"{data['label_conflicts']:,} picture(s) carry two labels. Data digest `{data['digest']}`.",
        "",
        *_table(("class", "images"), [(name, f"{count:,}") for name, count in data["by_class"].items()]),
        "",
        "## On the validation images",
        "",
        f"Epoch {figures['best_epoch']} of {len(validation.history)}: accuracy {accuracy['value']:.4f} "
        f"({accuracy['low']:.4f} to {accuracy['high']:.4f}), macro F1 {figures['macro_f1']:.4f}, "
        f"ECE {figures['ece']:.4f} at temperature {temperature:g}.",
        "",
        "These figures flatter: the epoch and the temperature were chosen on these images, copies that are resized, "
        "mirrored or recoloured may lie on both sides, and so may neighbouring slices of one patient.",
        "",
        *_table(("class", "images", "recall", "precision", "F1"), _per_class_rows(validation)),
        "",
        "## Made with",
        "",
        f"Options: `{options}`. Versions: `{provenance['versions']}`. It took {provenance['seconds']:.0f} s.",
        "",
    ]
    return "\n".join(lines)


def _per_class_rows(validation: Validation) -> list[tuple[str, ...]]:
    figures = metrics.per_class(validation.tally().confusion)
    return [
        (name, *(_text(figures[key][k]) for key in ("support", "recall", "precision", "f1")))
        for k, name in enumerate(validation.classes)
    ]


def _text(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:,}" if float(value).is_integer() and value > 1 else f"{value:.3f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]
