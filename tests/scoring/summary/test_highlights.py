"""Rows of parts -> the bounded selection of them that people see."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each
from support.scoring.run_rows import CLASSES, failed, scored

from brainray.scoring.prediction_schema import prediction_schema
from brainray.scoring.summary.highlights import Highlights, columns, select

SCHEMA = prediction_schema(CLASSES)


def highlights(rows, cuts=()):
    """The selection of rows that are cut into parts at these places."""
    ends = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    tables = [
        pa.Table.from_pylist(rows[a:b], schema=SCHEMA).select(columns(CLASSES, grouped=True)) for a, b in pairwise(ends)
    ]
    return Highlights.total(select(table, CLASSES) for table in tables)


def uris(found, kind):
    return found.rows[kind]["uri"].to_pylist()


def some_rows(number, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(number):
        label, predicted = (str(name) for name in rng.choice([*CLASSES, "none"], 2))
        if predicted == "none":
            rows.append(failed(f"/{i}", str(rng.choice(["empty", "truncated"]))))
            continue
        confidence = float(rng.choice([0.5, 0.6, 0.75, 0.9]))  # many are equal
        own = None if label == "none" else label
        rows.append(scored(f"/{i}", predicted, confidence, label=own, review=confidence < 0.7))
    return rows


@settings(max_examples=25)
@given(st.integers(1, 80), st.integers(0, 99), st.lists(st.integers(0, 80), max_size=6))
def test_the_selection_does_not_depend_on_how_rows_are_cut_into_parts(number, seed, cuts):
    rows = some_rows(number, seed)
    whole, cut = highlights(rows), highlights(rows, cuts)
    for kind in whole.rows:
        assert cut.rows[kind].to_pylist() == whole.rows[kind].to_pylist()
    assert (cut.images, cut.formats) == (whole.images, whole.formats)
    assert cut.appearance.figures() == whole.appearance.figures()


def test_each_kind_holds_what_a_plain_loop_finds():
    rows = some_rows(300, 5)
    found = highlights(rows, (100, 200))
    ok = [row for row in rows if row["status"] == "ok"]
    wrong = [row for row in ok if row["label"] and row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: (-row["confidence"], row["uri"]))
    assert uris(found, "mistake") == [row["uri"] for row in wrong]
    unsure = [row for row in ok if not row["label"] and row["review"]]
    assert uris(found, "unsure") == [
        row["uri"] for row in sorted(unsure, key=lambda row: (row["confidence"], row["uri"]))
    ]
    for label, predicted in (CLASSES, CLASSES[::-1]):
        first = [row["uri"] for row in wrong if (row["label"], row["predicted"]) == (label, predicted)][:2]
        cells = found.rows["cell"].to_pylist()
        assert [row["uri"] for row in cells if row["label"] == label] == first
    assert found.images["failed"] == len(rows) - len(ok)
    assert [row["error"] for row in found.rows["failed"].to_pylist()] == sorted(
        row["error"] for row in rows if row["status"] == "error"
    )


def test_a_selection_is_bounded_and_counts_all():
    rows = [scored(f"/{i:05d}", "glioma", 0.5 + i / 10_000, label="notumor") for i in range(2_500)]
    found = highlights(rows, (1_000, 2_000))
    assert len(found.rows["mistake"]) == 2_000
    assert found.images["mistake"] == 2_500
    assert uris(found, "mistake")[0] == "/02499"


def test_a_label_that_is_no_class_is_no_mistake():
    found = highlights([scored("/a", "glioma", label="zebra", review=True)])
    assert (found.images["mistake"], found.images["unsure"]) == (0, 1)


@each(("width", "height", "place"), [(1, 1, 0), (127, 90, 0), (128, 128, 1), (500, 512, 4), (90_000, 1, 7)])
def test_images_are_counted_by_their_longest_side(width, height, place):
    found = highlights([scored("/a", "glioma", width=width, height=height), failed("/b")])
    assert np.flatnonzero(found.appearance.counts["longest_side_px"]).tolist() == [place]
    assert found.formats == {"JPEG": 1, "unknown": 1}
