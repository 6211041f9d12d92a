"""The figures of summary.json that a run and each of its groups have alike."""

from collections.abc import Sequence
from typing import Any

from brainray.evaluation import metrics
from brainray.evaluation.counts import Counts

from .unseen import quality_figures


def outcome_figures(counts: Counts, classes: Sequence[str], *, seen: Counts | None) -> dict[str, Any]:
    """The figures of a whole run or of one group; `seen` are the counts of the images that the model learned from."""
    images = counts.ok + counts.failed + counts.excluded
    return {
        "totals": {
            "images": images,
            "ok": counts.ok,
            "failed": counts.failed,
            "excluded": counts.excluded,
            "labelled": images - counts.unlabelled,
            "unlabelled": counts.unlabelled,
            "scored_and_labelled": counts.scored_and_labelled,
        },
        "predicted": dict(zip(classes, counts.predicted.tolist(), strict=True)),
        "mean_confidence": metrics.mean_confidence(counts),
        "for_review": int(counts.review[:, 0].sum()),
        **quality_figures(counts, seen),
    }
