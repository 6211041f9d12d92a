"""Calibrates a finished training: temperature, class bias and review threshold, measured on validation images.

Reads checkpoints only; must not start or resume any fit. Axes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainray.config import Calibration
from brainray.evaluation.calibration import Labels, Review, cross_review, fit_temperature, rare_class_bias, softmax
from brainray.models.bundle import weights_bytes

from .checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The trained and calibrated model, and its calibrated probabilities for every validation image."""

    weights: bytes  # a safetensors file: the weights of the best epoch
    calibration: Calibration
    review: Review  # `calibration.review_below` is its threshold
    probs_NK: npt.NDArray[np.float64]
    labels_N: npt.NDArray[np.int64]
    fold_N: npt.NDArray[np.int64]  # from 0; the fold in which an image was validated
    positions_N: npt.NDArray[np.int64] | None  # in the training set; None where earlier versions measured


def calibrate(checkpoints: Sequence[Checkpoint]) -> FitResult:
    """Calibrate the model of the last checkpoint.

    A single checkpoint is calibrated on its own validation images. Of several, all but the last have measured a fold
    each; each fold's probabilities use the temperature of the other folds, so that no image calibrates itself.
    """
    measured = list(checkpoints[:-1]) or list(checkpoints)
    logits = [each.logits_NK.numpy() for each in measured]
    labels = [each.labels_N.numpy() for each in measured]
    class_bias = rare_class_bias(np.array(list(checkpoints[-1].data["pictures_by_class"].values())))
    probs_NK = np.concatenate(
        [
            softmax(fold_logits, _temperature_without(fold, logits, labels), class_bias)
            for fold, fold_logits in enumerate(logits)
        ]
    )
    labels_N = np.concatenate(labels)
    fold_N = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
    review = cross_review(probs_NK.max(1), probs_NK.argmax(1) == labels_N, fold_N)
    temperature = fit_temperature(np.concatenate(logits), labels_N)
    return FitResult(
        weights=weights_bytes(checkpoints[-1].best),
        calibration=Calibration(temperature=temperature, class_bias=class_bias, review_below=review.below),
        review=review,
        probs_NK=probs_NK,
        labels_N=labels_N,
        fold_N=fold_N,
        positions_N=_positions(measured),
    )


def _positions(measured: Sequence[Checkpoint]) -> npt.NDArray[np.int64] | None:
    known = [each.positions_N.numpy() for each in measured if each.positions_N is not None]
    return np.concatenate(known) if len(known) == len(measured) else None


def _temperature_without(fold: int, logits: list[npt.NDArray[np.float32]], labels: list[Labels]) -> float:
    """Fit the temperature on all folds but one; on that one where there is no other."""
    others = [other for other in range(len(logits)) if other != fold] or [fold]
    return fit_temperature(np.concatenate([logits[n] for n in others]), np.concatenate([labels[n] for n in others]))
