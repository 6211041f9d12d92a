"""Finds out whether an image is listed more than once, in memory that does not grow with the number of images.

Hashes of all URIs are written to disk and sorted, a bounded number at a time. Must not say which URIs these are.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brainray.storage.scratch import scratch_folder

from .listed_image import CHUNK_ROWS, hashes_of

_HASHES_A_FILE = 1 << 19  # 4 MB, which are in memory at a time


def may_repeat(files: Sequence[str]) -> bool:
    """Whether two URIs of local files with a column `uri`, such as a manifest, have the same hash of 64 bits.

    Each file of hashes has those of a range, so equal ones are in the same.
    """
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    ranges = -(-rows // _HASHES_A_FILE)
    limits = np.linspace(-(2**63), 2**63, ranges + 1)[1:-1].astype(np.int64)
    with scratch_folder() as folder:
        paths = [Path(folder, f"{number}.hashes") for number in range(ranges)]
        for uris in _uris(files):
            hashes = np.sort(hashes_of(uris))
            if _has_equal(hashes):
                return True
            for path, some in zip(paths, np.split(hashes, np.searchsorted(hashes, limits)), strict=True):
                with path.open("ab") as file:
                    file.write(some.data)
        return any(_has_equal(np.sort(np.fromfile(path, np.int64))) for path in paths)


def _has_equal(hashes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bool:
    return bool((hashes[1:] == hashes[:-1]).any())


def _uris(files: Sequence[str]) -> Iterator[pa.Array]:
    for path in files:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(CHUNK_ROWS, columns=["uri"], use_threads=False):
                yield batch.column(0)
