"""Calibrates a finished training: temperature, class bias and review threshold, measured on validation images.

Reads checkpoints only; must not start or resume any fit. Axes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from brainray.config import Calibration
from brainray.evaluation.calibration import rare_class_bias
from brainray.evaluation.review import Review, calibrate_review, withhold
from brainray.models.bundle import weights_bytes

from .checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What the fits say of validation images."""

    logits_NK: npt.NDArray[np.float32]
    labels_N: npt.NDArray[np.int64]
    fold_N: npt.NDArray[np.int64]  # from 0; the fold in which an image was validated
    positions_N: npt.NDArray[np.int64] | None  # in the training set; None where earlier versions measured

    @classmethod
    def of(cls, checkpoints: Sequence[Checkpoint]) -> Self:
        """All that was measured: by the folds, which are all checkpoints but the last, or by the only one."""
        measured = list(checkpoints[:-1]) or list(checkpoints)
        known = [each.positions_N.numpy() for each in measured if each.positions_N is not None]
        return cls(
            logits_NK=np.concatenate([each.logits_NK.numpy() for each in measured]),
            labels_N=np.concatenate([each.labels_N.numpy() for each in measured]),
            fold_N=np.repeat(np.arange(len(measured)), [len(each.labels_N) for each in measured]),
            positions_N=np.concatenate(known) if len(known) == len(measured) else None,
        )

    def at(self, taken_N: npt.NDArray[np.bool_] | None) -> Self:
        """Those of a mask; all for None."""
        if taken_N is None:
            return self
        positions_N = None if self.positions_N is None else self.positions_N[taken_N]
        rows = {name: getattr(self, name)[taken_N] for name in ("logits_NK", "labels_N", "fold_N")}
        return replace(self, positions_N=positions_N, **rows)


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The trained and calibrated model, and its calibrated probabilities for every validation image."""

    weights: bytes  # a safetensors file: the weights of the best epoch
    calibration: Calibration
    review: Review  # `calibration.review_below` is its threshold
    probs_NK: npt.NDArray[np.float64]


def calibrate(
    last: Checkpoint, measured: Measured, unit_N: npt.NDArray[np.int64] | None = None, *, flatters: bool = False
) -> FitResult:
    """Calibrate the model of the last checkpoint.

    Without folds it is calibrated on its own validation images. With folds, temperature and threshold are those of all
    of them, and the probabilities of a fold use the temperature of the others, so that no image calibrates itself.
    `unit_N` are the units of the images; None where each is one. `flatters`: they may have been learned from.
    """
    class_bias = rare_class_bias(np.array(list(last.data["pictures_by_class"].values())))
    logits_NK, labels_N = measured.logits_NK, measured.labels_N
    if flatters:
        calibrated = withhold(logits_NK, labels_N, class_bias=class_bias)
    else:
        calibrated = calibrate_review(logits_NK, labels_N, fold_N=measured.fold_N, unit_N=unit_N, class_bias=class_bias)
    temperature, review, probs_NK = calibrated
    return FitResult(
        weights=weights_bytes(last.best),
        calibration=Calibration(temperature=temperature, class_bias=class_bias, review_below=review.below),
        review=review,
        probs_NK=probs_NK,
    )
