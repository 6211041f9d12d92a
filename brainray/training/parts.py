"""What a training is made of: one fit, or one for each fold and then one of all images. Knows no Ray.

Each has a checkpoint of its own below `.training/`, so that what is finished is not done again.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from brainray.config import TrainOptions
from brainray.errors import StorageError

from .dataset import Chosen
from .splits import Split
from .state import WorkFolder

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


_FOLLOW_S = 1.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One fit."""

    name: str  # as it is told; "" where there is but one
    work: WorkFolder

    @property
    def prefix(self) -> str:
        return f"{self.name}, " if self.name else ""


def parts_of(output: str, options: TrainOptions) -> tuple[Part, ...]:
    """In the order in which they are fitted. The last one's weights are the model's."""
    whole = WorkFolder.of(output)
    if not options.folds:
        return (Part(name="", work=whole),)
    numbers = range(1, options.folds + 1)
    folds = [Part(name=f"fold {n} of {options.folds}", work=whole.part(f"fold-{n}")) for n in numbers]
    return (*folds, Part(name="all images", work=whole))


def splits_of(chosen: Chosen) -> Iterator[Split]:
    """The split of each part. What all images are learned from is measured on none."""
    yield from chosen.splits
    if len(chosen.splits) > 1:
        yield Split(train=np.arange(len(chosen.positions)), validation=np.array([], np.int64))


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
        from . import loop

        return all(state is not None and loop.is_finished(state.history, options) for state in self.states)

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


@contextmanager
def following(part: Part, *, epochs: int, say: Say) -> Iterator[None]:
    """Say each epoch as it is finished, from the file the first worker keeps."""
    done = threading.Event()
    told = len(part.work.history())

    def follow() -> None:
        nonlocal told
        while True:
            last_look = done.wait(_FOLLOW_S)
            for row in part.work.history()[told:]:
                told += 1
                say(part.prefix + epoch_line(row, epochs))
            if last_look:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(10)


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    validation = ""
    if row["val_images"]:
        validation = (
            f"validation: loss {row['val_loss']:.3f}, accuracy {row['val_accuracy']:.4f}, "
            f"mean recall {row['val_balanced_accuracy']:.4f}{' *' if row['best'] else '  '}  "
        )
    return (
        f"epoch {row['epoch']:>3}/{epochs}  loss {row['train_loss']:.3f}  {validation}"
        f"{row['images_per_s']:,.0f} images/s, {row['seconds']:.0f} s"
    )
