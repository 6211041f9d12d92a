"""Proposes which images belong together where nobody knows the patients, and says how far that can be trusted.

A proposed group holds pictures that look like neighbouring slices of one head (`neighbours`), with all their copies. It
is a guess. Must not import Ray or torch.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from .descriptors import Descriptors, Ints
from .neighbours import propose_groups
from .search import connected

FILE = "proposed_groups.csv"
COLUMN = "proposed_group"  # of groups.parquet
_PREFIX = "proposed-"  # of names that are no subjects


def proposed_groups(
    descriptors: Descriptors, number: Ints, leader: Ints, ids: pa.Array, subjects: pa.ChunkedArray
) -> pa.Array:
    """[N] the proposed group of each image: its subject where that is known; null for a picture on its own.

    `number` and `leader` are those of `groups.Grouping`, `ids` [N] name its groups. Images of one subject stay
    together, and two subjects are never joined; a picture of nobody may join a subject.
    """
    rows = np.flatnonzero(number >= 0)
    pictures = int(number.max(initial=-1)) + 1
    leaders = np.zeros(pictures, np.int64)
    leaders[number[rows]] = leader[rows]
    group = propose_groups(descriptors, leaders, _known(number, subjects, pictures))
    of_image = pa.array(group[number] if pictures else number, mask=number < 0)
    columns = {"group": of_image, "id": ids, "subject": subjects}
    named = pa.table(columns).group_by("group").aggregate([("id", "min"), ("subject", "min"), ("id", "count_distinct")])
    alone = pc.equal(named["id_count_distinct"], 1)
    names = pc.if_else(alone, pa.scalar(None, pa.string()), pc.binary_join_element_wise(_PREFIX, named["id_min"], ""))
    places = pc.index_in(of_image, value_set=named["group"].combine_chunks())
    found = pc.coalesce(subjects, pc.coalesce(named["subject_min"], names).take(places))
    return pc.if_else(pa.array(number >= 0), found, pa.scalar(None, pa.string())).combine_chunks()


def _known(number: Ints, subjects: pa.ChunkedArray, pictures: int) -> Ints:
    """[P] for each picture the number of its subject, and of all that share a picture with that; -1 for none."""
    has_subject = subjects.is_valid().to_numpy() & (number >= 0)
    codes = pc.fill_null(pc.index_in(subjects, value_set=subjects.unique().drop_null()), 0).to_numpy()
    links = np.stack([number[has_subject], pictures + codes[has_subject]], axis=1)
    joined = connected(pictures + int(codes.max(initial=-1)) + 1, links)[:pictures]
    known = np.full(pictures, -1)
    known[number[has_subject]] = joined[number[has_subject]]
    return known


def group_file(table: pa.Table) -> bytes:
    """The content of the file that `train --groups` takes: uri and group of each image, from groups.parquet."""
    sink = io.BytesIO()
    pa_csv.write_csv(pa.table({"uri": table["uri"], "group": pc.fill_null(table[COLUMN], "")}), sink)
    return sink.getvalue()


def proposal_figures(rows: pa.Table) -> dict[str, Any]:
    """Figures of the proposed groups, from the readable rows of groups.parquet; images of known subjects do not count.

    The groups are found without labels, and slices of one head mostly have one label. So the share of pairs with two
    labels, beside that of pairs drawn at random, tells how many pairs are wrong at least.
    """
    unknown = rows.filter(pc.is_null(rows["subject"]))
    keys = [COLUMN, "group"]
    pictures = unknown.group_by(keys).aggregate([("label", "min")])
    proposed = pictures.filter(pc.is_valid(pictures[COLUMN]))
    sizes = proposed.group_by(COLUMN).aggregate([("group", "count")])["group_count"]
    return {
        "groups": len(sizes),
        "pictures": len(proposed),
        "of_pictures": len(pictures),
        "largest": pc.max(sizes).as_py() or 0,
        "median": pc.approximate_median(sizes).as_py(),
        "pairs": _pairs(sizes),
        "share_two_labels": _share_of_two(proposed, [COLUMN]),
        "share_two_labels_by_chance": _share_of_two(pictures, []),
    }


def _share_of_two(pictures: pa.Table, keys: list[str]) -> float | None:
    """The share of pairs of pictures, equal in the columns `keys`, that have two labels; None for no pairs."""
    labelled = pictures.filter(pc.is_valid(pictures["label_min"]))
    within, same = (
        _pairs(labelled.group_by(columns).aggregate([([], "count_all")])["count_all"])
        for columns in (keys, [*keys, "label_min"])
    )
    return 1 - same / within if within else None


def _pairs(sizes: pa.ChunkedArray) -> int:
    """The number of pairs within groups of these sizes."""
    counts = sizes.to_numpy().astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def proposal_rows(proposed: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of the figures, as text for the page and the terminal."""
    yield "proposed groups: pictures that look like slices of one head", f"{proposed['groups']:,}"
    if not proposed["groups"]:
        return
    yield "pictures in a proposed group", f"{proposed['pictures']:,} of {proposed['of_pictures']:,}"
    yield "pictures of the median and the largest group", f"{proposed['median']:.0f} and {proposed['largest']:,}"
    if proposed["share_two_labels"] is not None:
        shares = (proposed["share_two_labels"], proposed["share_two_labels_by_chance"])
        yield "pairs in a proposed group with two labels (by chance)", "{:.1%} ({:.0%})".format(*shares)
