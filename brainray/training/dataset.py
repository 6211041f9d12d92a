"""The training set: lists the images of the class folders, excludes unusable ones, and splits the rest.

Reads names and digests only: pixels are decoded in `decoded`, copies are found in `brainray.duplicates`. Imports no
Ray.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brainray.config import TrainOptions
from brainray.errors import EXCLUSION_REASONS, BadRequest
from brainray.inputs.class_names import class_of_folders, spelled_alike
from brainray.inputs.frames.below import PLACE_SCHEMA, FoundImage, images_below, may_hold_images
from brainray.inputs.image_files import Grouper, tables_of
from brainray.inputs.labels.box_file import BoxFile
from brainray.inputs.labels.group_file import OPTION, GroupFile
from brainray.inputs.skip_counts import few_reasons, passed_over
from brainray.storage.base import FileInfo

from .splits import (
    Split,
    conflicting,
    division_digest,
    fold_by_picture,
    join_subjects,
    number_pictures,
    split_by_picture,
)

Array = npt.NDArray[Any]
REGEX = "--group-regex"


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Every image file below the class folders."""

    # position, uri, those of `PLACE_SCHEMA`, version (size and version of the file), label (index of the class), group
    # (null for none), box (left, top, right, bottom as shares of the image; NaN for none)
    table: pa.Table
    classes: tuple[str, ...]  # sorted names of the class folders
    skipped: dict[str, int]  # files that are no images, by reason
    notes: tuple[str, ...] = ()  # for the user, one line each

    @property
    def has_group_file(self) -> bool:
        """Whether a group file gave some image its group."""
        return bool(self.table["group"].null_count < len(self.table))

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """The box of each image [N, 4]; NaN for none."""
        return _flat(self.table["box"]).reshape(-1, 4)

    @property
    def has_boxes(self) -> bool:
        """Whether some image has a box."""
        return bool(np.isfinite(self.boxes).any())


@dataclass(frozen=True, kw_only=True)
class SelectedImages:
    """The images for training and validation. Arrays have one value for each selected image."""

    positions: Array  # rows of the training set's table
    labels: Array  # index of the class
    pictures: Array  # number of the picture; copies of one picture have the same number
    groups: Array  # name of the group, such as a patient; "" for none
    grouped_by: tuple[str, ...]  # the options that tell the groups
    units: Array  # number of the unit: pictures and groups that are connected, which no split divides
    series: int = 0  # number of DICOM series, and of files of several frames
    splits: tuple[Split, ...]  # of indices into `positions`: one split, or one for each fold
    digest: str  # of the pictures and their labels: equal for equal data, whatever the names
    unreadable: dict[str, int]  # images left out because they cannot be decoded, by reason
    excluded: int  # images left out because they are copies of an image below --exclude
    conflicts: int  # images left out because copies of them lie in another class folder
    ineligible: dict[str, int] = field(default_factory=dict)  # medical images that `score` excludes, by reason

    @property
    def distinct(self) -> int:
        """Number of different pictures."""
        return len(np.unique(self.pictures))

    @property
    def is_grouped(self) -> bool:
        """Whether some image has a group."""
        return bool((self.groups != "").any())

    @property
    def is_joined(self) -> bool:
        """Whether some pictures belong together: there are fewer units than pictures."""
        return len(np.unique(self.units)) < self.distinct

    def positions_at(self, places: Array) -> Array:
        """Rows of the training set for indices into the selected images, such as one side of a split."""
        return self.positions[places]


def list_training_set(
    data: str, groups: GroupFile | None = None, boxes: BoxFile | None = None, *, output: str | None = None
) -> TrainingSet:
    """List images by class folder, with their groups by the group file, and their boxes by the box file.

    What lies below `output` is no data.
    Raises `BadRequest` for fewer than two classes, fewer than two images of one, and what the files refuse.
    """
    skipped, notes = Counter[str](), list[str]()
    table = _table("--data", data, class_of_folders, skipped, notes, output)
    names = table["name"].unique().to_pylist()
    classes = tuple(sorted(names))
    if len(classes) < 2:
        file = f"only one class folder ({classes[0]})" if classes else "no class folder with images"
        found = passed_over(skipped, notes, f"--data {data}")
        raise BadRequest(f"--data {data}: {file}; put the images of each class into a folder named for it{found}")
    if alike := spelled_alike(classes):
        raise BadRequest(
            f"--data {data}: {' and '.join(map(repr, alike))} are spellings of one class, or look like it; give their "
            "folders one name, or names that differ in more"
        )
    counts = Counter(dict(zip(*(table["name"].value_counts().flatten()[i].to_pylist() for i in (0, 1)), strict=True)))
    for name in classes:
        if counts[name] < 2:
            raise BadRequest(f"--data {data}: class {name} has one image; training needs two or more of each class")
    encoded = table["name"].combine_chunks().dictionary_encode()
    index_of = np.array([classes.index(name) for name in encoded.dictionary.to_pylist()])
    labels = pa.array(index_of[encoded.indices.to_numpy()])
    of_images = pa.nulls(len(table), pa.string()) if groups is None else groups.groups_of(table)
    boxes_N4 = np.full((len(table), 4), np.nan, np.float32) if boxes is None else boxes.boxes_of(table)
    box = pa.FixedSizeListArray.from_arrays(pa.array(boxes_N4.ravel()), 4)
    table = table.drop_columns(["name", "relative"])
    for name, column in (("label", labels), ("group", of_images), ("box", box)):
        table = table.append_column(name, column)
    return TrainingSet(table=table, classes=classes, skipped=few_reasons(skipped), notes=tuple(notes))


def _flat(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """The values of a column of lists, one after the other."""
    return np.concatenate([np.zeros(0, np.float32), *(chunk.flatten().to_numpy() for chunk in column.chunks)])


@dataclass(frozen=True, kw_only=True)
class ExcludedImages:
    """Every image file below the folder of --exclude."""

    table: pa.Table  # as that of `TrainingSet`, without groups and boxes; label is 0
    skipped: dict[str, int]  # files that are no images, by reason
    notes: tuple[str, ...] = ()  # for the user, one line each

    def describe(self) -> Iterator[str]:
        """Yield lines for the log: how many images are to be left out, and what else the folder holds."""
        yield f"{len(self.table):,} images in --exclude"
        if self.skipped:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items())
            yield f"passed over in --exclude: {counts}"
        yield from self.notes


def list_excluded(uri: str, *, output: str | None = None) -> ExcludedImages:
    """List every image below the folder of --exclude, whatever its class, and not below `output`.

    Raises `BadRequest` where there is none, and for an archive: what is in it would be learned from.
    """
    skipped, notes, archives = Counter[str](), list[str](), list[str]()

    def on_skipped(found: FileInfo, reason: str) -> None:
        if reason.startswith("suffix ") and may_hold_images(found.uri):
            archives.append(found.uri)

    table = _table("--exclude", uri, lambda _: "", skipped, notes, output, on_skipped)
    if archives:
        raise BadRequest(
            f"--exclude {uri}: {len(archives):,} archive(s), such as {archives[0]}, whose images would not be left "
            "out; unpack them into a folder for --exclude, or move them elsewhere if they hold no images"
        )
    if len(table) == 0:
        found = passed_over(skipped, notes, f"--exclude {uri}")
        raise BadRequest(f"--exclude {uri}: no image files found{found}")
    table = table.drop_columns(["name", "relative"]).append_column("label", pa.array(np.zeros(len(table), np.int64)))
    return ExcludedImages(table=table, skipped=few_reasons(skipped), notes=tuple(notes))


def _table(
    option: str,
    root: str,
    name_of: Callable[[tuple[str, ...]], str | None],
    skipped: Counter[str],
    notes: list[str],
    output: str | None,
    on_skipped: Callable[[FileInfo, str], None] | None = None,
) -> pa.Table:
    """List the images below `root` as (position, uri, name, version, relative: the path below `root`).

    Counts skipped files by reason in `skipped`; `notes` takes what the user should know. `on_skipped` is called with
    each file that is no image by its name, and the reason.
    """
    schema = pa.schema([*((name, pa.string()) for name in ("uri", "name", "version", "relative")), *PLACE_SCHEMA])
    found = images_below(option, root, skipped, notes, output=output, on_skipped=on_skipped)
    rows = _rows(found, name_of, skipped)
    table = pa.concat_tables([schema.empty_table(), *tables_of(rows, schema)])
    return table.add_column(0, "position", pa.array(np.arange(len(table))))


def _rows(
    images: Iterator[FoundImage], name_of: Callable[[tuple[str, ...]], str | None], skipped: Counter[str]
) -> Iterator[dict[str, Any]]:
    for found in images:
        name = name_of(found.file.folders)
        if name is None:
            skipped["not in a class folder"] += 1
        else:
            version = f"{found.file.size_bytes} {found.file.version}"
            known = {"uri": found.image.uri, "name": name, "version": version, "relative": found.relative}
            yield known | found.place


def select_images(
    training_set: TrainingSet,
    copies: Array,
    digests: Array,
    errors: Array,
    *,
    excluded: Array,
    options: TrainOptions,
    series: Array | None = None,
) -> SelectedImages:
    """Leave out images that are unreadable, excluded or labelled twice, and split the rest by picture and group.

    All arrays are [N], one value for each image of the training set: `copies` has equal numbers for copies, `digests`
    the digest of the pixels, `errors` why an image cannot be decoded or "", `excluded` whether it must be left out,
    `series` what stands for its DICOM series or "".
    Raises `BadRequest` where too few pictures of a class are left.
    """
    labels = training_set.table["label"].to_numpy()
    readable = errors == ""
    usable = np.flatnonzero(readable & ~excluded)
    pictures = number_pictures(copies[usable], digests[usable])
    conflicting_N = conflicting(pictures, labels[usable])
    positions, pictures = usable[~conflicting_N], pictures[~conflicting_N]
    groups = group_names(training_set, options)[positions]
    of_series = np.full(len(labels), "", np.str_) if series is None else series
    units = join_subjects(pictures, groups, of_series[positions])
    return SelectedImages(
        positions=positions,
        labels=labels[positions],
        pictures=pictures,
        groups=groups,
        grouped_by=_grouped_by(training_set, options),
        units=units,
        series=len(np.unique(of_series[positions][of_series[positions] != ""])),
        splits=_splits(pictures, labels[positions], units, training_set.classes, options),
        digest=_digest(digests[positions], labels[positions]),
        unreadable=_counted(errors, ineligible=False),
        ineligible=_counted(errors, ineligible=True),
        excluded=int((readable & excluded).sum()),
        conflicts=int(conflicting_N.sum()),
    )


def _counted(errors: Array, *, ineligible: bool) -> dict[str, int]:
    found = Counter(errors[errors != ""].tolist())
    return {reason: count for reason, count in found.items() if (reason in EXCLUSION_REASONS) == ineligible}


def check_group_regex(training_set: TrainingSet, options: TrainOptions) -> None:
    """Raise `BadRequest` where --group-regex finds no group in any path: patients would lie on both sides."""
    if options.group_regex is None:
        return
    group_of = Grouper(options.group_regex, option=REGEX)
    if not any(group_of(uri, ()) for uri in training_set.table["uri"].to_pylist()):
        first = training_set.table["uri"][0].as_py()
        raise BadRequest(
            f"{REGEX} {options.group_regex!r}: finds no group in the path of any image, such as {first}; correct the "
            "regular expression, or leave it out"
        )


def group_names(training_set: TrainingSet, options: TrainOptions) -> Array:
    """The group of each image by the group file, else by --group-regex; "" for none."""
    names = training_set.table["group"].to_pylist()
    if options.group_regex:
        group_of = Grouper(options.group_regex, option=REGEX)
        uris = training_set.table["uri"].to_pylist()
        names = [name or group_of(uri, ()) for name, uri in zip(names, uris, strict=True)]
    return np.array([name or "" for name in names], dtype=np.str_)


def _grouped_by(training_set: TrainingSet, options: TrainOptions) -> tuple[str, ...]:
    given = {OPTION: training_set.has_group_file, REGEX: options.group_regex is not None}
    return tuple(option for option, is_given in given.items() if is_given)


def _splits(
    pictures: Array, labels: Array, units: Array, classes: tuple[str, ...], options: TrainOptions
) -> tuple[Split, ...]:
    shared: dict[str, Any] = {"joined": units, "classes": classes, "seed": options.seed}
    if options.folds:
        return tuple(fold_by_picture(pictures, labels, folds=options.folds, **shared))
    return (split_by_picture(pictures, labels, val_fraction=options.val_fraction, **shared),)


def _digest(digests: Array, labels: Array) -> str:
    """Digest of all pictures and labels, whatever their order."""
    described = "\n".join(sorted(f"{d} {label}" for d, label in zip(digests, labels, strict=True)))
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def describe_selection(selected: SelectedImages) -> Iterator[str]:
    """Yield lines for the log: how many images were left out and why, and how the rest is split."""
    images = len(selected.positions)
    if selected.unreadable:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in selected.unreadable.items())
        yield f"left out, for they cannot be read: {reasons}"
    if selected.ineligible:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in selected.ineligible.items())
        yield f"left out, for they are no anatomical slices, as score leaves them out: {reasons}; see --all-series"
    if selected.excluded:
        yield f"left out, for --exclude shows the same picture: {selected.excluded:,}"
    if selected.conflicts:
        yield f"left out, for copies of them lie in another class folder: {selected.conflicts:,}"
    if selected.distinct < images:
        yield f"{images:,} images show {selected.distinct:,} pictures; copies stay together and count once in figures"
    if selected.is_grouped:
        groups = describe_groups(selected)
        share = f"{groups['images_without']:,} images ({groups['share_without']:.1%})"
        yield f"{groups['groups']:,} groups, each on one side of every split; {share} have none"
    if selected.series:
        yield f"{selected.series:,} DICOM series or files of several frames, each on one side of every split"
    if selected.grouped_by and not selected.is_grouped:
        yield f"{REGEX} finds no group in any path"
    if len(selected.splits) > 1:
        yield f"each picture is measured on in one of {len(selected.splits)} folds by a model that has not seen it"
    else:
        (split,) = selected.splits
        yield f"{len(split.train):,} images to learn from, {len(split.validation):,} to measure on, no picture in both"


def describe_excluded(errors: Array) -> Iterator[str]:
    """Yield a line for the log about images of --exclude that cannot be decoded. `errors` has "" for the others."""
    reasons = Counter(errors[errors != ""].tolist())
    if reasons:
        counted = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
        yield (
            f"{reasons.total():,} of {len(errors):,} images in --exclude cannot be read, so what they show is not left "
            f"out: {counted}"
        )


def picture_counts(selected: SelectedImages, places: Array, classes: int) -> Array:
    """Count the different pictures of each class among the given indices; returns [K]."""
    _, first = np.unique(selected.pictures[places], return_index=True)
    return np.bincount(selected.labels[places][first], minlength=classes)


def describe_groups(selected: SelectedImages) -> dict[str, Any]:
    """Count the groups, the images without one, and what remains of the groups when those that share copies are one."""
    known = selected.groups != ""
    without = int((~known).sum())
    return {
        "by": list(selected.grouped_by),
        "groups": len(np.unique(selected.groups[known])),
        "separate": len(np.unique(selected.units[known])),
        "images_without": without,
        "share_without": without / len(known),
    }


def describe_data(selected: SelectedImages, classes: tuple[str, ...]) -> dict[str, Any]:
    """Describe the images for the bundle's provenance. Its keys are a stored format."""
    split = selected.splits[0]
    by_class = picture_counts(selected, np.arange(len(selected.positions)), len(classes))
    return {
        "digest": selected.digest,
        "images": len(selected.positions),
        "pictures": selected.distinct,
        "label_conflicts": selected.conflicts,
        "train_images": len(split.train) if len(selected.splits) == 1 else len(selected.positions),
        "validation_images": sum(len(each.validation) for each in selected.splits),
        "unreadable": selected.unreadable,
        "excluded": selected.excluded,
        **({"ineligible": selected.ineligible} if selected.ineligible else {}),
        "by_class": dict(zip(classes, np.bincount(selected.labels, minlength=len(classes)).tolist(), strict=True)),
        "pictures_by_class": dict(zip(classes, by_class.tolist(), strict=True)),
        "division": division_digest(selected.pictures, selected.splits),
        **({"groups": describe_groups(selected)} if selected.is_grouped else {}),
        **({"series": selected.series} if selected.series and selected.is_joined else {}),
    }
