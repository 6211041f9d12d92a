"""What a training is asked for, and what of it an output holds already. Knows no Ray and no torch.

A training keeps its state in `.training/` below the output: request.json is written first, and the folder goes when
the bundle is whole. So a folder with a request and no bundle is a training to go on with.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from brainray import storage
from brainray.callbacks import Say
from brainray.config import TrainOptions
from brainray.errors import BadRequest, StorageError
from brainray.models.bundle import DESCRIPTION, WEIGHTS

from .dataset import SelectedImages, TrainingSet
from .report import FOLDER as REPORT
from .splits import Split

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


WORK = ".training"
_REQUEST = "request.json"
_CHECKPOINT = "checkpoint.pt"
_PROGRESS = "progress.json"
FIRST_FOLD = "fold-1"
_RAY = "ray"  # what Ray Train keeps of its runs; nothing is ever read from it

TrainingState = Literal["nothing", "unfinished", "trained"]


@dataclass(frozen=True, kw_only=True)
class WorkFolder:
    """The names below `.training/`."""

    uri: str

    @classmethod
    def of(cls, output: str) -> "WorkFolder":
        return cls(uri=storage.join(output, WORK))

    @property
    def request(self) -> str:
        return storage.join(self.uri, _REQUEST)

    @property
    def checkpoint(self) -> str:
        return storage.join(self.uri, _CHECKPOINT)

    @property
    def progress(self) -> str:
        return storage.join(self.uri, _PROGRESS)

    @property
    def ray(self) -> str:
        return storage.join(self.uri, _RAY)

    def part(self, name: str) -> "WorkFolder":
        """That of one of several fits."""
        return WorkFolder(uri=storage.join(self.uri, name))

    def is_begun(self) -> bool:
        """Whether there is a checkpoint, or one of the first fold."""
        return any(storage.exists(work.checkpoint) for work in (self, self.part(FIRST_FOLD)))

    def history(self) -> list[dict[str, Any]]:
        """Epochs finished so far, for who only wants to look; none where the file is not there (yet, or here)."""
        try:
            rows: list[dict[str, Any]] = storage.read_json(self.progress)["history"]
            return rows
        except (StorageError, KeyError):
            return []


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """All that decides which model comes out. The number of workers is no part of it: it may change on the way."""

    described: dict[str, Any]

    @property
    def digest(self) -> str:
        canonical = json.dumps(self.described, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def describe_request(
    options: TrainOptions,
    training_set: TrainingSet,
    excluded: pa.Table | None,
) -> TrainRequest:
    """The request of a command whose listings are `training_set` and `excluded`."""
    values = {name: value for name, value in options.to_json().items() if name not in ("workers", "most_workers")}
    return TrainRequest(
        described={
            "options": values,
            "classes": list(training_set.classes),
            "images": _digest_of_listing(training_set.table),
            "excluded": None if excluded is None else _digest_of_listing(excluded),
        }
    )


def _digest_of_listing(table: pa.Table) -> str:
    """Of name, label, size and version of every image."""
    digest = hashlib.sha256()
    for uri, label, version in zip(*(table[name].to_pylist() for name in ("uri", "label", "version")), strict=True):
        digest.update(f"{uri}\0{label}\0{version}\n".encode())
    return digest.hexdigest()[:32]


def check_is_folder(output: str) -> None:
    """Raise `BadRequest` for an output that is a file."""
    if storage.exists(output) and not storage.is_folder(output):
        raise BadRequest(f"--output {output} is a file; give a folder that is new or empty")


def inspect_output(output: str, request: TrainRequest) -> TrainingState:
    """What the output, a folder or nothing, holds of this request. Raises `BadRequest` where it holds another's."""
    if storage.exists(storage.join(output, DESCRIPTION)):
        if _digest_of_bundle(output) == request.digest:
            return "trained"
        raise BadRequest(f"--output {output} holds a model already; give a new folder, or remove that one")
    work = WorkFolder.of(output)
    own = {WEIGHTS, REPORT} if storage.exists(work.request) else set()  # of a bundle that was being written
    if set(storage.list_names(output)) - own:
        raise BadRequest(f"--output {output} is not empty and holds no model; give a new folder")
    if not storage.exists(work.request) or not work.is_begun():
        return "nothing"
    _check_same(output, request)
    return "unfinished"


def _digest_of_bundle(output: str) -> str | None:
    try:
        provenance = storage.read_json(storage.join(output, DESCRIPTION)).get("provenance")
    except StorageError:
        return None
    return provenance.get("request") if isinstance(provenance, dict) else None


def _check_same(output: str, request: TrainRequest) -> None:
    work = WorkFolder.of(output)
    try:
        before = storage.read_json(work.request)
    except StorageError as exc:
        raise BadRequest(
            f"--output {output} holds an unfinished training of which one cannot say what it was to be ({exc}); "
            f"delete {work.uri} to begin anew"
        ) from exc
    if before.get("digest") == request.digest:
        return
    changes = ", ".join(differences(before.get("described"), request.described)) or "another version of brainray"
    raise BadRequest(
        f"--output {output} holds an unfinished training of another request: {changes}; "
        f"run that one again to go on with it, or delete {work.uri} to begin anew"
    )


def differences(before: object, now: dict[str, Any]) -> Iterator[str]:
    """In broad terms, for people: options by name with both values, and whether images or classes are others."""
    if not isinstance(before, dict):
        return
    then = before.get("options")
    old: dict[str, Any] = then if isinstance(then, dict) else {}
    for name in sorted(old.keys() | now["options"].keys()):
        if old.get(name) != now["options"].get(name):
            yield f"--{name.replace('_', '-')} was {old.get(name)} and is {now['options'].get(name)}"
    told = {"classes": "other classes", "images": "other images below --data", "excluded": "another --exclude"}
    for name, words in told.items():
        if before.get(name) != now[name]:
            yield words


def begin_training(output: str, request: TrainRequest, *, writer: storage.Writer) -> None:
    """Make an output that of this request. What another training may have left there would be gone on with: it goes."""
    work = WorkFolder.of(output)
    writer.delete_tree(work.uri)
    writer.write_json(work.request, {"digest": request.digest, "described": request.described})


_FOLLOW_S = 1.0


@dataclass(frozen=True, kw_only=True)
class FitPart:
    """One fit."""

    name: str  # as it is told; "" where there is but one
    work: WorkFolder

    @property
    def prefix(self) -> str:
        return f"{self.name}, " if self.name else ""


def parts_of(output: str, options: TrainOptions) -> tuple[FitPart, ...]:
    """In the order in which they are fitted. The last one's weights are the model's."""
    whole = WorkFolder.of(output)
    if not options.folds:
        return (FitPart(name="", work=whole),)
    numbers = range(1, options.folds + 1)
    folds = [FitPart(name=f"fold {n} of {options.folds}", work=whole.part(f"fold-{n}")) for n in numbers]
    return (*folds, FitPart(name="all images", work=whole))


def splits_of(chosen: SelectedImages) -> Iterator[Split]:
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


def read_progress(parts: tuple[FitPart, ...]) -> Progress:
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
def following(part: FitPart, *, epochs: int, say: Say) -> Iterator[None]:
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
