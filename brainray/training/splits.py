"""Splits into training and validation that keep all copies of a picture, and all pictures of a subject, on one side.

A picture is a group of images that are copies of each other (`brainray.duplicates.search` finds them). Reads no file.
Arrays have one value for each image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brainray.duplicates.search import connected
from brainray.errors import BadRequest

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Indices of images, ascending. No picture is on both sides, and `validation` has one image of each picture."""

    train: "Numbers"
    validation: "Numbers"


def number_pictures(groups: "Numbers", digests: "npt.NDArray[np.str_]") -> "Numbers":
    """Number groups in the order of their smallest digest, so that a split depends on pixels, not on file names."""
    order = np.argsort(digests, kind="stable")
    _, first, place = np.unique(groups[order], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    numbers = np.empty(len(groups), np.int64)
    numbers[order] = rank[place]
    return numbers


def join_subjects(pictures: "Numbers", subjects: "npt.NDArray[np.str_]") -> "Numbers":
    """Join images of one picture or one subject into units that must not be split; a subject "" is unknown.

    Returns the number of each image's unit.
    """
    known = np.flatnonzero(subjects != "")
    names, subject = np.unique(subjects[known], return_inverse=True)
    count = int(pictures.max(initial=-1)) + 1
    links = np.stack([pictures[known], count + subject], axis=1)
    return connected(count + len(names), links)[pictures]


def conflicting(pictures: "Numbers", labels: "Numbers") -> "npt.NDArray[np.bool_]":
    """Find images of pictures that have two labels or more; returns a mask."""
    pairs = np.unique(np.stack([pictures, labels], axis=1), axis=0)
    mixed: npt.NDArray[np.bool_] = (np.bincount(pairs[:, 0]) > 1)[pictures]
    return mixed


def split_by_picture(
    pictures: "Numbers",
    labels: "Numbers",
    *,
    joined: "Numbers",
    classes: tuple[str, ...],
    val_fraction: float,
    seed: int,
) -> Split:
    """Split by class and seed; about `val_fraction` of the units in `joined` go to validation, at least one a class.

    Raises `BadRequest` where a class has fewer than two units: one for training, one for validation.
    """
    from sklearn.model_selection import train_test_split

    unit_labels = _unit_labels(joined, labels)
    _check_enough(unit_labels, classes, least=2)
    units = len(unit_labels)
    wanted = min(max(round(val_fraction * units), len(classes)), units - len(classes))
    train, validation = train_test_split(np.arange(units), test_size=wanted, stratify=unit_labels, random_state=seed)
    _, validation = _one_of_each_class(train, validation, unit_labels)
    return _split(np.isin(_places(joined), validation), pictures)


def fold_by_picture(
    pictures: "Numbers", labels: "Numbers", *, joined: "Numbers", classes: tuple[str, ...], folds: int, seed: int
) -> Iterator[Split]:
    """Divide the units in `joined` into folds by class and seed; each fold is validated by a fit on all others.

    Raises `BadRequest` where a class has fewer units than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    unit_labels, unit = _unit_labels(joined, labels), _places(joined)
    _check_enough(unit_labels, classes, least=folds)
    for _, validation in StratifiedKFold(folds, shuffle=True, random_state=seed).split(unit_labels, unit_labels):
        yield _split(np.isin(unit, validation), pictures)


def _places(joined: "Numbers") -> "Numbers":
    """Renumber units from 0 without a gap, keeping their order."""
    places: Numbers = np.unique(joined, return_inverse=True)[1].astype(np.int64)
    return places


def _unit_labels(joined: "Numbers", labels: "Numbers") -> "Numbers":
    """Label each unit; where a subject has several labels, the rarest one, because those are the hardest to spread."""
    unit = _places(joined)
    counts = np.bincount(labels)
    by_rarity = np.lexsort((counts[labels], unit))
    _, first = np.unique(unit[by_rarity], return_index=True)
    rarest: Numbers = labels[by_rarity][first]
    return rarest


def _check_enough(unit_labels: "Numbers", classes: tuple[str, ...], *, least: int) -> None:
    for name, count in zip(classes, np.bincount(unit_labels, minlength=len(classes)), strict=True):
        if count < least:
            raise BadRequest(
                f"class {name} has {count} distinct readable image(s); training needs {least} or more of each class"
            )


def _split(held_out: "npt.NDArray[np.bool_]", pictures: "Numbers") -> Split:
    """Build a split from a mask of held-out images, with one image of each held-out picture."""
    places = np.flatnonzero(held_out)
    _, first = np.unique(pictures[places], return_index=True)
    return Split(train=np.flatnonzero(~held_out), validation=np.sort(places[first]))


def _one_of_each_class(train: "Numbers", validation: "Numbers", labels: "Numbers") -> tuple["Numbers", "Numbers"]:
    """Move a unit to the side that has none of its class, because proportions round a rare class down to 0."""
    for label in np.unique(labels):
        if not (labels[validation] == label).any():
            moved = train[labels[train] == label][:1]
            train, validation = np.setdiff1d(train, moved), np.append(validation, moved)
        if not (labels[train] == label).any():
            moved = validation[labels[validation] == label][:1]
            train, validation = np.append(train, moved), np.setdiff1d(validation, moved)
    return train, validation
