"""What is trained on: the images of the class folders, and what is left out of them. Knows no Ray."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brainray.config import TrainOptions
from brainray.errors import BadRequest
from brainray.inputs.class_names import class_of_folders
from brainray.inputs.image_files import Grouper, image_files, tables_of
from brainray.storage.base import FileInfo

from .splits import Split, conflicting, fold_by_picture, join_subjects, number_pictures, split_by_picture

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Every image file below the class folders."""

    table: pa.Table  # position, uri, version (of the file, with its size), label (index of the class)
    classes: tuple[str, ...]
    skipped: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class SelectedImages:
    """The images that are trained and measured on. Arrays have one value an image that is left."""

    positions: Array  # in the training set
    labels: Array
    pictures: Array  # a number each; images with one number show the same
    splits: tuple[Split, ...]  # of places in `positions`: one, or as many as there are folds
    digest: str  # of the pictures and their labels: equal for equal data, whatever the names
    unreadable: dict[str, int]
    barred: int  # images that show what must not be trained on
    conflicts: int  # images of pictures that carry two labels or more; whichever is right, one is wrong

    @property
    def distinct(self) -> int:
        return len(np.unique(self.pictures))

    def side(self, which: Array) -> Array:
        return self.positions[which]


def list_training_set(data: str) -> TrainingSet:
    """Images by class folder. Raises `BadRequest` for what cannot be learned from."""
    skipped: Counter[str] = Counter()
    table = _table("--data", data, class_of_folders, skipped)
    names = table["name"].unique().to_pylist()
    classes = tuple(sorted(names))
    if len(classes) < 2:
        found = f"only one class folder ({classes[0]})" if classes else "no class folder with images"
        raise BadRequest(f"--data {data}: {found}; put the images of each class into a folder named for it")
    counts = Counter(dict(zip(*(table["name"].value_counts().flatten()[i].to_pylist() for i in (0, 1)), strict=True)))
    for name in classes:
        if counts[name] < 2:
            raise BadRequest(f"--data {data}: class {name} has one image; training needs two or more of each class")
    encoded = table["name"].combine_chunks().dictionary_encode()
    index_of = np.array([classes.index(name) for name in encoded.dictionary.to_pylist()])
    labels = pa.array(index_of[encoded.indices.to_numpy()])
    return TrainingSet(
        table=table.drop_columns("name").append_column("label", labels), classes=classes, skipped=dict(skipped)
    )


def list_excluded(uri: str) -> pa.Table:
    """Every image below a folder, whatever its class: what must not be trained on."""
    table = _table("--exclude", uri, lambda _: "", Counter())
    if len(table) == 0:
        raise BadRequest(f"--exclude {uri}: no image files found")
    return table.drop_columns("name").append_column("label", pa.array(np.zeros(len(table), np.int64)))


def _table(option: str, root: str, name_of: Callable[[tuple[str, ...]], str | None], skipped: Counter[str]) -> pa.Table:
    """(position, uri, name, version) of the images below `root`, held as Arrow. Counts what is passed over."""
    schema = pa.schema([("uri", pa.string()), ("name", pa.string()), ("version", pa.string())])
    rows = _rows(image_files(option, root, skipped), name_of, skipped)
    table = pa.concat_tables([schema.empty_table(), *tables_of(rows, schema)])
    return table.add_column(0, "position", pa.array(np.arange(len(table))))


def _rows(
    files: Iterator[FileInfo], name_of: Callable[[tuple[str, ...]], str | None], skipped: Counter[str]
) -> Iterator[dict[str, str | None]]:
    for found in files:
        name = name_of(found.folders)
        if name is None:
            skipped["not in a class folder"] += 1
        else:
            yield {"uri": found.uri, "name": name, "version": f"{found.size_bytes} {found.version}"}


def select_images(
    training_set: TrainingSet, groups: Array, digests: Array, errors: Array, *, barred: Array, options: TrainOptions
) -> SelectedImages:
    """Leave out what is unreadable, barred or labelled twice, and split the rest by picture.

    `groups` [N] has a number an image, equal for copies; `barred` [N] says which are copies of what is excluded.
    """
    labels = training_set.table["label"].to_numpy()
    readable = errors == ""
    left = np.flatnonzero(readable & ~barred)
    pictures = number_pictures(groups[left], digests[left])
    mixed = conflicting(pictures, labels[left])
    positions, pictures = left[~mixed], pictures[~mixed]
    return SelectedImages(
        positions=positions,
        labels=labels[positions],
        pictures=pictures,
        splits=_splits(training_set, positions, pictures, labels[positions], options),
        digest=_digest(digests[positions], labels[positions]),
        unreadable=dict(Counter(errors[~readable].tolist())),
        barred=int((readable & barred).sum()),
        conflicts=int(mixed.sum()),
    )


def _splits(
    training_set: TrainingSet, positions: Array, pictures: Array, labels: Array, options: TrainOptions
) -> tuple[Split, ...]:
    joined, classes = pictures, training_set.classes
    if options.group_regex:
        subject_of = Grouper(options.group_regex, option="--group-regex")
        uris = training_set.table["uri"].take(pa.array(positions)).to_pylist()
        joined = join_subjects(pictures, np.array([subject_of(uri, ()) or "" for uri in uris]))
    if options.folds:
        folds, seed = options.folds, options.seed
        return tuple(fold_by_picture(pictures, labels, joined=joined, classes=classes, folds=folds, seed=seed))
    fraction = options.val_fraction
    return (
        split_by_picture(pictures, labels, joined=joined, classes=classes, val_fraction=fraction, seed=options.seed),
    )


def _digest(digests: Array, labels: Array) -> str:
    described = "\n".join(sorted(f"{d} {label}" for d, label in zip(digests, labels, strict=True)))
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def describe_choice(chosen: SelectedImages) -> Iterator[str]:
    """What a user should know of the data before trusting a figure measured on it."""
    images = len(chosen.positions)
    if chosen.unreadable:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in chosen.unreadable.items())
        yield f"left out, for they cannot be read: {reasons}"
    if chosen.barred:
        yield f"left out, for --exclude shows the same picture: {chosen.barred:,}"
    if chosen.conflicts:
        yield f"left out, for copies of them lie in another class folder: {chosen.conflicts:,}"
    if chosen.distinct < images:
        yield f"{images:,} images show {chosen.distinct:,} pictures; copies stay together and count once in figures"
    if len(chosen.splits) > 1:
        yield f"each picture is measured on in one of {len(chosen.splits)} folds by a model that has not seen it"
    else:
        (split,) = chosen.splits
        yield f"{len(split.train):,} images to learn from, {len(split.validation):,} to measure on, no picture in both"


def picture_counts(chosen: SelectedImages, places: Array, classes: int) -> Array:
    """Pictures of each class."""
    _, first = np.unique(chosen.pictures[places], return_index=True)
    return np.bincount(chosen.labels[places][first], minlength=classes)


def describe_data(chosen: SelectedImages, classes: tuple[str, ...]) -> dict[str, Any]:
    """What the bundle says of the images it was made from."""
    split = chosen.splits[0]
    by_class = picture_counts(chosen, np.arange(len(chosen.positions)), len(classes))
    return {
        "digest": chosen.digest,
        "images": len(chosen.positions),
        "pictures": chosen.distinct,
        "label_conflicts": chosen.conflicts,
        "train_images": len(split.train) if len(chosen.splits) == 1 else len(chosen.positions),
        "validation_images": sum(len(each.validation) for each in chosen.splits),
        "unreadable": chosen.unreadable,
        "excluded": chosen.barred,
        "by_class": dict(zip(classes, np.bincount(chosen.labels, minlength=len(classes)).tolist(), strict=True)),
        "pictures_by_class": dict(zip(classes, by_class.tolist(), strict=True)),
    }
