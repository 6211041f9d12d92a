"""Figures by group, such as a patient: which groups a model is wrong about, and intervals by resampling groups.

Axes: N measured pictures, K classes. Reads no file.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from brainray.evaluation.metrics import wilson

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredGroups:
    """The group and the unit of each measured picture.

    A unit is what no split divides: a group, a DICOM series, a file of several frames, or several that share pictures;
    a picture of none is one.
    """

    name_N: npt.NDArray[np.str_]  # "" for none
    unit_N: Ints

    @property
    def units(self) -> int:
        """Number of units, which are resampled for intervals."""
        return len(np.unique(self.unit_N))

    @property
    def names(self) -> list[str]:
        """The groups, sorted."""
        return [str(name) for name in np.unique(self.name_N) if name]


def group_rows(
    groups: MeasuredGroups, label_N: Ints, predicted_N: Ints, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each group: its pictures, how many are right, and its errors, the most frequent first.

    The worst group comes first: that of the lowest upper end of Wilson's interval of its accuracy, so that one wrong
    picture of one is not worse than 17 wrong of 18.
    """
    rows = list(_rows(groups, label_N, predicted_N, classes))
    _, high = wilson([row["right"] for row in rows], [row["pictures"] for row in rows])
    order = np.lexsort((np.array([row["group"] for row in rows]), high))
    return [rows[place] for place in order]


def _rows(groups: MeasuredGroups, label_N: Ints, predicted_N: Ints, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    order = np.argsort(groups.name_N, kind="stable")
    order = order[groups.name_N[order] != ""]
    names, starts = np.unique(groups.name_N[order], return_index=True)
    for name, start, end in zip(names.tolist(), starts, [*starts, len(order)][1:], strict=True):
        places = order[start:end]
        labels, predicted = label_N[places], predicted_N[places]
        wrong = [(classes[a], classes[b]) for a, b in zip(labels, predicted, strict=True) if a != b]
        yield {
            "group": name,
            "classes": " ".join(classes[k] for k in np.unique(labels)),
            "pictures": len(places),
            "right": len(places) - len(wrong),
            "accuracy": 1 - len(wrong) / len(places),
            "errors": "; ".join(
                f"{count} {label} as {other}" for (label, other), count in sorted(Counter(wrong).items(), key=_order)
            ),
        }


def _order(error: tuple[tuple[str, str], int]) -> tuple[int, tuple[str, str]]:
    pair, count = error
    return -count, pair
