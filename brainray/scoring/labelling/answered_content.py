"""Finds the answers that were given to other bytes than those that a run has scored: the image has changed since."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import StorageError
from brainray.evaluation.counts import Ints
from brainray.inputs.listed_image import tables_in
from brainray.scoring.parts import part_uri, read_parts

_SCORED = ("uri", "content_hash")  # columns of a part


def places_of_other_content(
    run_uri: str, files: Sequence[str], row_N: npt.NDArray[np.int32], contents: pa.Array | None
) -> Ints:
    """The places in manifest files of images whose row of a label file was given to other bytes than were scored.

    `row_N` has the row of each image, -1 for none, and `contents` the hash of what each row was given to. Where one of
    the two hashes is not known, neither is a change.
    """
    if contents is None or contents.null_count == len(contents):
        return np.empty(0, np.int64)
    tables = list(_answered(files, row_N, contents))
    answered = pa.concat_tables(tables).sort_by("shard_id") if tables else None
    if answered is None or not len(answered):
        return np.empty(0, np.int64)
    shards, begins = np.unique(answered["shard_id"].to_numpy(), return_index=True)
    scored = read_parts(_scored, [part_uri(run_uri, shard_id) for shard_id in shards.tolist()])
    others = []
    for found, (begin, end) in zip(scored, pairwise((*begins.tolist(), len(answered))), strict=True):
        rows = answered.slice(begin, end - begin)
        now = found["content_hash"].take(pc.index_in(rows["uri"], found["uri"].combine_chunks()))
        differs = pc.fill_null(pc.not_equal(rows["content"], now), False)
        others.append(rows["place"].filter(differs).to_numpy())
    return np.concatenate(others)


def _answered(files: Sequence[str], row_N: npt.NDArray[np.int32], contents: pa.Array) -> Iterator[pa.Table]:
    """The images with an answer that was given to known bytes: `uri`, `shard_id`, `place` and `content`."""
    begins = 0
    for table in (table for file in files for table in tables_in(file, ["uri", "shard_id"])):
        rows = row_N[begins : begins + len(table)]
        content = contents.take(pa.array(rows, mask=rows < 0))
        table = table.append_column("place", pa.array(np.arange(begins, begins + len(table))))
        yield table.append_column("content", content).filter(content.is_valid())
        begins += len(table)


def _scored(uri: str) -> pa.Table:
    """The images of a part and their hashes; no rows where there is none, or a damaged one, which the caller finds."""
    try:
        with storage.open_parquet(uri) as file:
            return file.read(columns=list(_SCORED), use_threads=False)
    except StorageError:
        return pa.table({name: pa.array([], pa.string()) for name in _SCORED})
