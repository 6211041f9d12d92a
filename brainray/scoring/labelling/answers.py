"""Brings the labels of one person or several to the images of a sample, and counts what cannot be used and why.

An image of the sample with a usable label is answered. After the last answered one nothing counts as drawn, for a
sample can be cut anywhere in its order; one before it without an answer is a gap. Labels of images that were not drawn
are not used: nobody knows how those images were chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray.errors import BadRequest
from brainray.evaluation.counts import Flags, Ints
from brainray.evaluation.stratified import NO_CLASS, UNKNOWN, WRONG, Sample
from brainray.inputs.labels import answer_file

from .picks import Pick


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """A sample with its labels; counts are images, but for `other_content` and `not_picked`, which are rows."""

    sample: Sample
    answered: int
    unclear: int  # wrong, and nobody knows which class
    no_image: int  # of none of the classes
    gaps: int  # before the last answer, without one
    contradictory: int  # of the gaps: right by one file and wrong by another
    not_reached: int  # after the last answer
    other_content: int  # of images of the sample, but given to other bytes or predictions: not used
    not_picked: int

    def figures(self) -> dict[str, int]:
        """The counts, for people and programs."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "sample"}


def read_labels(pick: Pick, uris: Sequence[str]) -> Answers:
    """The answers of label files. Raises `BadRequest` for an unreadable file, unknown classes, and no usable label."""
    files = [_Said.of(pick, uri) for uri in uris]
    predicted = pc.index_in(pick.rows["predicted"], value_set=pa.array(pick.classes, pa.string()))
    predicted_N = predicted.to_numpy().astype(np.int64)
    label_N, contradictory_N = _agreed(np.stack([said.label_N for said in files]), predicted_N)
    other_content = sum(said.other_content for said in files)
    if not (label_N != UNKNOWN).any():
        raise BadRequest(_why_unusable(pick, uris, int(contradictory_N.sum()), other_content))
    last = int(np.flatnonzero((label_N != UNKNOWN) | contradictory_N)[-1])
    of_last = pc.equal(pick.rows["unit"], pick.rows["unit"][last]).to_numpy()
    end = int(np.flatnonzero(of_last)[-1]) + 1  # a group that was begun counts as drawn
    rows, label_N = pick.rows.slice(0, end), label_N[:end]
    units = rows["unit"].combine_chunks().dictionary_encode().indices
    gaps = int((label_N == UNKNOWN).sum())
    return Answers(
        sample=Sample(
            stratum=rows["stratum"].to_numpy() - 1,
            unit=np.asarray(units.to_numpy(), np.int64),
            predicted=predicted_N[:end],
            label=label_N,
        ),
        answered=end - gaps,
        unclear=int((label_N == WRONG).sum()),
        no_image=int((label_N == NO_CLASS).sum()),
        gaps=gaps,
        contradictory=int(contradictory_N.sum()),
        not_reached=len(pick.rows) - end,
        other_content=other_content,
        not_picked=sum(said.not_picked for said in files),
    )


def _agreed(said_FN: Ints, predicted_N: Ints) -> tuple[Ints, Flags]:
    """[N] what files say together, and where one says right and another wrong: that counts as no answer.

    What each calls wrong is wrong, or leaving it out would flatter: of the class that those name who name one, or of
    an unknown one where they name several.
    """
    answered_FN, named_FN = said_FN != UNKNOWN, (said_FN != UNKNOWN) & (said_FN != WRONG)
    right_N = (answered_FN & (said_FN == predicted_N)).any(axis=0)
    wrong_N = (answered_FN & (said_FN != predicted_N)).any(axis=0)
    most, least = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    first_N, last_N = np.where(named_FN, said_FN, most).min(axis=0), np.where(named_FN, said_FN, least).max(axis=0)
    label_N = np.where(first_N == last_N, first_N, np.where(wrong_N, WRONG, UNKNOWN))
    return np.where(right_N & wrong_N, UNKNOWN, label_N), right_N & wrong_N


def _why_unusable(pick: Pick, uris: Sequence[str], contradictory: int, other_content: int) -> str:
    """Why no image of a sample has a label that counts, and what can be done."""
    if contradictory:
        return (
            f"--labels: these files contradict each other on all {contradictory:,} images of {pick.uri} that they "
            "answer; agree on a class of each, and give one file"
        )
    changed = (
        f", as {other_content:,} answer(s) are of images or predictions that have changed since"
        if other_content
        else ""
    )
    return (
        f"--labels {uris[0]}: no image of {pick.uri} has a usable label there{changed}; fill in the column label "
        "of pick.csv, or answer on pick.html and export"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Said:
    """What a file says of each image of a sample."""

    label_N: Ints
    other_content: int
    not_picked: int

    @classmethod
    def of(cls, pick: Pick, uri: str) -> Self:
        rows = answer_file.read_answers(uri, pick.classes)
        classes = pa.array(pick.classes, pa.string())
        named = pc.fill_null(pc.index_in(rows.labels, value_set=classes, skip_nulls=True), UNKNOWN)
        codes = np.asarray(named.to_numpy(zero_copy_only=False), np.int64)
        for value, code in ((answer_file.WRONG, WRONG), (answer_file.NO_IMAGE, NO_CLASS)):
            says = pc.fill_null(pc.equal(rows.answers, value), False).to_numpy(False)
            codes = np.where((codes == UNKNOWN) & says, code, codes)
        found = pc.index_in(pick.rows["uri"].combine_chunks(), value_set=rows.keys)
        place = np.asarray(pc.fill_null(found, -1).to_numpy(False), np.int64)
        label_N = np.where(place >= 0, codes[place], UNKNOWN)
        others = np.ones(len(codes), bool)
        others[place[place >= 0]] = False
        changed_N = _changed(pick, rows, found) & (label_N != UNKNOWN)
        return cls(
            label_N=np.where(changed_N, UNKNOWN, label_N),
            other_content=int(changed_N.sum()),
            not_picked=int((others & (codes != UNKNOWN)).sum()),
        )


def _changed(pick: Pick, rows: answer_file.AnswerRows, found: pa.Array) -> Flags:
    """[N] whether the answer to each image is to other bytes, or to another prediction, as far as is known.

    `found` are the rows of the images of the sample.
    """
    given = {"content_hash": rows.contents, "predicted": rows.called_wrong}
    there = [name for name in given if name in pick.rows.column_names]  # an earlier version kept no hashes
    differ = [pc.not_equal(pick.rows[name], given[name].take(found)) for name in there]
    return np.asarray(np.any([pc.fill_null(each, False).to_numpy() for each in differ], axis=0), bool)
