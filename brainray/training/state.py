"""The state of a training in its output: the request, one checkpoint for each fit, and their progress.

A training keeps its state in `.training/` below the output. request.json is written first, and the folder is deleted
when the bundle is complete; so a folder with a request and no bundle is an unfinished training to resume. Imports no
Ray, and torch only where a checkpoint is read. All names and keys here are a stored format.
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
from .group_figures import MeasuredGroups
from .report import FOLDER as REPORT
from .splits import Split

if TYPE_CHECKING:
    import numpy.typing as npt

    from .checkpoint import Checkpoint

WORK = ".training"
_REQUEST = "request.json"
_CHECKPOINT = "checkpoint.pt"
_PROGRESS = "progress.json"
_GROUPS = "groups.parquet"
_DESCRIBED = "described.parquet"
FIRST_FOLD = "fold-1"
_RAY = "ray"  # folder for the state of Ray Train, from which nothing is ever read
_POLL_S = 1.0  # between two reads of the progress file

TrainingState = Literal["nothing", "unfinished", "trained"]


@dataclass(frozen=True, kw_only=True)
class WorkFolder:
    """The paths below `.training/`, or below the folder of one fit in it."""

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
    def groups(self) -> str:
        return storage.join(self.uri, _GROUPS)

    @property
    def described(self) -> str:
        return storage.join(self.uri, _DESCRIBED)

    @property
    def ray(self) -> str:
        return storage.join(self.uri, _RAY)

    def part(self, name: str) -> "WorkFolder":
        """Return the work folder of one of several fits."""
        return WorkFolder(uri=storage.join(self.uri, name))

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint of the only fit, or of the first fold."""
        return any(storage.exists(work.checkpoint) for work in (self, self.part(FIRST_FOLD)))

    def history(self) -> list[dict[str, Any]]:
        """Rows of the epochs finished so far, for the log; empty where progress.json is missing or unreadable."""
        try:
            rows: list[dict[str, Any]] = storage.read_json(self.progress)["history"]
            return rows
        except (StorageError, KeyError):
            return []


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Everything that determines the resulting model. The number of workers does not: it may change on resuming."""

    described: dict[str, Any]

    @property
    def digest(self) -> str:
        """Digest by which an output recognises its request."""
        canonical = json.dumps(self.described, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def describe_request(
    options: TrainOptions,
    training_set: TrainingSet,
    excluded: pa.Table | None,
) -> TrainRequest:
    """Build the request from the options and the listings of --data and --exclude."""
    unneeded = {"workers", "most_workers"} | (set() if training_set.has_boxes else {"region_weight"})
    unneeded |= {"teacher"} if options.teacher is None else set()  # earlier versions had none of these options
    unneeded |= set() if options.all_series else {"all_series"}
    values = {name: value for name, value in options.to_json().items() if name not in unneeded}
    return TrainRequest(
        described={
            "options": values,
            "classes": list(training_set.classes),
            "images": _digest_of_listing(training_set.table),
            "excluded": None if excluded is None else _digest_of_listing(excluded),
        }
        # Only with --groups or --boxes, so that a request without has the digest that earlier versions gave it.
        | ({"groups": _digest_of_columns(training_set.table, "uri", "group")} if training_set.has_group_file else {})
        | ({"boxes": _digest_of_columns(training_set.table, "uri", "box")} if training_set.has_boxes else {})
    )


def _digest_of_listing(table: pa.Table) -> str:
    """Digest of the URI, label, size and version of every image."""
    return _digest_of_columns(table, "uri", "label", "version")


def _digest_of_columns(table: pa.Table, *names: str) -> str:
    digest = hashlib.sha256()
    for values in zip(*(table[name].to_pylist() for name in names), strict=True):
        digest.update(("\0".join("" if value is None else str(value) for value in values) + "\n").encode())
    return digest.hexdigest()[:32]


def check_is_folder(output: str) -> None:
    """Raise `BadRequest` for an output that is a file, or lies below one."""
    storage.check_is_folder("--output", output, give="a folder that is new or empty")


def inspect_output(output: str, request: TrainRequest) -> TrainingState:
    """Find the state of this request in the output. Raises `BadRequest` where the output holds another one's."""
    if storage.exists(storage.join(output, DESCRIPTION)):
        if _digest_of_bundle(output) == request.digest:
            return "trained"
        raise BadRequest(f"--output {output} holds a model already; give a new folder, or remove that one")
    work = WorkFolder.of(output)
    bundle_files = (
        {WEIGHTS, REPORT} if storage.exists(work.request) else set()
    )  # parts of a bundle whose writing was interrupted
    if set(storage.list_names(output)) - bundle_files:
        raise BadRequest(f"--output {output} is not empty and holds no model; give a new folder")
    if not storage.exists(work.request) or not work.has_checkpoint():
        return "nothing"
    _check_same(output, request)
    return "unfinished"


def _digest_of_bundle(output: str) -> str | None:
    """Digest of the request that made the bundle; None where bundle.json does not hold it."""
    try:
        provenance = storage.read_json(storage.join(output, DESCRIPTION)).get("provenance")
    except StorageError:
        return None
    return provenance.get("request") if isinstance(provenance, dict) else None


def _check_same(output: str, request: TrainRequest) -> None:
    """Raise `BadRequest` where the unfinished training in the output is that of another request."""
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
    """Describe the changes between two requests: options with both values, and whether images or classes differ."""
    if not isinstance(before, dict):
        return
    old_options = before.get("options")
    old: dict[str, Any] = old_options if isinstance(old_options, dict) else {}
    for name in sorted(old.keys() | now["options"].keys()):
        if old.get(name) != now["options"].get(name):
            yield f"--{name.replace('_', '-')} was {old.get(name)} and is {now['options'].get(name)}"
    wording = {
        "classes": "other classes",
        "images": "other images below --data",
        "excluded": "another --exclude",
        "groups": "other --groups",
        "boxes": "other --boxes",
    }
    for name, words in wording.items():
        if before.get(name) != now.get(name):
            yield words


def begin_training(output: str, request: TrainRequest, *, writer: storage.Writer) -> None:
    """Write the request. Deletes the state of an earlier training first, which would be resumed by mistake."""
    work = WorkFolder.of(output)
    writer.delete_tree(work.uri)
    writer.write_json(work.request, {"digest": request.digest, "described": request.described})


def write_groups(output: str, selected: SelectedImages, *, writer: storage.Writer) -> None:
    """Keep group and unit of each image by its position, for the report of a training that ends in another process.

    Writes nothing where no image has a group and each picture is a unit.
    """
    if not (selected.is_grouped or selected.is_joined):
        return
    columns = {"position": selected.positions, "group": selected.groups, "unit": selected.units}
    writer.write_parquet(WorkFolder.of(output).groups, pa.table(columns))


def read_groups(output: str, positions_N: "npt.NDArray[np.int64] | None") -> MeasuredGroups | None:
    """Read the groups and units of the images at these positions; None where each picture is a unit of its own."""
    uri = WorkFolder.of(output).groups
    if positions_N is None or not storage.exists(uri):
        return None
    table = storage.read_parquet(uri)
    place = np.searchsorted(table["position"].to_numpy(), positions_N)
    names = np.array(table["group"].to_pylist(), np.str_)
    return MeasuredGroups(name_N=names[place], unit_N=table["unit"].to_numpy()[place])


@dataclass(frozen=True, kw_only=True)
class FitPart:
    """One fit of a training: a fold, the fit on all images after the folds, or the only one."""

    name: str  # for the log; "" where there is only one fit
    work: WorkFolder

    @property
    def prefix(self) -> str:
        """Beginning of this fit's lines in the log."""
        return f"{self.name}, " if self.name else ""


def parts_of(output: str, options: TrainOptions) -> tuple[FitPart, ...]:
    """List the fits in the order in which they run. The last one yields the weights of the model."""
    whole = WorkFolder.of(output)
    if not options.folds:
        return (FitPart(name="", work=whole),)
    numbers = range(1, options.folds + 1)
    folds = [FitPart(name=f"fold {n} of {options.folds}", work=whole.part(f"fold-{n}")) for n in numbers]
    return (*folds, FitPart(name="all images", work=whole))


def splits_of(selected: SelectedImages) -> Iterator[Split]:
    """Yield the split of each fit. The fit on all images after the folds has no validation images."""
    yield from selected.splits
    if len(selected.splits) > 1:
        yield Split(train=np.arange(len(selected.positions)), validation=np.array([], np.int64))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The checkpoints of all fits, in their order; None for a fit without a usable one."""

    states: "tuple[Checkpoint | None, ...]"
    damaged: tuple[str, ...] = ()  # one line for the log for each checkpoint that cannot be used

    @property
    def data(self) -> dict[str, Any] | None:
        """Description of the images, from the first checkpoint; None where there is no checkpoint."""
        return next((state.data for state in self.states if state), None)

    def is_finished(self, options: TrainOptions) -> bool:
        """Whether every fit is finished."""
        from . import loop

        return all(state is not None and loop.is_finished(state.history, options) for state in self.states)

    @property
    def seconds(self) -> float:
        """Seconds of all finished epochs."""
        return float(sum(row["seconds"] for state in self.states if state for row in state.history))


def read_progress(parts: tuple[FitPart, ...]) -> Progress:
    """Read the checkpoints of all fits. Raises nothing for a damaged one: it is listed in `damaged`."""
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
def progress_logged(part: FitPart, *, epochs: int, say: Say) -> Iterator[None]:
    """Log each epoch as it is finished, while the block runs, from the progress file that the first worker writes."""
    done = threading.Event()
    reported = len(part.work.history())

    def follow() -> None:
        nonlocal reported
        while True:
            is_last = done.wait(_POLL_S)
            for row in part.work.history()[reported:]:
                reported += 1
                say(part.prefix + epoch_line(row, epochs))
            if is_last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(10)


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """Format an epoch as one line for the log."""
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
