"""A file of several pages is in a run as one image or as its pages, never as both: else a page would be in it twice.

Earlier versions scored the first page of a TIFF or GIF, under the name of the file; a file that has not changed since
stays so. In a bucket a sample of such files is asked for pages, and as a bucket grows another sample may be; and a file
may be out of reach for a moment. So pages that a run has stay its rows, until the file itself says that it has others.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs.frames import frame_uri
from brainray.inputs.frames.listing import frames_of, pages_in_file
from brainray.inputs.frames.pages import SUFFIXES
from brainray.inputs.listed_image import LISTED_SCHEMA, ListedImage
from brainray.inputs.listing import Listing
from brainray.storage.base import FileInfo

_SUFFIX = f"(?i)({'|'.join(suffix.replace('.', '[.]') for suffix in SUFFIXES)})"
PAGE, FILE = f"{_SUFFIX}#[0-9]+$", f"{_SUFFIX}$"  # ends of names, also of pseudonyms
_PLACE = ("uri", "size_bytes", "container", "offset", "stored_bytes")
_ONE_IMAGE = (
    "{:,} files of several pages stay one image each, as the run has them; --rescore gives each page a row of its own"
)
_AT_ONCE = 16  # files that are asked in parallel

Row = dict[str, Any]


class _Known(NamedTuple):
    """The files whose rows differ from those that were listed."""

    as_one: dict[str, tuple[str | None, int | None]]  # files that the run has as one image, with version and size
    as_pages: dict[str, list[Row]]  # the rows of files that were listed as one


def as_known(
    old: Sequence[str], found: Listing, *, told: Callable[[str], str] = str, wholes_stay: bool = True
) -> Listing:
    """The listing, in which files have the rows that the manifest files `old` have of them: one, or one a page.

    `told` gives the name that the run has for a file. Without `wholes_stay` each file of several pages has its pages.
    Asks files again that are listed as one image and had pages, and rewrites the file of the listing where that
    makes a difference.
    """
    paged, whole = _listed(found, _paged_in(old), told)
    known = _Known(_as_one_image(old, paged, told) if wholes_stay else {}, _as_pages(old, whole, told))
    if not any(known):
        return found
    path = f"{found.path}.known"
    images = size_bytes = labelled = 0
    stayed: set[str] = set()
    with pq.ParquetWriter(path, LISTED_SCHEMA, compression="zstd") as writer:
        for table in _with_known(found.batches(), known, stayed):
            writer.write_table(table)
            images += len(table)
            size_bytes += pc.sum(table["size_bytes"]).as_py() or 0
            labelled += len(table) - table["label"].null_count
    os.replace(path, found.path)
    notes = (*found.notes, *([_ONE_IMAGE.format(len(stayed))] if stayed else []))
    return replace(found, images=images, size_bytes=size_bytes, labelled=labelled, notes=notes)


def are_pages(table: pa.Table | pa.RecordBatch) -> pa.ChunkedArray:
    """[N] whether a row of a listing is a page: its name is that of the file that holds it, and a number."""
    if table["container"].null_count == len(table):  # as in most archives, whose names need not be looked at
        return pc.is_valid(table["container"])
    has_number = pc.match_substring_regex(table["uri"], PAGE)
    file = pc.replace_substring_regex(table["uri"], "#[0-9]+$", "")
    return pc.fill_null(pc.and_(has_number, pc.equal(file, table["container"])), False)


def are_wholes(table: pa.Table | pa.RecordBatch) -> pa.ChunkedArray:
    """[N] whether a row of a listing is a TIFF or GIF file as one image."""
    return pc.and_(pc.is_null(table["container"]), pc.match_substring_regex(table["uri"], FILE))


def _manifest(old: Sequence[str], *columns: str) -> Iterator[pa.RecordBatch]:
    for path in old:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(columns=list(columns))


def _paged_in(old: Sequence[str]) -> pa.Array:
    """The files of which a run has pages."""
    found = [pc.unique(batch["container"].filter(are_pages(batch))) for batch in _manifest(old, "uri", "container")]
    return pc.unique(pa.concat_arrays([*found, pa.array([], pa.string())]))


def _told(uris: pa.Array, told: Callable[[str], str]) -> pa.Array:
    return uris if told is str else pa.array(map(told, uris.to_pylist()), pa.string())


def _listed(found: Listing, known: pa.Array, told: Callable[[str], str]) -> tuple[pa.Array, list[ListedImage]]:
    """The files that are listed by page, and those that are listed as one image while the run may have their pages."""
    paged: list[pa.Array] = []
    whole: list[ListedImage] = []
    for table in found.batches():
        paged.append(pc.unique(table["container"].filter(are_pages(table))))
        files = table.filter(are_wholes(table)) if len(known) else table.slice(0, 0)
        is_known = pc.is_in(_told(files["uri"].combine_chunks(), told), known)
        whole += [ListedImage(**row) for row in files.filter(is_known).to_pylist()]
    return pc.unique(pa.concat_arrays([*paged, pa.array([], pa.string())])), whole


def _as_one_image(
    old: Sequence[str], files: pa.Array, told: Callable[[str], str]
) -> dict[str, tuple[str | None, int | None]]:
    """Version and size of those of the files that the run has as one image."""
    names = _told(files, told)
    known: dict[str, tuple[str | None, int | None]] = {}
    for batch in _manifest(old, "uri", "version", "size_bytes", "container", "gone") if len(files) else ():
        is_wanted = pc.and_(pc.and_(are_wholes(batch), pc.invert(batch["gone"])), pc.is_in(batch["uri"], names))
        rows = batch.filter(is_wanted)
        places = pc.index_in(rows["uri"], names)
        versions, sizes = rows["version"].to_pylist(), rows["size_bytes"].to_pylist()
        known |= zip(files.take(places).to_pylist(), zip(versions, sizes, strict=True), strict=True)
    return known


def _as_pages(old: Sequence[str], listed: Sequence[ListedImage], told: Callable[[str], str]) -> dict[str, list[Row]]:
    """The rows of these files, which are listed as one image, where they are to be pages."""
    pages = _pages_in_run(old, pa.array([told(image.uri) for image in listed], pa.string()))
    known = [(image, pages[name]) for image in listed if (name := told(image.uri)) in pages]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pages") as pool:
        rows = pool.map(lambda item: _rows_of(*item), known)
        return {image.uri: found for (image, _), found in zip(known, rows, strict=True) if found}


def _pages_in_run(old: Sequence[str], files: pa.Array) -> dict[str, list[Row]]:
    """The pages that a run has of each of these files; gone ones where it has no other row of the file."""
    there: dict[str, list[Row]] = {}
    gone: dict[str, list[Row]] = {}
    wholes: set[str] = set()
    for batch in _manifest(old, *_PLACE, "version", "gone") if len(files) else ():
        is_wanted = pc.and_(are_pages(batch), pc.is_in(batch["container"], files))
        for row in batch.filter(is_wanted).to_pylist():
            (gone if row["gone"] else there).setdefault(row["container"], []).append(row)
        is_whole = pc.and_(pc.and_(are_wholes(batch), pc.invert(batch["gone"])), pc.is_in(batch["uri"], files))
        wholes.update(batch["uri"].filter(is_whole).to_pylist())
    for file in gone.keys() - there.keys() - wholes:
        there[file] = gone[file]
    for rows in there.values():
        rows.sort(key=lambda row: row["offset"])
    return there


def _rows_of(image: ListedImage, pages: Sequence[Row]) -> list[Row] | None:
    """The pages of a file that is listed as one image; None where it is one. Asks the file, but for a known object."""
    share = -(-(image.size_bytes or 0) // len(pages))
    of_image = [(place, share, image.size_bytes, image.version) for place in range(len(pages))]
    of_run = [tuple(row[name] for name in ("offset", "size_bytes", "stored_bytes", "version")) for row in pages]
    if of_run == of_image and len(pages) > 1 and not storage.is_local(image.uri):
        return [_known_page(image, row)._asdict() for row in pages]
    file = FileInfo(uri=image.uri, folders=(), size_bytes=image.size_bytes or 0, version=image.version or "")
    try:
        count = pages_in_file(file)
    except StorageError as exc:
        as_now = {} if exc.reason == "read_failed" else {"version": image.version, "stored_bytes": image.size_bytes}
        return [_known_page(image, row | as_now)._asdict() for row in pages]
    return [row._asdict() for row in frames_of(image, count)] if count > 1 else None


def _known_page(image: ListedImage, page: Row) -> ListedImage:
    """A page as the run has it: with its version, it is read again when the file can be asked."""
    return image._replace(
        uri=frame_uri(image.uri, page["offset"] + 1),
        container=image.uri,
        **{name: page[name] for name in ("version", "size_bytes", "offset", "stored_bytes")},
    )


def _with_known(tables: Iterator[pa.Table], known: _Known, stayed: set[str]) -> Iterator[pa.Table]:
    """The rows of a listing as the run has them; `stayed` takes the files that stay one image."""
    as_one, as_pages = pa.array(known.as_one, pa.string()), pa.array(known.as_pages, pa.string())
    for table in tables:
        to_one = pc.and_(are_pages(table), pc.fill_null(pc.is_in(table["container"], as_one), False))
        to_pages = pc.and_(pc.is_null(table["container"]), pc.is_in(table["uri"], as_pages))
        if not pc.any(pc.or_(to_one, to_pages)).as_py():
            yield table
            continue
        rows: list[Row] = []
        for row, is_page, is_whole in zip(table.to_pylist(), to_one.to_pylist(), to_pages.to_pylist(), strict=True):
            file = row["container"]
            if is_whole:
                rows += known.as_pages[row["uri"]]
            elif not is_page or known.as_one[file] != (row["version"], row["stored_bytes"]):
                rows.append(row)
            elif file not in stayed:
                stayed.add(file)
                whole = {"uri": file, "size_bytes": row["stored_bytes"]}
                rows.append(row | whole | dict.fromkeys(("container", "offset", "stored_bytes")))
        yield pa.Table.from_pylist(rows, schema=LISTED_SCHEMA)
