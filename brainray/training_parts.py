"""What a training is made of: one fit, or one for each fold and then one of all images. Knows no Ray.

Each has a checkpoint of its own below `.training/`, so that what is finished is not done again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .config import TrainOptions
from .errors import StorageError
from .training_request import WorkFolder
from .training_set import Chosen

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One fit."""

    name: str  # as it is told; "" where there is but one
    work: WorkFolder

    @property
    def prefix(self) -> str:
        return f"{self.name}, " if self.name else ""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Places in `Chosen.positions`: what a part learns from, and what it is measured on."""

    train: Array
    validation: Array


def parts_of(output: str, options: TrainOptions) -> tuple[Part, ...]:
    """In the order in which they are fitted. The last one's weights are the model's."""
    whole = WorkFolder.of(output)
    if not options.folds:
        return (Part(name="", work=whole),)
    numbers = range(1, options.folds + 1)
    folds = [Part(name=f"fold {n} of {options.folds}", work=whole.part(f"fold-{n}")) for n in numbers]
    return (*folds, Part(name="all images", work=whole))


def sides_of(chosen: Chosen) -> Iterator[Sides]:
    """The sides of each part. What all images are learned from is measured on none."""
    for split in chosen.splits:
        yield Sides(train=split.train, validation=split.validation)
    if len(chosen.splits) > 1:
        yield Sides(train=np.arange(len(chosen.positions)), validation=np.array([], np.int64))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What checkpoints hold, in the order of the parts."""

    states: "tuple[Checkpoint | None, ...]"
    damaged: tuple[str, ...] = ()  # a line for each that cannot be used

    @property
    def data(self) -> dict[str, Any] | None:
        """What was learned from, as far as anything was."""
        return next((state.data for state in self.states if state), None)

    def is_finished(self, options: TrainOptions) -> bool:
        from . import fit

        return all(state is not None and fit.is_finished(state.history, options) for state in self.states)

    @property
    def seconds(self) -> float:
        return float(sum(row["seconds"] for state in self.states if state for row in state.history))


def read_progress(parts: tuple[Part, ...]) -> Progress:
    from . import checkpoint

    states: list[Checkpoint | None] = []
    damaged = []
    for part in parts:
        try:
            states.append(checkpoint.read(part.work.checkpoint))
        except StorageError as exc:
            states.append(None)
            damaged.append(f"{part.work.checkpoint} cannot be used ({exc}); beginning again with epoch 1")
    return Progress(states=tuple(states), damaged=tuple(damaged))
