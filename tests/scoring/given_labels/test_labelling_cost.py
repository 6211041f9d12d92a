"""What it costs to label a run grows with its images, not with images times given labels."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray.scoring.labelling import given_labels
from brainray.scoring.manifest import MANIFEST_SCHEMA

SHARD, SHARDS = 10, 40
URIS = [f"/in/{number:04d}.png" for number in range(SHARD * SHARDS)]


def shard(begin):
    rows = {"uri": URIS[begin : begin + SHARD], "label": ["b"] * SHARD, "shard_id": ["x"] * SHARD}
    columns = [pa.array(rows.get(field.name, [None] * SHARD), field.type) for field in MANIFEST_SCHEMA]
    return pa.table(columns, schema=MANIFEST_SCHEMA)


def test_given_labels_are_not_gone_through_for_each_shard(monkeypatch):
    gone_through = []

    def counted(function):
        def call(values, value_set, **options):
            gone_through.append(len(values) + len(value_set))
            return function(values, value_set, **options)

        return call

    for name in ("index_in", "is_in"):
        monkeypatch.setattr(pc, name, counted(getattr(pc, name)))
    given = pa.table([URIS, ["b"] * len(URIS), ["a"] * len(URIS)], schema=given_labels._SCHEMA)
    said = np.tile(np.array([0, 2, -1, -1, -1], np.int32), len(URIS) // 5)  # class a, taken back, and nothing
    labeller = given_labels._Labeller(said, ["a", "b"], given, given_labels.Relabelling(), judged_before=False)
    labels = [label for begin in range(0, len(URIS), SHARD) for label in labeller(shard(begin))["label"].to_pylist()]
    assert labels == ["a", "a", "b", "b", "b"] * (len(URIS) // 5)
    left = labeller.given()
    assert left["uri"].to_pylist() == [uri for number, uri in enumerate(URIS) if number % 5 != 1]
    assert left["label"].to_pylist() == ["a", "b", "b", "b"] * (len(URIS) // 5)
    assert set(left["listed"].to_pylist()) == {"a"}
    assert sum(gone_through) <= 3 * len(URIS)
