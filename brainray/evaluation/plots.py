"""Pictures as PNG bytes: the confusion matrix of a run, the curves and the reliability of a training.

Imports matplotlib only to draw.
"""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import metrics
from .counts import Counts, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def draw_confusion(tally: Counts, classes: Sequence[str]) -> bytes:
    """A PNG: the confusion matrix, or the predictions where no image is scored and labelled."""
    from matplotlib.figure import Figure  # half a second that only a picture is worth

    side = min(3 + 0.45 * len(classes), 24)  # inches
    figure = Figure(figsize=(side + 2.5, side + 1.5), layout="constrained")
    axes = figure.subplots()
    names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
    if tally.scored_and_labelled:
        image = _draw_matrix(axes, tally.confusion, names)
        figure.colorbar(image, ax=axes, label="share of the images with this label", shrink=0.8)
    else:
        _draw_predicted(axes, tally.predicted, names)
    axes.set_title(_title(tally), fontsize=9 + side / 3)
    return _png(figure)


def _draw_matrix(axes: "Axes", confusion: Ints, names: Sequence[str]) -> "AxesImage":
    """Counts, shaded by their share of the row. From 13 classes on, zeros are left out; from 51 on, all counts."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    few, places = len(names) <= 12, range(len(names))
    for label, predicted in np.argwhere((confusion > 0) | few) if len(names) <= 50 else ():
        colour = "white" if shares[label, predicted] > 0.5 else "black"
        text = _short(int(confusion[label, predicted]))
        axes.text(predicted, label, text, ha="center", va="center", color=colour, fontsize=10 if few else 7)
    # parse_math: a class name may hold a $
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(places, names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    return image


def _draw_predicted(axes: "Axes", predicted: Ints, names: Sequence[str]) -> None:
    bars = axes.barh(range(len(names)), predicted)
    axes.bar_label(bars, [_short(images) for images in predicted.tolist()], padding=3)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("images")
    axes.set_ylabel("predicted")


def _short(images: int) -> str:
    """At most five characters: 9999, 123k, 4.5M."""
    if images < 10_000:
        return str(images)
    return f"{images / 1e3:.0f}k" if images < 999_500 else f"{images / 1e6:.1f}M"


def _title(tally: Counts) -> str:
    accuracy = metrics.accuracy(tally)
    if accuracy is None:
        first = f"predictions of {tally.ok:,} images"
    else:
        value, low, high = (f"{100 * x:.1f}" for x in accuracy)
        first = f"accuracy {value} % ({low} to {high}), n = {tally.scored_and_labelled:,}"
    return f"{first}\n{tally.failed:,} images could not be scored, {tally.unlabelled:,} have no label"


def draw_curves(history: Sequence[dict[str, Any]], *, best_epoch: int) -> bytes:
    """Loss and accuracy by epoch."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, name in (("train_loss", "training"), ("val_loss", "validation")):
        left.plot(epochs, [row[key] for row in history], label=name)
    for key, name in (("val_accuracy", "accuracy"), ("val_balanced_accuracy", "mean recall")):
        right.plot(epochs, [row[key] for row in history], label=name)  # None, where nothing was measured, leaves a gap
    left.set_title("Loss (training images are augmented)")
    right.set_title("On the validation images")
    for axes in (left, right):
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"epoch kept: {best_epoch}")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    return _png(figure)


def draw_reliability(tally: Counts) -> bytes:
    """Share of right predictions by confidence: on the diagonal a model is as good as it says."""
    from matplotlib.figure import Figure

    names = ("mean_confidence", "accuracy", "images")
    bins = [[float(found[name] or 0) for name in names] for found in metrics.calibration_bins(tally) if found["images"]]
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as good as it says")
    axes.plot([confidence for confidence, _, _ in bins], [share for _, share, _ in bins], marker="o", label="measured")
    for confidence, share, images in bins:
        axes.annotate(_short(int(images)), (confidence, share), (4, -10), textcoords="offset points", fontsize=7)
    axes.set_title(
        f"ECE {metrics.expected_calibration_error(tally) or 0:.4f}, with the pictures in each bin", fontsize=10
    )
    axes.set_xlabel("mean confidence of the bin")
    axes.set_ylabel("share that is right")
    axes.legend(loc="upper left")
    return _png(figure)


def _png(figure: "Figure") -> bytes:
    """The same bytes for the same figure: no date, no version."""
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a class name in a script that the font lacks is drawn as boxes
        figure.savefig(sink, format="png", dpi=120, metadata={"Software": None})
    return sink.getvalue()
