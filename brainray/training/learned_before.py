"""Which measured pictures are new: of which no weights had learned anything before this training began.

`--init` gives weights that have learned already, and may know by heart the very pictures that a fold holds out. The
networks of a `--teacher` pass on what the weights had learned that they began with. What they have seen is not
measured; where too little else is left, or where a model does not tell, the figures flatter and nothing is promised.
Axes: N measured pictures.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from brainray import storage
from brainray.duplicates.seen import SeenPictures, read_seen
from brainray.models.bundle import Bundle

if TYPE_CHECKING:
    from .fit_result import Measured
    from .state import WorkFolder

KEY = "learned_before"  # in the metrics of a bundle
_OWNERS = {"--init": "the model of --init", "--teacher": "the weights that --teacher began with"}
# New pictures below which the temperature would be a guess, and no promise can be kept.
_FEWEST = 20


class Knowledge(NamedTuple):
    """What is known of measured pictures that were learned from before."""

    by: tuple[str, ...]  # the options whose models had learned before
    pictures: int | None  # that were learned from before, or whose group was; None where a model does not tell
    flatters: bool  # whether they are measured nevertheless

    @property
    def owners(self) -> str:
        """The models that had learned before, in words."""
        return _named(self.by)

    def describe(self, measured: int) -> str:
        """A line for the log, of so many measured pictures; "" where all are new."""
        if self.pictures is None:
            return f"what {self.owners} had learned from cannot be looked up: every figure may flatter"
        found = f"{self.owners} had learned from {self.pictures:,} of {measured:,} measured pictures, or their groups"
        if self.flatters:
            return f"{found}, and too few others are left: every figure flatters, and nothing is promised"
        return f"{found}: they are left out of every figure" if self.pictures else ""


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedBefore:
    """What the weights that training began with had learned from, and those that its teacher began with."""

    by: tuple[str, ...]  # the options
    untold: tuple[str, ...]  # those of them whose model does not tell, or not all
    seen: SeenPictures | None  # what they tell; None for nothing

    def describe_untold(self) -> str:
        """A line for the log."""
        return (
            f"nothing tells what {_named(self.untold)} had learned from: every figure may flatter, nothing is "
            "promised, and `score` will not know those images again"
        )


class NewPictures(NamedTuple):
    """Which of the measured pictures are to be measured."""

    taken_N: npt.NDArray[np.bool_] | None  # None for all
    knowledge: Knowledge | None  # None where no weights had learned before

    @property
    def flatter(self) -> bool:
        """Whether those that are taken had been learned from before, or may have been."""
        return self.knowledge is not None and self.knowledge.flatters


def _named(options: tuple[str, ...]) -> str:
    return " and ".join(_OWNERS[option] for option in options)


def flatters(metrics: dict[str, Any]) -> bool:
    """Whether the figures of a bundle are of pictures that its first weights had learned from, or may have."""
    return bool((metrics.get(KEY) or {}).get("flatters"))


def learned_before(init: Bundle | None, teacher: Bundle | None) -> LearnedBefore | None:
    """What the models of both options tell; None where no weights had learned before.

    Raises `BadRequest` for a damaged list.
    """
    by, untold, lists = [], [], []
    if init:
        by.append("--init")
        listed = read_seen(init)
        lists += [listed] if listed else []
        untold += [] if listed and _tells_all(init) else ["--init"]
    if teacher and (KEY in teacher.metrics or teacher.provenance.get("options", {}).get("init")):
        by.append("--teacher")
        listed = read_seen(teacher)
        lists += [listed.earlier()] if listed else []
        untold += [] if listed and _tells_all(teacher) else ["--teacher"]
    if not by:
        return None
    seen = lists[0] if lists else None
    for other in lists[1:]:
        seen = seen.joined(other) if seen else other
    return LearnedBefore(by=tuple(by), untold=tuple(untold), seen=seen)


def _tells_all(bundle: Bundle) -> bool:
    """Whether a list has all that the weights of its bundle learned from; earlier versions do not say so of --init."""
    known = bundle.metrics.get(KEY)
    return known["pictures"] is not None if known else not bundle.provenance.get("options", {}).get("init")


def find_new(before: LearnedBefore | None, work: "WorkFolder", measured: "Measured") -> NewPictures:
    """Find the pictures of which neither they nor a copy or another image of their group was learned from before.

    All are taken where the others are too few.
    """
    if before is None:
        return NewPictures(None, None)
    seen_N = None if before.untold else _seen(before.seen, work, measured.positions_N)
    if seen_N is None:
        return NewPictures(None, Knowledge(before.by, None, flatters=True))
    pictures = int(seen_N.sum())
    if pictures and not _are_enough(~seen_N, measured):
        return NewPictures(None, Knowledge(before.by, pictures, flatters=True))
    return NewPictures(~seen_N if pictures else None, Knowledge(before.by, pictures, flatters=False))


def _seen(
    seen: SeenPictures | None, work: "WorkFolder", positions_N: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.bool_] | None:
    """[N] which pictures were learned from before, or whose unit was; None where an earlier version kept no hashes."""
    if seen is None or positions_N is None or not storage.exists(work.described):
        return None
    table = storage.read_parquet(work.described)
    units = table["unit"].to_numpy()
    known = np.isin(units, units[seen.find_described(table)])
    found: npt.NDArray[np.bool_] = known[np.searchsorted(table["position"].to_numpy(), positions_N)]
    return found


def _are_enough(new_N: npt.NDArray[np.bool_], measured: "Measured") -> bool:
    """Whether new pictures suffice to measure on: some number, with some of every class and fold."""
    return bool(new_N.sum() >= _FEWEST) and all(
        len(np.unique(values_N[new_N])) == len(np.unique(values_N)) for values_N in (measured.labels_N, measured.fold_N)
    )
