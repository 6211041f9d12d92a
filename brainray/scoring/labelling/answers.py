"""Brings the labels of one person or several to the images of a sample, and counts what cannot be used and why.

An image of the sample with a usable label is answered. After the last answered one nothing counts as drawn, for a
sample can be cut anywhere in its order; one before it without an answer is a gap. Labels of images that were not drawn
are not used: nobody knows how those images were chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray.errors import BadRequest
from brainray.evaluation.counts import Ints
from brainray.evaluation.stratified import NO_CLASS, UNKNOWN, WRONG, Sample
from brainray.inputs.labels.label_file import ANSWERED_WRONG, NO_IMAGE, read_answers

from .picks import Pick


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """A sample with its labels; counts are images, but for `not_picked`, which are rows."""

    sample: Sample
    answered: int
    unclear: int  # wrong, and nobody knows which class
    no_image: int  # of none of the classes
    gaps: int  # before the last answer, without one
    contradictory: int  # of the gaps: with different answers in different files
    not_reached: int  # after the last answer
    not_picked: int

    def figures(self) -> dict[str, int]:
        """The counts, for people and programs."""
        names = ("answered", "unclear", "no_image", "gaps", "contradictory", "not_reached", "not_picked")
        return {name: getattr(self, name) for name in names}


def read_labels(pick: Pick, uris: Sequence[str]) -> Answers:
    """The answers of label files. Raises `BadRequest` for an unreadable file, unknown classes, and no usable label."""
    columns = [_codes(pick, uri) for uri in uris]
    answered = [codes_N != UNKNOWN for codes_N, _ in columns]
    label_N = np.full(len(pick.rows), UNKNOWN)
    contradictory_N = np.zeros(len(pick.rows), bool)
    for (codes_N, _), own_N in zip(columns, answered, strict=True):
        contradictory_N |= own_N & (label_N != UNKNOWN) & (label_N != codes_N)
        label_N = np.where(own_N, codes_N, label_N)
    label_N[contradictory_N] = UNKNOWN
    if not (label_N != UNKNOWN).any():
        raise BadRequest(
            f"--labels {uris[0]}: no image of {pick.uri} has a usable label there; fill in the column label of "
            "pick.csv, or answer on pick.html and export"
        )
    last = int(np.flatnonzero((label_N != UNKNOWN) | contradictory_N)[-1])
    of_last = pc.equal(pick.rows["unit"], pick.rows["unit"][last]).to_numpy()
    end = int(np.flatnonzero(of_last)[-1]) + 1  # a group that was begun counts as drawn
    return _answers(pick, label_N, contradictory_N, end, not_picked=sum(others for _, others in columns))


def _answers(pick: Pick, label_N: Ints, contradictory_N: np.ndarray, end: int, *, not_picked: int) -> Answers:
    rows, label_N = pick.rows.slice(0, end), label_N[:end]
    units = rows["unit"].combine_chunks().dictionary_encode().indices
    place = pa.array(pick.classes, pa.string())
    predicted_N = pc.index_in(rows["predicted"], value_set=place).to_numpy().astype(np.int64)
    gaps = int((label_N == UNKNOWN).sum())
    return Answers(
        sample=Sample(
            stratum=rows["stratum"].to_numpy() - 1,
            unit=np.asarray(units.to_numpy(), np.int64),
            predicted=predicted_N,
            label=label_N,
        ),
        answered=end - gaps,
        unclear=int((label_N == WRONG).sum()),
        no_image=int((label_N == NO_CLASS).sum()),
        gaps=gaps,
        contradictory=int(contradictory_N.sum()),
        not_reached=len(pick.rows) - end,
        not_picked=not_picked,
    )


def _codes(pick: Pick, uri: str) -> tuple[Ints, int]:
    """[N] what a file says of each image of the sample, and the number of its labels for other images."""
    keys, labels, answers = read_answers(uri, pick.classes)
    named = pc.fill_null(pc.index_in(labels, value_set=pa.array(pick.classes, pa.string()), skip_nulls=True), UNKNOWN)
    codes = np.asarray(named.to_numpy(zero_copy_only=False), np.int64)
    says = {
        value: pc.fill_null(pc.equal(answers, value), False).to_numpy(False) for value in (ANSWERED_WRONG, NO_IMAGE)
    }
    codes = np.where((codes == UNKNOWN) & says[ANSWERED_WRONG], WRONG, codes)
    codes = np.where((codes == UNKNOWN) & says[NO_IMAGE], NO_CLASS, codes)
    found = pc.index_in(pick.rows["uri"].combine_chunks(), value_set=keys)
    place = np.asarray(pc.fill_null(found, -1).to_numpy(False), np.int64)
    others = np.ones(len(keys), bool)
    others[place[place >= 0]] = False
    return np.where(place >= 0, codes[place], UNKNOWN), int((others & (codes != UNKNOWN)).sum())
