"""Rows as the counts of `brainray.evaluation` take them, drawn at random."""

from typing import Any

import numpy as np

from brainray.evaluation.counts import REASONS, SCORED


def random_rows(rows: int, classes: int, *, seed: int = 0) -> dict[str, Any]:
    """The `RowArrays` of so many rows: some failed, some have no label."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet([0.5] * classes, rows).astype(np.float32).astype(np.float64)
    return {
        "label_N": rng.integers(0, classes + 1, rows),
        "reason_N": np.where(rng.random(rows) < 0.2, rng.integers(0, len(REASONS), rows), SCORED),
        "predicted_N": probs.argmax(axis=1),
        "confidence_N": probs.max(axis=1),
        "probs_NK": probs,
        "review_N": probs.max(axis=1) < 0.6,
    }
