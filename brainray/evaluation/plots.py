"""Plots as PNG bytes: the confusion matrix of a run, the learning curves and the reliability diagram of a training.

Functions import matplotlib when they draw; importing this module must not. No plot is written to a file.
"""

import io
import logging
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brainray.machine.hardware import is_writable
from brainray.storage.scratch import temporary_folder

from . import metrics
from .counts import Counts, Ints
from .rounding import in_percent, percent_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def _new_figure(**options: Any) -> "Figure":  # noqa: ANN401
    """An empty figure. Imports matplotlib, which takes 0.5 s, without its messages on where it caches fonts."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    own = [os.path.expanduser(f"~/{folder}/matplotlib") for folder in (".config", ".cache")]
    if "MPLCONFIGDIR" not in os.environ and not all(map(is_writable, own)):
        # Else it would make a folder at each import, and leave it where the process ends by `os._exit`.
        os.environ["MPLCONFIGDIR"] = f"{temporary_folder()}/matplotlib-of-{os.getuid()}"
    from matplotlib.figure import Figure

    return Figure(**options)


def make_plots_ready() -> None:
    """Draw a plot that nobody sees: imports matplotlib and reads its fonts, so that the next plot takes less time."""
    figure = _new_figure(figsize=(1, 1), layout="constrained")
    figure.subplots().set_title("0")
    _png(figure)


def draw_confusion(counts: Counts, classes: Sequence[str]) -> bytes:
    """A PNG of the confusion matrix, or of the predicted classes where no image is scored and labelled."""
    side = min(3 + 0.45 * len(classes), 24)  # inches
    figure = _new_figure(figsize=(side + 2.5, side + 1.5), layout="constrained")
    axes = figure.subplots()
    names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
    if counts.scored_and_labelled:
        image = _draw_matrix(axes, counts.confusion, names)
        figure.colorbar(image, ax=axes, label="share of the images with this label", shrink=0.8)
    else:
        _draw_predicted(axes, counts.predicted, names)
    axes.set_title(_title(counts), fontsize=9 + side / 3)
    return _png(figure)


def _draw_matrix(axes: "Axes", confusion: Ints, names: Sequence[str]) -> "AxesImage":
    """Counts, shaded by their share of the row. Zeros are left out from 13 classes on, all counts from 51 on."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    few, places = len(names) <= 12, range(len(names))
    for label, predicted in np.argwhere((confusion > 0) | few) if len(names) <= 50 else ():
        colour = "white" if shares[label, predicted] > 0.5 else "black"
        text = _short(int(confusion[label, predicted]))
        axes.text(predicted, label, text, ha="center", va="center", color=colour, fontsize=10 if few else 7)
    # parse_math=False: a class name may contain a $.
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(places, names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    return image


def _draw_predicted(axes: "Axes", predicted: Ints, names: Sequence[str]) -> None:
    """A bar for the images of each predicted class."""
    bars = axes.barh(range(len(names)), predicted)
    axes.bar_label(bars, [_short(images) for images in predicted.tolist()], padding=3)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("images")
    axes.set_ylabel("predicted")


def _short(images: int) -> str:
    """A count in at most five characters: 9999, 123k, 4.5M."""
    if images < 10_000:
        return str(images)
    return f"{images / 1e3:.0f}k" if images < 999_500 else f"{images / 1e6:.1f}M"


def _title(counts: Counts) -> str:
    """Accuracy with its interval, and the images that it leaves out."""
    accuracy = metrics.accuracy(counts)
    if accuracy is None:
        first = f"predictions of {counts.ok:,} images"
    else:
        value, ends = in_percent(accuracy.value), percent_ends(accuracy.low, accuracy.high)
        first = f"accuracy {value} % ({ends}), n = {counts.measured:,}"
    unlabelled = counts.unlabelled - int(counts.judged_wrong.sum())
    return f"{first}\n{counts.failed:,} images could not be scored, {unlabelled:,} have no label"


def draw_curves(history: Sequence[dict[str, Any]], *, best_epoch: int) -> bytes:
    """A PNG of loss and accuracy by epoch. `history` has a row of figures for each epoch."""
    epochs = [row["epoch"] for row in history]
    figure = _new_figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, name in (("train_loss", "training"), ("val_loss", "validation")):
        left.plot(epochs, [row[key] for row in history], label=name)
    for key, name in (("val_accuracy", "accuracy"), ("val_balanced_accuracy", "mean recall")):
        right.plot(epochs, [row[key] for row in history], label=name)  # None leaves a gap
    left.set_title("Loss (training images are augmented)")
    right.set_title("On the validation images")
    for axes in (left, right):
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"epoch kept: {best_epoch}")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    return _png(figure)


def draw_reliability(counts: Counts) -> bytes:
    """A PNG of the reliability diagram: accuracy by confidence; a calibrated model lies on the diagonal."""
    names = ("mean_confidence", "accuracy", "images")
    filled = [each for each in metrics.calibration_bins(counts) if each["images"]]
    bins = [[float(each[name] or 0) for name in names] for each in filled]
    figure = _new_figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as good as it says")
    axes.plot([confidence for confidence, _, _ in bins], [share for _, share, _ in bins], marker="o", label="measured")
    for confidence, share, images in bins:
        axes.annotate(_short(int(images)), (confidence, share), (4, -10), textcoords="offset points", fontsize=7)
    axes.set_title(
        f"ECE {metrics.expected_calibration_error(counts) or 0:.4f}, with the pictures in each bin", fontsize=10
    )
    axes.set_xlabel("mean confidence of the bin")
    axes.set_ylabel("share that is right")
    axes.legend(loc="upper left")
    return _png(figure)


def _png(figure: "Figure") -> bytes:
    """The figure as PNG, without date and version, so that equal figures give equal bytes."""
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a class name in a script that the font lacks is drawn as boxes
        figure.savefig(sink, format="png", dpi=120, metadata={"Software": None})
    return sink.getvalue()
