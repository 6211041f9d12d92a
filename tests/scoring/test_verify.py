"""Rows that are lost, doubled or damaged are found, never published, and made anew."""

import json

import pyarrow.parquet as pq
import pytest
from support.scoring.runs import contents, engine_of, request_for, rows, score_here, success

from brainray import storage
from brainray.errors import VerificationError
from brainray.scoring.parts import part_uri
from brainray.scoring.run_folder import verify_run


def damage(path):
    """Turn over the last byte of a column's data, as a bad disk does; the footer stays readable."""
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.data_page_offset if column.dictionary_page_offset is None else column.dictionary_page_offset
    data[start + column.total_compressed_size - 1] ^= 0xFF
    path.write_bytes(bytes(data))


def rewrite(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


FAULTS = {
    "missing": (lambda p: p.unlink(), r"part-\w+\.parquet is missing, with the rows of .*glioma/0\.jpg"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-20]), r"part-\w+\.parquet is damaged"),
    "damaged": (damage, r"part-\w+\.parquet is damaged"),
    "doubled": (lambda p: rewrite(p, lambda t: t.take([0, 0, 2])), r"lacks .*1\.jpg.*more than one row for .*0\.jpg"),
    "another model": (
        lambda p: rewrite(p, lambda t: t.replace_schema_metadata(changed(t, model="another"))),
        "of model another",
    ),
}


def changed(table, **values):
    key = b"brainray"
    return {key: json.dumps(json.loads(table.schema.metadata[key]) | values)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_harmed_later_is_found_and_made_anew(fault, run, archive):
    root = archive(images=3)
    run(root, shard_size=3)
    before = contents(run.uri)
    (first,) = {row["shard_id"] for row in rows(run.uri) if row["uri"].endswith("glioma/0.jpg")}
    uri = part_uri(run.uri, first)
    harm, complaint = FAULTS[fault]
    if fault == "another model":
        table = pq.read_table(uri)
        pq.write_table(table.replace_schema_metadata(changed(table, model="another")), uri)
    else:
        harm(type(root)(uri))
    with pytest.raises(VerificationError, match=complaint):
        verify_run(run.uri)
    storage.delete(uri)
    assert run(root).scored == 3
    assert contents(run.uri) == before
    assert verify_run(run.uri).rows == 12


@pytest.mark.parametrize("fault", ["missing", "doubled", "damaged"])
def test_rows_that_do_not_add_up_are_named_and_never_published(fault, run, archive, bundle):
    root = archive(images=3)
    harm, complaint = FAULTS[fault]
    engine = engine_of(bundle)

    def harming(request, plan, lease):
        done = list(engine(request, plan, lease))
        harm(root.parent / "run" / "predictions" / f"part-{done[0].shard_id}.parquet")
        yield from done

    with pytest.raises(VerificationError, match=complaint):
        score_here(request_for(root, run.uri, bundle, shard_size=3), harming)
    assert not success(run.uri)
    assert run(root).scored == 3, "the same command must score just the rows that were lost"
    assert len(contents(run.uri)) == 12 and success(run.uri)
