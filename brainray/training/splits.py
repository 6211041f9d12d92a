"""Splits for training and validation that keep each picture, and each subject, on one side.

A picture is a group of images that show the same (`copies` finds them); its number says nothing of names or order.
Arrays have one value an image.
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
    """Places of images, ascending. No picture is in both, and each is in `validation` once."""

    train: "Numbers"
    validation: "Numbers"


def number_pictures(groups: "Numbers", digests: "npt.NDArray[np.str_]") -> "Numbers":
    """Groups numbered in the order of their smallest digest, so that a split depends on what pictures show alone."""
    order = np.argsort(digests, kind="stable")
    _, first, place = np.unique(groups[order], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    numbers = np.empty(len(groups), np.int64)
    numbers[order] = rank[place]
    return numbers


def join_subjects(pictures: "Numbers", subjects: "npt.NDArray[np.str_]") -> "Numbers":
    """What must stay on one side: images are joined that show one picture, or belong to one subject ("": unknown)."""
    known = np.flatnonzero(subjects != "")
    names, subject = np.unique(subjects[known], return_inverse=True)
    count = int(pictures.max(initial=-1)) + 1
    links = np.stack([pictures[known], count + subject], axis=1)
    return connected(count + len(names), links)[pictures]


def conflicting(pictures: "Numbers", labels: "Numbers") -> "npt.NDArray[np.bool_]":
    """Which images show a picture that carries two labels or more."""
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
    """Stratified and seeded; about `val_fraction` of what is `joined` goes to validation, one of each class at least.

    Raises `BadRequest` where a class has fewer than two: one to learn from, one to measure on.
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
    """Stratified and seeded: what is `joined` is validated on in one of the folds, and learned from in all others."""
    from sklearn.model_selection import StratifiedKFold

    unit_labels, unit = _unit_labels(joined, labels), _places(joined)
    _check_enough(unit_labels, classes, least=folds)
    for _, validation in StratifiedKFold(folds, shuffle=True, random_state=seed).split(unit_labels, unit_labels):
        yield _split(np.isin(unit, validation), pictures)


def _places(joined: "Numbers") -> "Numbers":
    """0, 1, … instead of any numbers, in their order."""
    places: Numbers = np.unique(joined, return_inverse=True)[1].astype(np.int64)
    return places


def _unit_labels(joined: "Numbers", labels: "Numbers") -> "Numbers":
    """The label of each unit; that of the rarest class where a subject has several, for those must be shared out."""
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
    places = np.flatnonzero(held_out)
    _, first = np.unique(pictures[places], return_index=True)
    return Split(train=np.flatnonzero(~held_out), validation=np.sort(places[first]))


def _one_of_each_class(train: "Numbers", validation: "Numbers", labels: "Numbers") -> tuple["Numbers", "Numbers"]:
    """Move a unit to the side that has none of a class: proportions round a rare class down to nothing."""
    for label in np.unique(labels):
        if not (labels[validation] == label).any():
            moved = train[labels[train] == label][:1]
            train, validation = np.setdiff1d(train, moved), np.append(validation, moved)
        if not (labels[train] == label).any():
            moved = validation[labels[validation] == label][:1]
            train, validation = np.append(train, moved), np.setdiff1d(validation, moved)
    return train, validation
