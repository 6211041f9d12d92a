"""Predictions that people judged wrong without naming the class, from `brainray report --labels`.

Such an image has no label, and left out it would flatter every figure. `judged_wrong.parquet` of the run keeps what was
judged: a prediction about a content. Another prediction, or another content of the file, nobody has judged.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.inputs.listed_image import UriIndex
from brainray.scoring.parts import part_uri, present_shards, read_parts
from brainray.storage import Writer

FILE = "judged_wrong.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
    ]
)


def read_judged(run_uri: str) -> pa.Table:
    """What was judged wrong in a run, by URI; no rows where nothing was."""
    uri = storage.join(run_uri, FILE)
    if not storage.exists(uri):
        return _SCHEMA.empty_table()
    return storage.read_parquet(uri).select(_SCHEMA.names).cast(_SCHEMA).combine_chunks()


def judged_now(run_uri: str, before: pa.Table, wrong: pa.Array, named: pa.Array) -> pa.Table:
    """What is judged wrong in a run once `wrong` are, URIs of images, and no other one of those that are `named`.

    `before` is what is judged wrong there.
    """
    kept = before.filter(pc.invert(pc.is_in(before["uri"], pa.concat_arrays([wrong, named]))))
    return pa.concat_tables([kept, *_predictions(run_uri, wrong)]).sort_by("uri").combine_chunks()


def write_judged(run_uri: str, judged: pa.Table, writer: Writer) -> None:
    """Keep it for the run; without rows there is no file."""
    if len(judged):
        writer.write_parquet(storage.join(run_uri, FILE), judged)
    else:
        writer.delete(storage.join(run_uri, FILE))


def _predictions(run_uri: str, uris: pa.Array) -> list[pa.Table]:
    """The rows of the scored images among some."""

    def read(uri: str) -> pa.Table:
        with storage.open_parquet(uri) as file:
            table = file.read(columns=[*_SCHEMA.names, "status"], use_threads=False).replace_schema_metadata(None)
        rows = table.filter(pc.and_(pc.equal(table["status"], "ok"), pc.is_in(table["uri"], uris)))
        return rows.select(_SCHEMA.names).filter(rows["content_hash"].is_valid()).cast(_SCHEMA)

    parts = sorted(present_shards(run_uri)) if len(uris) else ()
    return list(read_parts(read, [part_uri(run_uri, shard_id) for shard_id in parts]))


@dataclass(frozen=True, eq=False)
class JudgedWrong:
    """Finds rows of a run whose prediction was judged wrong."""

    table: pa.Table
    index: UriIndex

    @classmethod
    def of_run(cls, run_uri: str) -> "JudgedWrong":
        table = read_judged(run_uri)
        return cls(table, UriIndex(table["uri"].combine_chunks()))

    def __len__(self) -> int:
        return len(self.table)

    def among(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """[N] whether rows hold a prediction that was judged wrong, of the same content."""
        place = self.index.find(rows["uri"].combine_chunks())
        same = [pc.equal(rows[name].combine_chunks(), self._column(name).take(place)) for name in _SCHEMA.names[1:]]
        return np.asarray(pc.fill_null(pc.and_(*same), False).to_numpy(False))

    def _column(self, name: str) -> pa.Array:
        return self.table[name].combine_chunks()
