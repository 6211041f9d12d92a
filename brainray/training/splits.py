"""Splits into training and validation that keep all copies of a picture, and all pictures of a subject, on one side.

A picture is a group of images that are copies of each other (`brainray.duplicates.search` finds them). Reads no file.
Arrays have one value for each image.
"""

import hashlib
from collections.abc import Iterator, Sequence
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


def join_subjects(pictures: "Numbers", *subjects: "npt.NDArray[np.str_]") -> "Numbers":
    """Join images of one picture or one subject into units that must not be split; a subject "" is unknown.

    There may be several kinds of subjects, such as patients and series. Returns the number of each image's unit.
    """
    count = int(pictures.max(initial=-1)) + 1
    links = [np.zeros((0, 2), np.int64)]
    for kind in subjects:
        known = np.flatnonzero(kind != "")
        names, subject = np.unique(kind[known], return_inverse=True)
        links.append(np.stack([pictures[known], count + subject], axis=1))
        count += len(names)
    return connected(count, np.concatenate(links))[pictures]


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
    """Split by class and seed; about `val_fraction` of each class's pictures go to validation. Units stay whole.

    Raises `BadRequest` where a class has fewer than two units, or is on both sides in no split that was found.
    """
    counts_UK, unit = _count_pictures(pictures, labels, joined, len(classes))
    _check_enough(counts_UK, classes, least=2)
    if len(counts_UK) == counts_UK.sum():
        validation = _stratified(counts_UK.argmax(axis=1), len(classes), val_fraction=val_fraction, seed=seed)
        return _split(np.isin(unit, validation), pictures)
    held_U = _hold_out(counts_UK, fraction=val_fraction, rng=np.random.default_rng(seed))
    _check_both_sides(counts_UK, held_U, classes)
    return _split(held_U[unit], pictures)


def fold_by_picture(
    pictures: "Numbers", labels: "Numbers", *, joined: "Numbers", classes: tuple[str, ...], folds: int, seed: int
) -> Iterator[Split]:
    """Divide the pictures into folds by class and seed; each fold is validated by a fit on all others.

    Raises `BadRequest` where a class has fewer units than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    counts_UK, unit = _count_pictures(pictures, labels, joined, len(classes))
    _check_enough(counts_UK, classes, least=folds)
    if len(counts_UK) == counts_UK.sum():
        unit_labels = counts_UK.argmax(axis=1)
        for _, validation in StratifiedKFold(folds, shuffle=True, random_state=seed).split(unit_labels, unit_labels):
            yield _split(np.isin(unit, validation), pictures)
        return
    of_U, of_K = np.repeat(np.argwhere(counts_UK), counts_UK[counts_UK > 0], axis=0).T  # a row for each picture
    for _, validation in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(of_K, of_K, of_U):
        held_U = np.isin(np.arange(len(counts_UK)), of_U[validation])
        _check_both_sides(counts_UK, held_U, classes, every_class=False)
        yield _split(held_U[unit], pictures)


def division_digest(pictures: "Numbers", splits: Sequence[Split]) -> str:
    """A digest of which pictures each fold holds out: equal for equal pictures and units, whatever their names."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.unique(pictures[split.validation]).astype("<i8").tobytes() + b"\n")
    return digest.hexdigest()[:32]


def _count_pictures(
    pictures: "Numbers", labels: "Numbers", joined: "Numbers", classes: int
) -> tuple["Numbers", "Numbers"]:
    """Count the pictures of each unit by class [U, K]; returns also the place of each image's unit in that [N]."""
    names, unit = np.unique(joined, return_inverse=True)
    _, first = np.unique(pictures, return_index=True)
    counts_UK = np.zeros((len(names), classes), np.int64)
    np.add.at(counts_UK, (unit[first], labels[first]), 1)
    return counts_UK, unit.astype(np.int64)


def _check_enough(counts_UK: "Numbers", classes: tuple[str, ...], *, least: int) -> None:
    what = (
        "distinct readable image(s)"
        if len(counts_UK) == counts_UK.sum()
        else "group(s) or series that share no picture"
    )
    for name, count in zip(classes, (counts_UK > 0).sum(axis=0), strict=True):
        if count < least:
            fewer = ", or fewer --folds" if least > 2 else ""
            raise BadRequest(f"class {name} has {count} {what}; training needs {least} or more of each class{fewer}")


def _stratified(unit_labels: "Numbers", classes: int, *, val_fraction: float, seed: int) -> "Numbers":
    """Draw units of one picture each for validation; returns their places."""
    from sklearn.model_selection import train_test_split

    units = len(unit_labels)
    wanted = min(max(round(val_fraction * units), classes), units - classes)
    train, validation = train_test_split(np.arange(units), test_size=wanted, stratify=unit_labels, random_state=seed)
    validation_places: Numbers = _one_of_each_class(train, validation, unit_labels)[1]
    return validation_places


def _hold_out(counts_UK: "Numbers", *, fraction: float, rng: np.random.Generator) -> "npt.NDArray[np.bool_]":
    """Draw units of any size for validation; returns a mask [U].

    Units are taken in random order, each that brings the shares of the classes closer to the fraction. Then a class
    that has none yet, because its units are few and large, gets the one that fits best. scikit-learn has no such split:
    GroupShuffleSplit is not stratified, and a fold of StratifiedGroupKFold may lack a class.
    """
    shares_UK = counts_UK / counts_UK.sum(axis=0)
    held_U, sums_K = np.zeros(len(shares_UK), bool), np.zeros(shares_UK.shape[1])

    def miss(units: "Numbers") -> "npt.NDArray[np.float64]":
        sums = sums_K + shares_UK[units]
        leaves_none = (sums > 1 - 1e-9).any(axis=-1)
        return np.asarray(np.where(leaves_none, np.inf, ((sums - fraction) ** 2).sum(axis=-1)))

    order = rng.permutation(len(shares_UK))
    for unit in order:
        if miss(unit) < ((sums_K - fraction) ** 2).sum():
            held_U[unit], sums_K = True, sums_K + shares_UK[unit]
    for k in np.argsort((counts_UK > 0).sum(axis=0), kind="stable"):
        if sums_K[k] == 0:
            able = order[shares_UK[order, k] > 0]
            unit = able[np.argmin(miss(able))]
            held_U[unit], sums_K = True, sums_K + shares_UK[unit]
    return held_U


def _check_both_sides(
    counts_UK: "Numbers", held_U: "npt.NDArray[np.bool_]", classes: tuple[str, ...], *, every_class: bool = True
) -> None:
    """Raise `BadRequest` for a class that is not learned, or not measured (with `every_class`), or for no picture."""
    learned_K, measured_K = counts_UK[~held_U].sum(axis=0), counts_UK[held_U].sum(axis=0)
    missing = (learned_K == 0) | (every_class & (measured_K == 0)) | (measured_K.sum() == 0)
    if missing.any():
        raise BadRequest(
            f"the groups can hardly be divided: class {classes[int(missing.argmax())]} would lie on one side of a "
            "split only; give more or smaller groups, fewer --folds, or another --seed"
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
