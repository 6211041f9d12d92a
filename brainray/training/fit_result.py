"""Calibrates a finished training: temperature, class bias and review threshold, measured on validation images.

Reads checkpoints only; must not start or resume any fit. Axes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brainray.config import Calibration
from brainray.evaluation.calibration import rare_class_bias
from brainray.evaluation.review import Review, calibrate_review
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


def calibrate(checkpoints: Sequence[Checkpoint], unit_N: npt.NDArray[np.int64] | None = None) -> FitResult:
    """Calibrate the model of the last checkpoint.

    A single checkpoint is calibrated on its own validation images. Of several, all but the last have measured a fold
    each; temperature and threshold are those of all folds, and the probabilities of a fold use the temperature of the
    others, so that no image calibrates itself. `unit_N` are the units of `measured_positions`; None without groups.
    """
    measured = _measured(checkpoints)
    labels = [each.labels_N.numpy() for each in measured]
    labels_N = np.concatenate(labels)
    fold_N = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
    class_bias = rare_class_bias(np.array(list(checkpoints[-1].data["pictures_by_class"].values())))
    logits_NK = np.concatenate([each.logits_NK.numpy() for each in measured])
    temperature, review, probs_NK = calibrate_review(
        logits_NK, labels_N, fold_N=fold_N, unit_N=unit_N, class_bias=class_bias
    )
    return FitResult(
        weights=weights_bytes(checkpoints[-1].best),
        calibration=Calibration(temperature=temperature, class_bias=class_bias, review_below=review.below),
        review=review,
        probs_NK=probs_NK,
        labels_N=labels_N,
        fold_N=fold_N,
        positions_N=measured_positions(checkpoints),
    )


def measured_positions(checkpoints: Sequence[Checkpoint]) -> npt.NDArray[np.int64] | None:
    """The positions of the validation images in the training set; None where earlier versions measured."""
    measured = _measured(checkpoints)
    known = [each.positions_N.numpy() for each in measured if each.positions_N is not None]
    return np.concatenate(known) if len(known) == len(measured) else None


def _measured(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those whose validation images are measured: the folds, or the only one."""
    return list(checkpoints[:-1]) or list(checkpoints)
