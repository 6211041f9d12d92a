"""Files of several pages that a run has as one image each stay so: else their first page would be in the run twice.

Earlier versions scored the first page of a TIFF or GIF, under the name of the file, and so does this one where it does
not know of the others. A run that is scored anew, or forgets what is missing, takes the pages.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray.inputs.frames.pages import SUFFIXES
from brainray.inputs.listed_image import LISTED_SCHEMA
from brainray.inputs.listing import Listing

_PAGE = f"(?i)({'|'.join(suffix.replace('.', '[.]') for suffix in SUFFIXES)})#[0-9]+$"
_ONE_IMAGE = (
    "{:,} files of several pages stay one image each, as the run has them; --rescore gives each page a row of its own"
)


def keep_whole(old: Sequence[str], found: Listing) -> Listing:
    """The listing, in which files that the manifest files `old` have as one image are one, with the place of none.

    Rewrites the file of the listing where there are any.
    """
    files = _files_of_pages(found)
    known = _as_one_image(old, files) if len(files) else files
    if not len(known):
        return found
    path = f"{found.path}.whole"
    images = size_bytes = labelled = 0
    with pq.ParquetWriter(path, LISTED_SCHEMA, compression="zstd") as writer:
        for table in _merged(found.batches(), known):
            writer.write_table(table)
            images += len(table)
            size_bytes += pc.sum(table["size_bytes"]).as_py() or 0
            labelled += len(table) - table["label"].null_count
    os.replace(path, found.path)
    notes = (*found.notes, _ONE_IMAGE.format(len(known)))
    return replace(found, images=images, size_bytes=size_bytes, labelled=labelled, notes=notes)


def is_page(table: pa.Table) -> pa.ChunkedArray:
    """[N] whether a row of a listing is a page: its name is that of the file that holds it, and a number."""
    has_number = pc.match_substring_regex(table["uri"], _PAGE)
    file = pc.replace_substring_regex(table["uri"], "#[0-9]+$", "")
    return pc.fill_null(pc.and_(has_number, pc.equal(file, table["container"])), False)


def _files_of_pages(found: Listing) -> pa.Array:
    parts = [pc.unique(table["container"].filter(is_page(table))) for table in found.batches()]
    return pc.unique(pa.concat_arrays([*parts, pa.array([], pa.string())]))


def _as_one_image(old: Sequence[str], files: pa.Array) -> pa.Array:
    known = []
    for path in old:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(columns=["uri", "container"]):
                is_one = pc.and_(pc.is_null(batch["container"]), pc.is_in(batch["uri"], files))
                known.append(batch["uri"].filter(is_one))
    return pa.concat_arrays([*known, pa.array([], pa.string())])


def _merged(tables: Iterator[pa.Table], files: pa.Array) -> Iterator[pa.Table]:
    """The rows; of the pages of these files the first, as the file."""
    last = None  # the file of the page before: pages of a file follow one another
    for table in tables:
        of_known = pc.and_(is_page(table), pc.is_in(table["container"], files)).to_pylist()
        if not any(of_known):
            last = None
            yield table
            continue
        rows = []
        for row, of_pages in zip(table.to_pylist(), of_known, strict=True):
            if not of_pages:
                rows.append(row)
                last = None
            elif row["container"] != last:
                last = row["container"]
                whole = {"uri": last, "size_bytes": row["stored_bytes"]}
                rows.append(row | whole | dict.fromkeys(("container", "offset", "stored_bytes")))
        yield pa.Table.from_pylist(rows, schema=LISTED_SCHEMA)
