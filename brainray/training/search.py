"""The files of a hyperparameter search: draws each trial's options, stores its figures and ranks the trials.

The output of a search holds search.json and one file for each trial below `trials/`, so that a search resumes after an
interruption and repeats no finished trial; trials.csv is a table of all. Imports neither Ray nor torch:
`brainray.cluster.tune` runs the trials.
"""

import csv
import io
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from brainray import storage
from brainray.config import TrainOptions
from brainray.errors import BadRequest

from .report import command_of
from .state import TrainRequest

SEARCH, TABLE, _TRIALS = "search.json", "trials.csv", "trials"
RAY = ".ray"  # folder for the state of Ray Tune, from which nothing is ever read
_VARIED = ("lr", "width", "image_px", "augment")


@dataclass(frozen=True, kw_only=True)
class Space:
    """The search space: learning rates from a range, uniform in the logarithm; the other options from lists."""

    lr: tuple[float, float]
    width: tuple[float, ...]
    image_px: tuple[int, ...]
    augment: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < self.lr[0] <= self.lr[1] < math.inf:
            raise BadRequest(f"--lr is {self.lr[0]:g},{self.lr[1]:g}; give two rates above 0, the lower one first")

    def draw(self, base: TrainOptions, number: int) -> TrainOptions:
        """Draw the options of a trial, always the same for the same number. Number 0 is `base`, the baseline."""
        if number == 0:
            return base
        rng = np.random.default_rng((base.seed, number))
        lr = float(np.exp(rng.uniform(*np.log(self.lr))))
        listed = {name: rng.choice(getattr(self, name)).item() for name in ("width", "image_px", "augment")}
        return replace(base, lr=float(f"{lr:.2g}"), **listed)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of options and the figures measured with it. Its JSON form is a stored format."""

    number: int
    options: TrainOptions
    history: tuple[dict[str, Any], ...] = ()  # one row for each epoch
    ended: bool = False  # whether all epochs are done, or the scheduler stopped it early
    failure: str = ""  # why the trial failed; "" where it did not
    parameters: int = 0
    gmac: float = 0.0  # 10^9 multiplications with addition for one image

    @property
    def best(self) -> dict[str, Any] | None:
        """Row of the best epoch by mean recall over the classes, then by loss, as in training."""
        return max(self.history, key=lambda row: (row["val_balanced_accuracy"], -row["val_loss"]), default=None)

    @property
    def varied(self) -> dict[str, Any]:
        """The options that the search varies."""
        return {name: getattr(self.options, name) for name in _VARIED}

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"options": self.options.to_json(), "history": list(self.history)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Trial":
        options = TrainOptions.from_json(values["options"])
        return cls(**values | {"options": options, "history": tuple(values["history"])})


def trial_uri(output: str, number: int) -> str:
    return storage.join(output, _TRIALS, f"trial-{number:04d}.json")


def is_begun(output: str) -> bool:
    """Whether the output holds a search."""
    return storage.exists(storage.join(output, SEARCH))


def begin_search(output: str, request: TrainRequest, space: Space, writer: storage.Writer) -> None:
    """Write search.json, or check that it is equal. Raises `BadRequest` for an output that holds something else."""
    ranges = {name: list(values) for name, values in asdict(space).items()}
    description = {"request": request.described, "space": ranges}
    uri = storage.join(output, SEARCH)
    if storage.exists(uri):
        if storage.read_json(uri) != description:
            raise BadRequest(
                f"--output {output} holds the search of another command or of other images; give a new folder, or the "
                "same options (--trials may be more)"
            )
        return
    if storage.exists(output) and storage.list_names(output):
        raise BadRequest(f"--output {output} is not empty and holds no search; give a new folder")
    writer.write_json(uri, description)


def read_trials(output: str, options: Sequence[TrainOptions]) -> list[Trial]:
    """Read the stored trials; one that is missing, has not ended or has failed is returned without figures."""
    trials = []
    for number, each in enumerate(options):
        uri = trial_uri(output, number)
        stored = Trial.from_json(storage.read_json(uri)) if storage.exists(uri) else None
        trials.append(stored if stored and stored.ended and not stored.failure else Trial(number=number, options=each))
    return trials


def ranked(trials: list[Trial]) -> list[Trial]:
    """Sort trials, the best first and of equals the cheaper first. Those that failed or have no epoch are left out."""

    def order(trial: Trial) -> tuple[float, float, float]:
        best = trial.best or {}
        return -best["val_balanced_accuracy"], best["val_loss"], trial.gmac

    return sorted((trial for trial in trials if trial.best and not trial.failure), key=order)


def row_of(trial: Trial) -> dict[str, Any]:
    """Describe a trial as one row of trials.csv."""
    best = trial.best or {}
    return {
        "trial": trial.number,
        **trial.varied,
        "epochs": len(trial.history),
        "accuracy": best.get("val_accuracy"),
        "mean_recall": best.get("val_balanced_accuracy"),
        "loss": best.get("val_loss"),
        "parameters": trial.parameters,
        "gmac": round(trial.gmac, 4),
        "seconds": round(sum(row["seconds"] for row in trial.history), 1),
        "failure": trial.failure,
    }


def table_csv(trials: list[Trial]) -> bytes:
    """Encode trials as CSV with a header, in the order given."""
    rows = [row_of(trial) for trial in trials]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def command_for(trial: Trial, *, given: Collection[str] = ()) -> str:
    """Return the command that trains a model with the options of a trial, and those `given` beside them."""
    return command_of(trial.options.to_json(), given=given)
