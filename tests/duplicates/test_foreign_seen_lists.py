"""A bundle whose list of seen images has other columns is refused, whatever they are."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.models.bundles import untrained, with_file

from brainray.duplicates.seen import FILE, read_seen
from brainray.errors import BadRequest
from brainray.imaging.picture_hash import HASH_BYTES

CONTENT = pa.field("content", pa.uint64(), nullable=False)
PICTURE = pa.field("picture", pa.binary(HASH_BYTES), nullable=False)
VALUES = {"content": 7, "picture": bytes(HASH_BYTES)}


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("silent"), image_px=96)


def with_list(bundle, folder, *fields, **values):
    table = pa.table([[(VALUES | values)[field.name]] for field in fields], schema=pa.schema(fields))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return with_file(bundle, folder, FILE, sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("fields", "values", "lacks"),
    [
        ([CONTENT], {}, "picture"),
        ([PICTURE], {}, "content"),
        ([CONTENT.with_type(pa.int64()), PICTURE], {}, "content"),
        ([CONTENT, PICTURE.with_type(pa.binary(8))], {"picture": bytes(8)}, "picture"),
        ([CONTENT, PICTURE.with_nullable(True)], {"picture": None}, "picture"),
    ],
    ids=["no picture", "no content", "other numbers", "shorter hashes", "null"],
)
def test_a_list_of_other_columns_is_refused(silent, tmp_path, fields, values, lacks):
    with pytest.raises(BadRequest, match=f"seen.parquet is no list of this version .* no column .{lacks}. of type"):
        read_seen(with_list(silent, tmp_path / "model", *fields, **values))


def test_further_columns_are_no_harm(silent, tmp_path):
    further = pa.field("further", pa.int8())
    found = read_seen(with_list(silent, tmp_path / "model", CONTENT, PICTURE, further, further=1))
    assert found is not None
    assert found.content_N.tolist() == [7]
