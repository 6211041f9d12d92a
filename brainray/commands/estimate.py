"""What `brainray estimate` does: say from the labels of a sample how good a run is. Needs neither Ray nor torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from os import fspath
from typing import Any

from brainray import storage
from brainray.callbacks import Say, ignore
from brainray.errors import BadRequest, as_bad_request
from brainray.evaluation.metrics import IntervalEstimate
from brainray.evaluation.rounding import with_ends
from brainray.page.text import plural
from brainray.scoring.labelling.answers import read_labels
from brainray.scoring.labelling.estimates import estimate_figures
from brainray.scoring.labelling.picks import read_pick
from brainray.scoring.run_folder import check_is_run

from .options import AnyPath, several


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimateResult:
    """What the labels of a sample say of all images that it was drawn from. Intervals are of 95 %."""

    run: str  # URI
    figures: dict[str, Any] = field(repr=False)  # what `--json` prints

    @property
    def accuracy(self) -> IntervalEstimate:
        return IntervalEstimate(**self.figures["accuracy"])

    @property
    def recall(self) -> dict[str, IntervalEstimate | None]:
        """Of each class; None where no image of it was found."""
        return {
            each["class"]: IntervalEstimate(**each["recall"]) if each["recall"] else None
            for each in self.figures["classes"]
        }

    @property
    def prevalence(self) -> dict[str, IntervalEstimate]:
        """The share of each class among the images."""
        return {each["class"]: IntervalEstimate(**each["prevalence"]) for each in self.figures["classes"]}

    def __str__(self) -> str:
        images, labels = self.figures["images"], self.figures["labels"]["answered"]
        return f"accuracy {with_ends(*self.accuracy)} of {plural(images, 'image')} by {plural(labels, 'label')}"


def estimate(run: AnyPath, labels: AnyPath | Iterable[AnyPath], *, seed: int = 0, say: Say = ignore) -> EstimateResult:
    """Estimate accuracy, recall and prevalence of a run from the labels of the images that `pick` drew with a seed.

    `labels` is the filled-in list, or what its page exported; one file, or one of each person. Writes nothing.
    """
    uri = storage.normalise(fspath(run))
    files = tuple(storage.normalise(text) for text in several(labels))
    with as_bad_request("RUN"):
        values = check_is_run(uri)
        pick = read_pick(uri, seed)
    if pick is None:
        raise BadRequest(f"{uri} has no sample of seed {seed}; draw one with `brainray pick`, or give its --seed")
    if pick.figures["fingerprint"] != values["fingerprint"]:
        raise BadRequest(
            f"{uri} was scored by another model since {pick.uri} was drawn; draw a new sample with another --seed"
        )
    answers = read_labels(pick, files)
    if answers.other_content:
        say(
            f"--labels: {answers.other_content:,} answer(s) are left out, as their image, or the prediction that they "
            "call wrong, is another than the one that was answered"
        )
    if answers.not_picked:
        say(
            f"--labels: {answers.not_picked:,} label(s) of images that were not picked are not used: how those images "
            "were chosen is not known"
        )
    return EstimateResult(run=uri, figures=estimate_figures(pick, answers))
