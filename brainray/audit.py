"""Which images are the same picture, and the train/validation split that keeps each picture on one side.

Two images are the same here when their upright full-size luminance is equal to the last pixel, whatever their name,
folder or file format.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import BadRequest

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Split:
    """Positions of images, ascending. No picture is in both."""

    train: "npt.NDArray[np.int64]"
    validation: "npt.NDArray[np.int64]"
    pictures: int  # distinct ones
    conflicts: int  # pictures that carry two labels or more


def split_by_picture(
    digests: "npt.NDArray[np.str_]",
    labels: "npt.NDArray[np.int64]",
    *,
    classes: tuple[str, ...],
    val_fraction: float,
    seed: int,
) -> Split:
    """Stratified and seeded; `val_fraction` of the distinct pictures of each class goes to validation, one at least.

    Raises `BadRequest` where a class has fewer than two pictures: one to learn from, one to measure on.
    """
    from sklearn.model_selection import train_test_split

    # Sorted by digest, so the split depends on the pictures and the seed and not on names or their order.
    _, first, picture_of = np.unique(digests, return_index=True, return_inverse=True)
    picture_labels = labels[first]
    counts = np.bincount(picture_labels, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count < 2:
            raise BadRequest(
                f"class {name} has {count} distinct readable image(s); training needs two or more of each class"
            )
    pictures = len(first)
    wanted = min(max(round(val_fraction * pictures), len(classes)), pictures - len(classes))
    train, validation = train_test_split(
        np.arange(pictures), test_size=wanted, stratify=picture_labels, random_state=seed
    )
    train, validation = _one_of_each_class(train, validation, picture_labels)
    in_validation = np.zeros(pictures, bool)
    in_validation[validation] = True
    chosen = in_validation[picture_of]
    return Split(
        train=np.flatnonzero(~chosen),
        validation=np.flatnonzero(chosen),
        pictures=pictures,
        conflicts=_conflicts(picture_of, labels),
    )


def _one_of_each_class(
    train: "npt.NDArray[np.int64]", validation: "npt.NDArray[np.int64]", labels: "npt.NDArray[np.int64]"
) -> tuple["npt.NDArray[np.int64]", "npt.NDArray[np.int64]"]:
    """Move a picture to the side that has none of a class: proportions round a rare class down to nothing."""
    for label in np.unique(labels):
        if not (labels[validation] == label).any():
            moved = train[labels[train] == label][:1]
            train, validation = np.setdiff1d(train, moved), np.append(validation, moved)
        if not (labels[train] == label).any():
            moved = validation[labels[validation] == label][:1]
            train, validation = np.append(train, moved), np.setdiff1d(validation, moved)
    return train, validation


def _conflicts(picture_of: "npt.NDArray[np.int64]", labels: "npt.NDArray[np.int64]") -> int:
    pairs = np.unique(np.stack([picture_of, labels], axis=1), axis=0)
    return int((np.bincount(pairs[:, 0]) > 1).sum())
