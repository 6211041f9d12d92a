"""Finds and drops images that are listed more than once, in memory that does not grow with the number of images.

Hashes of all URIs are sorted; many are first written to disk, and sorted a bounded number at a time.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray.storage.scratch import scratch_folder

from .listed_image import hashes_of, tables_in
from .listing import Listing

_HASHES_A_FILE = 1 << 19  # 4 MB, which are in memory at a time
Hashes = npt.NDArray[np.int64]


def may_repeat(files: Sequence[str]) -> bool:
    """Whether two URIs of local files with a column `uri`, such as a manifest, have the same hash of 64 bits."""
    return next(_repeated_hashes(files), None) is not None


def each_once(found: Listing) -> Listing:
    """A listing with the first row of each URI, in the same file; a note says where others were dropped.

    A folder that changes while it is listed may give a name twice, and so do some stores.
    """
    repeated = np.unique(np.concatenate([np.zeros(0, np.int64), *_repeated_hashes([found.path])]))
    dropped = _drop(found, repeated) if len(repeated) else []
    if not dropped:
        return found
    rows = pa.concat_tables(dropped)
    note = f"names that the storage listed twice, and that are taken once: {len(rows):,}, such as {rows['uri'][0]}"
    return replace(
        found,
        images=found.images - len(rows),
        size_bytes=found.size_bytes - (pc.sum(rows["size_bytes"]).as_py() or 0),
        labelled=found.labelled - len(rows) + rows["label"].null_count,
        notes=(*found.notes, note),
    )


def _drop(found: Listing, repeated: Hashes) -> list[pa.Table]:
    """Write the listing anew with the first row of each URI; returns the others. `repeated`: hashes of such URIs."""
    seen, dropped, path = set[str](), list[pa.Table](), f"{found.path}.once"
    with pq.ParquetWriter(path, pq.read_schema(found.path), compression="zstd") as writer:
        for table in found.batches():
            is_first = np.ones(len(table), bool)
            for row in np.flatnonzero(np.isin(hashes_of(table["uri"].combine_chunks()), repeated)).tolist():
                uri = table["uri"][row].as_py()
                is_first[row] = uri not in seen
                seen.add(uri)
            writer.write_table(table.filter(pa.array(is_first)))
            if not is_first.all():
                dropped.append(table.filter(pa.array(~is_first)))
    os.replace(path, found.path)
    return dropped


def _repeated_hashes(files: Sequence[str]) -> Iterator[Hashes]:
    """The hashes that occur more than once. Each file of hashes has those of a range, so equal ones are in the same."""
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    found = (hashes_of(table["uri"].combine_chunks()) for name in files for table in tables_in(name, ["uri"]))
    if rows <= _HASHES_A_FILE:
        yield from _again(np.concatenate([np.zeros(0, np.int64), *found]))
        return
    ranges = -(-rows // _HASHES_A_FILE)
    limits = np.linspace(-(2**63), 2**63, ranges + 1)[1:-1].astype(np.int64)
    with scratch_folder() as folder:
        for hashes in map(np.sort, found):
            bounds = np.searchsorted(hashes, limits).tolist()
            for number, (start, stop) in enumerate(pairwise((0, *bounds, len(hashes)))):
                with Path(folder, str(number)).open("ab") as file:
                    file.write(hashes[start:stop].data)
        for number in range(ranges):
            yield from _again(np.fromfile(Path(folder, str(number)), np.int64))


def _again(hashes: Hashes) -> Iterator[Hashes]:
    """Those that occur more than once, if there are any."""
    hashes.sort()
    again = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(again):
        yield again
