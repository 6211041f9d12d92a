"""What a run has as one image stays one, and what it has as pages stays pages: else a page would be in it twice.

Earlier versions scored the first page of a TIFF or GIF, under the name of the file. In a bucket a sample of such files
is asked for pages, and as a bucket grows another sample may be. A run that is scored anew, or forgets what is missing,
takes the files as they are listed.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray.inputs.frames.pages import SUFFIXES
from brainray.inputs.listed_image import LISTED_SCHEMA
from brainray.inputs.listing import Listing

_SUFFIX = f"(?i)({'|'.join(suffix.replace('.', '[.]') for suffix in SUFFIXES)})"
_PAGE, _FILE = f"{_SUFFIX}#[0-9]+$", f"^(s3://|p:s3/).*{_SUFFIX}$"  # also of pseudonyms
_PLACE = ("uri", "size_bytes", "container", "offset", "stored_bytes")
_ONE_IMAGE = (
    "{:,} files of several pages stay one image each, as the run has them; --rescore gives each page a row of its own"
)

Row = dict[str, Any]


def as_known(old: Sequence[str], found: Listing) -> Listing:
    """The listing, in which files have the rows that the manifest files `old` have of them: one, or one a page.

    Rewrites the file of the listing where that makes a difference.
    """
    paged, whole = _paged_and_whole(found)
    as_one = _as_one_image(old, paged) if len(paged) else paged
    as_pages = _as_pages(old, whole) if len(whole) else {}
    if not len(as_one) and not as_pages:
        return found
    path = f"{found.path}.known"
    images = size_bytes = labelled = 0
    with pq.ParquetWriter(path, LISTED_SCHEMA, compression="zstd") as writer:
        for table in _with_known(found.batches(), as_one, as_pages):
            writer.write_table(table)
            images += len(table)
            size_bytes += pc.sum(table["size_bytes"]).as_py() or 0
            labelled += len(table) - table["label"].null_count
    os.replace(path, found.path)
    notes = (*found.notes, *([_ONE_IMAGE.format(len(as_one))] if len(as_one) else []))
    return replace(found, images=images, size_bytes=size_bytes, labelled=labelled, notes=notes)


def are_pages(table: pa.Table | pa.RecordBatch) -> pa.ChunkedArray:
    """[N] whether a row of a listing is a page: its name is that of the file that holds it, and a number."""
    has_number = pc.match_substring_regex(table["uri"], _PAGE)
    file = pc.replace_substring_regex(table["uri"], "#[0-9]+$", "")
    return pc.fill_null(pc.and_(has_number, pc.equal(file, table["container"])), False)


def _paged_and_whole(found: Listing) -> tuple[pa.Array, pa.Array]:
    """The files that are listed by page, and the objects that are listed as one image and may have been paged."""
    paged, whole = [], []
    for table in found.batches():
        paged.append(pc.unique(table["container"].filter(are_pages(table))))
        is_file = pc.and_(pc.is_null(table["container"]), pc.match_substring_regex(table["uri"], _FILE))
        whole.append(table["uri"].filter(is_file).combine_chunks())
    none = pa.array([], pa.string())
    return pc.unique(pa.concat_arrays([*paged, none])), pa.concat_arrays([*whole, none])


def _manifest(old: Sequence[str], *columns: str) -> Iterator[pa.RecordBatch]:
    for path in old:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(columns=list(columns))


def _as_one_image(old: Sequence[str], files: pa.Array) -> pa.Array:
    known = [
        batch["uri"].filter(pc.and_(pc.is_null(batch["container"]), pc.is_in(batch["uri"], files)))
        for batch in _manifest(old, "uri", "container")
    ]
    return pa.concat_arrays([*known, pa.array([], pa.string())])


def _as_pages(old: Sequence[str], files: pa.Array) -> dict[str, list[Row]]:
    """The pages of each of these files that the run has."""
    rows: list[Row] = []
    for batch in _manifest(old, *_PLACE, "version", "gone"):
        wanted = pc.and_(pc.and_(are_pages(batch), pc.invert(batch["gone"])), pc.is_in(batch["container"], files))
        rows += batch.filter(wanted).to_pylist()
    rows.sort(key=lambda row: (row["container"], row["offset"]))
    return {file: list(pages) for file, pages in groupby(rows, key=lambda row: str(row["container"]))}


def _with_known(tables: Iterator[pa.Table], as_one: pa.Array, as_pages: dict[str, list[Row]]) -> Iterator[pa.Table]:
    paged = pa.array(as_pages.keys(), pa.string())
    last = None  # the file of the page before: pages of a file follow one another
    for table in tables:
        to_one = pc.and_(are_pages(table), pc.fill_null(pc.is_in(table["container"], as_one), False))
        to_pages = pc.and_(pc.is_null(table["container"]), pc.is_in(table["uri"], paged))
        if not pc.any(pc.or_(to_one, to_pages)).as_py():
            yield table
            continue
        rows: list[Row] = []
        for row, is_page, is_whole in zip(table.to_pylist(), to_one.to_pylist(), to_pages.to_pylist(), strict=True):
            if is_page and row["container"] == last:
                continue
            last = row["container"] if is_page else None
            if is_page:
                whole = {"uri": last, "size_bytes": row["stored_bytes"]}
                rows.append(row | whole | dict.fromkeys(("container", "offset", "stored_bytes")))
            else:
                rows += _pages_of(row, as_pages[row["uri"]]) if is_whole else [row]
        yield pa.Table.from_pylist(rows, schema=LISTED_SCHEMA)


def _pages_of(row: Row, pages: list[Row]) -> list[Row]:
    """The pages of a file that is the same as it was; else its one row."""
    known = pages[0]
    if (row["version"], row["size_bytes"]) != (known["version"], known["stored_bytes"]) or row["refused"]:
        return [row]
    return [row | {name: page[name] for name in _PLACE} for page in pages]
