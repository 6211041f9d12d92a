"""Finds the answers to what a run no longer holds: other bytes of an image, or another prediction that was wrong."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import StorageError
from brainray.evaluation.counts import Ints
from brainray.inputs.labels.label_file import LabelFile
from brainray.inputs.listed_image import tables_in
from brainray.scoring.parts import part_uri, read_parts

_ANSWERED = ("content_hash", "predicted")  # columns of a part that an answer may be about


def places_of_other_content(
    run_uri: str, files: Sequence[str], row_N: npt.NDArray[np.int32], label_file: LabelFile
) -> Ints:
    """The places in manifest files of images whose row of a label file is about other bytes, or another prediction.

    `row_N` has the row of each image, -1 for none. What a row or a part does not know is no change.
    """
    about = {"content_hash": label_file.contents, "predicted": label_file.called_wrong}
    known = {name: values for name, values in about.items() if values is not None and values.null_count < len(values)}
    if not known:
        return np.empty(0, np.int64)
    tables = list(_answered(files, row_N, known))
    answered = pa.concat_tables(tables).sort_by("shard_id") if tables else None
    if answered is None or not len(answered):
        return np.empty(0, np.int64)
    shards, begins = np.unique(answered["shard_id"].to_numpy(), return_index=True)
    scored = read_parts(_scored, [part_uri(run_uri, shard_id) for shard_id in shards.tolist()])
    others = []
    for found, (begin, end) in zip(scored, pairwise((*begins.tolist(), len(answered))), strict=True):
        rows = answered.slice(begin, end - begin)
        now = found.take(pc.index_in(rows["uri"], found["uri"].combine_chunks()))
        for name in known:
            differs = pc.fill_null(pc.not_equal(rows[name], now[name]), False)
            others.append(rows["place"].filter(differs).to_numpy())
    return np.unique(np.concatenate(others))


def _answered(files: Sequence[str], row_N: npt.NDArray[np.int32], known: dict[str, pa.Array]) -> Iterator[pa.Table]:
    """The images with an answer that is about something known: `uri`, `shard_id`, `place`, and what it is about."""
    begins = 0
    for table in (table for file in files for table in tables_in(file, ["uri", "shard_id"])):
        rows = row_N[begins : begins + len(table)]
        table = table.append_column("place", pa.array(np.arange(begins, begins + len(table))))
        begins += len(table)
        about = {name: values.take(pa.array(rows, mask=rows < 0)) for name, values in known.items()}
        for name, values in about.items():
            table = table.append_column(name, values)
        yield table.filter(np.any([values.is_valid().to_numpy(False) for values in about.values()], axis=0))


def _scored(uri: str) -> pa.Table:
    """What answers to the images of a part are about; no rows of a missing or damaged one, which the caller finds."""
    try:
        with storage.open_parquet(uri) as file:
            return file.read(columns=["uri", *_ANSWERED], use_threads=False)
    except StorageError:
        return pa.table({name: pa.array([], pa.string()) for name in ("uri", *_ANSWERED)})
