"""What a search for options tries, what became of each trial, and which one is the best. Knows no Ray and no torch.

A search keeps search.json and one file a trial below `trials/` in its output, so that a trial is run once, whoever
ends the command; trials.csv is a table of them.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from brainray import storage
from brainray.config import TrainOptions
from brainray.errors import BadRequest

from .report import command_of
from .state import TrainRequest

SEARCH, TABLE, _TRIALS = "search.json", "trials.csv", "trials"
RAY = ".ray"  # what Ray Tune keeps; nothing is ever read from it
_VARIED = ("lr", "width", "image_px", "augment")


@dataclass(frozen=True, kw_only=True)
class Space:
    """What trials are drawn from: the rate evenly by its logarithm, the others from what is listed."""

    lr: tuple[float, float]
    width: tuple[float, ...]
    image_px: tuple[int, ...]
    augment: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < self.lr[0] <= self.lr[1]:
            raise BadRequest(f"--lr is {self.lr[0]:g},{self.lr[1]:g}; give two rates above 0, the lower one first")

    def draw(self, base: TrainOptions, number: int) -> TrainOptions:
        """The options of a trial, the same at any time. Number 0 is `base` itself, which the others must beat."""
        if number == 0:
            return base
        rng = np.random.default_rng((base.seed, number))
        lr = float(np.exp(rng.uniform(*np.log(self.lr))))
        listed = {name: rng.choice(getattr(self, name)).item() for name in ("width", "image_px", "augment")}
        return replace(base, lr=float(f"{lr:.2g}"), **listed)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of options and what came of it."""

    number: int
    options: TrainOptions
    history: tuple[dict[str, Any], ...] = ()  # a row an epoch
    ended: bool = False  # with its last epoch, or before it, being worse than others
    failure: str = ""
    parameters: int = 0
    gmac: float = 0.0  # 10^9 multiplications with addition for one image

    @property
    def best(self) -> dict[str, Any] | None:
        """Its best epoch: mean recall over the classes, then loss, as training has it."""
        return max(self.history, key=lambda row: (row["val_balanced_accuracy"], -row["val_loss"]), default=None)

    @property
    def varied(self) -> dict[str, Any]:
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
    """Make the output this search's, unless it is. Raises `BadRequest` for one that holds something else."""
    drawn_from = {name: list(values) for name, values in asdict(space).items()}
    described = {"request": request.described, "space": drawn_from}
    uri = storage.join(output, SEARCH)
    if storage.exists(uri):
        if storage.read_json(uri) != described:
            raise BadRequest(
                f"--output {output} holds the search of another command or of other images; give a new folder, or the "
                "same options (--trials may be more)"
            )
        return
    if storage.exists(output) and storage.list_names(output):
        raise BadRequest(f"--output {output} is not empty and holds no search; give a new folder")
    writer.write_json(uri, described)


def read_trials(output: str, options: Sequence[TrainOptions]) -> list[Trial]:
    """What is known of each trial; those that have not ended, or failed, begin anew."""
    trials = []
    for number, each in enumerate(options):
        uri = trial_uri(output, number)
        found = Trial.from_json(storage.read_json(uri)) if storage.exists(uri) else None
        trials.append(found if found and found.ended and not found.failure else Trial(number=number, options=each))
    return trials


def ranked(trials: list[Trial]) -> list[Trial]:
    """The best first; of equals the one that costs less. Those of which nothing was measured are left out."""

    def order(trial: Trial) -> tuple[float, float, float]:
        best = trial.best or {}
        return -best["val_balanced_accuracy"], best["val_loss"], trial.gmac

    return sorted((trial for trial in trials if trial.best), key=order)


def row_of(trial: Trial) -> dict[str, Any]:
    """A trial as one row of a table."""
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
    """All trials in order of number."""
    rows = [row_of(trial) for trial in trials]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def command_for(trial: Trial) -> str:
    """What trains a model with the options of a trial."""
    return command_of(trial.options.to_json())
