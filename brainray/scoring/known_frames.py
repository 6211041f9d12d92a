"""A file is in a run as one image or as its frames, slices or pages, never as both: else one would be in it twice.

How many a file has is not always known when it is listed: it may be out of reach for a moment, and in a bucket a sample
of small files is asked, which another day is another sample. So what a run has of a file stays its rows, until the
file itself says that it has others. A file that the run does not know, and that could not be read, is a row that says
so, without a version: when it can be read it is another one.

Earlier versions scored the first page of a TIFF or GIF, under the name of the file; a file that has not changed since
stays so.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice, pairwise, repeat
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs import archives
from brainray.inputs.archives import split_refusal
from brainray.inputs.frames import frame_uri, nifti
from brainray.inputs.frames.listing import frames_of, frames_read
from brainray.inputs.frames.pages import SUFFIXES
from brainray.inputs.listed_image import CHUNK_ROWS, LISTED_SCHEMA, ListedImage, UriIndex, with_values
from brainray.inputs.listing import Listing
from brainray.inputs.unread import UNREAD
from brainray.storage.base import FileInfo


def _ends_with(suffixes: Sequence[str]) -> str:
    return f"(?i)({'|'.join(suffix.replace('.', '[.]') for suffix in suffixes)})$"


# Regular expressions, over names and pseudonyms: files with pages and volumes, archives, slices.
_PAGED, _VOLUME, ARCHIVE = map(_ends_with, (SUFFIXES, nifti.SUFFIXES, archives.SUFFIXES))
_SLICE = "#(t=[0-9]+,)?[xyz]=[0-9]+$"
_UNREAD = f"^[a-z_]+: {UNREAD}"
_PLACE = ("uri", "size_bytes", "container", "offset", "stored_bytes")
_AS_BEFORE = ("size_bytes", "offset", "stored_bytes", "version")
_DESCRIBED = ("label", "group", "kept")
_ONE_IMAGE = (
    "{:,} files of several pages stay one image each, as the run has them; --rescore gives each page a row of its own"
)
_AT_ONCE = 16  # files that are asked in parallel
_ROWS_AT_ONCE = 16_384  # that are in Python
# SQL over rows of a listing, as `are_parts`.
IS_PART = f"""(container IS NOT NULL AND NOT regexp_matches(container, '{ARCHIVE}') AND (
    (uri = container || '#' || ("offset" + 1) AND ("offset" = 0 OR size_bytes IS DISTINCT FROM stored_bytes))
    OR (regexp_matches(container, '{_VOLUME}') AND regexp_matches(uri, '{_SLICE}'))))"""
# Rows of files that could not be read when they were listed, and that the run did not know: they had no prediction.
IS_UNREAD = f"(version IS NULL AND regexp_matches(refused, '{_UNREAD}'))"

Row = dict[str, Any]
Told = Callable[[str], str]  # the name that the run has for a file


class _Listed(NamedTuple):
    """What may differ between a listing and a run."""

    paged: pa.Array  # files that are listed by page
    wholes: pa.Table  # rows of files listed as one image and not by frame, too, of which the run has frames
    unread: pa.Array  # names in the run of other files that could not be read


class _Known(NamedTuple):
    """The files whose rows differ from those that were listed."""

    as_one: dict[str, tuple[str | None, int | None]]  # files that the run has as one image, with version and size
    as_parts: "_Parts"  # the rows of files that were listed as one
    as_before: pa.Table  # the rows in the run of images that could not be read when they were listed


class _Parts:
    """Rows of many files, by file. They are held as Arrow: rows in Python take ten times as much memory."""

    def __init__(self, table: pa.Table) -> None:
        """Rows of a file follow one another."""
        self._table = table.combine_chunks()
        files = pc.coalesce(table["container"], table["uri"]).combine_chunks()  # a refused file is a row of its own
        is_first = np.ones(len(files), bool)
        is_first[1:] = pc.not_equal(files[1:], files[:-1]).to_numpy(zero_copy_only=False)
        self._starts = np.flatnonzero(is_first)
        self._lengths = np.diff(np.append(self._starts, len(files)))
        self.files = files.take(pa.array(self._starts))
        self._at = UriIndex(self.files)

    def pieces(self, files: pa.Array) -> Iterator[tuple[list[str], list[list[Row]]]]:
        """Those of the files that have rows, and the rows of each, as many at a time as have `_ROWS_AT_ONCE`."""
        places = self._at.find(files).drop_null().to_numpy()
        cuts = np.flatnonzero(np.diff(np.cumsum(self._lengths[places]) // _ROWS_AT_ONCE)) + 1
        for piece in np.split(places, cuts):
            starts, lengths = self._starts[piece], self._lengths[piece]
            rows = iter(self._table.take(pa.array(_ranges(starts, lengths))).to_pylist())
            yield self.files.take(pa.array(piece)).to_pylist(), [list(islice(rows, n)) for n in lengths.tolist()]

    def in_place(self, table: pa.Table, is_whole: NDArray[np.bool_]) -> Iterator[pa.Table]:
        """A listing with the rows of a file in place of each of its rows that stand for a whole file."""
        starts, lengths = np.arange(len(table)), np.ones(len(table), np.int64)
        wholes = np.flatnonzero(is_whole)
        places = self._at.find(table["uri"].take(pa.array(wholes)).combine_chunks()).to_numpy()
        starts[wholes], lengths[wholes] = self._starts[places], self._lengths[places]
        cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // CHUNK_ROWS)) + 1  # files may have many frames
        for first, end in pairwise([0, *cuts.tolist(), len(table)]):
            rows, whole, length = table.slice(first, end - first), is_whole[first:end], lengths[first:end]
            parts = self._table.take(pa.array(_ranges(starts[first:end][whole], length[whole])))
            at = np.where(whole, len(rows) + np.cumsum(length * whole) - length, np.arange(len(rows)))
            yield pa.concat_tables([rows, parts]).combine_chunks().take(pa.array(_ranges(at, length)))


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers from each start on, as many as its length."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def as_known(
    old: Sequence[str], found: Listing, *, told: Told = str, wholes_stay: bool = True, volumes: str = nifti.FIRST
) -> Listing:
    """The listing, in which files have the rows that the manifest files `old` have of them: one, or one a frame.

    Without `wholes_stay` each file of several pages has its pages. Asks files again that are listed as one image and
    had frames (`volumes` as when they were listed), and rewrites the file of the listing where that makes a difference.
    """
    listed = _listed(found, _files_of_parts(old), told)
    known = _Known(
        _as_one_image(old, listed.paged, told) if wholes_stay else {},
        _as_parts(old, listed.wholes, told, volumes),
        _as_before(old, listed.unread),
    )
    if not (known.as_one or len(known.as_parts.files) or len(listed.unread)):
        return found
    path = f"{found.path}.known"
    images = size_bytes = labelled = 0
    stayed: set[str] = set()
    with pq.ParquetWriter(path, LISTED_SCHEMA, compression="zstd") as writer:
        for table in _with_known(found.batches(), known, stayed, told):
            writer.write_table(table)
            images += len(table)
            size_bytes += pc.sum(table["size_bytes"]).as_py() or 0
            labelled += len(table) - table["label"].null_count
    os.replace(path, found.path)
    notes = (*found.notes, *([_ONE_IMAGE.format(len(stayed))] if stayed else []))
    return replace(found, images=images, size_bytes=size_bytes, labelled=labelled, notes=notes)


def are_parts(table: pa.Table | pa.RecordBatch) -> pa.ChunkedArray:
    """[N] whether a row of a listing is a frame, slice or page of a file, and no member of an archive (`is_frame`)."""
    container, offset = table["container"], table["offset"]
    if container.null_count == len(table):  # as in most archives, whose names need not be looked at
        return pc.is_valid(container)
    number = pc.cast(pc.add(offset, 1), pa.string())
    is_numbered = pc.equal(table["uri"], pc.binary_join_element_wise(container, number, "#"))
    is_share = pc.or_kleene(pc.equal(offset, 0), _differ(table["size_bytes"], table["stored_bytes"]))
    is_slice = pc.and_kleene(
        pc.match_substring_regex(container, _VOLUME), pc.match_substring_regex(table["uri"], _SLICE)
    )
    is_part = pc.or_kleene(pc.and_kleene(is_numbered, is_share), is_slice)
    return pc.fill_null(pc.and_kleene(is_part, pc.invert(pc.match_substring_regex(container, ARCHIVE))), False)


def _differ(one: pa.Array, other: pa.Array) -> pa.Array:
    return pc.coalesce(pc.not_equal(one, other), pc.xor(pc.is_null(one), pc.is_null(other)))


def _are_pages(table: pa.Table | pa.RecordBatch) -> pa.ChunkedArray:
    is_paged = pc.fill_null(pc.match_substring_regex(table["container"], _PAGED), False)
    return pc.and_(are_parts(table), is_paged) if pc.any(is_paged).as_py() else is_paged


def _are_unread(table: pa.Table) -> pa.ChunkedArray:
    """[N] whether a row is that of a file that could not be read when it was listed."""
    refused = table["refused"]
    if refused.null_count == len(table):
        return pc.is_valid(refused)
    return pc.fill_null(pc.match_substring_regex(refused, _UNREAD), False)


def _manifest(old: Sequence[str], *columns: str) -> Iterator[pa.RecordBatch]:
    for path in old:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(columns=list(columns))


def _files_of_parts(old: Sequence[str]) -> pa.Array:
    """The files of which a run has frames, slices or pages."""
    found = [pc.unique(batch["container"].filter(are_parts(batch))) for batch in _manifest(old, *_PLACE)]
    return _united(found)


def _united(files: Sequence[pa.Array]) -> pa.Array:
    return pc.unique(pa.concat_arrays([*files, pa.array([], pa.string())]))


def _told(uris: pa.Array, told: Told) -> pa.Array:
    return uris if told is str else pa.array(map(told, uris.to_pylist()), pa.string())


def _names_in_run(rows: pa.Table, told: Told) -> pa.Array:
    """The names that the run has for the images of a listing, if it has them."""
    if told is str:
        return rows["uri"].combine_chunks()
    places = zip(rows["uri"].to_pylist(), rows["container"].to_pylist(), strict=True)
    return pa.array([told(uri) if of is None else told(of) + uri[len(of) :] for uri, of in places], pa.string())


def _listed(found: Listing, known: pa.Array, told: Told) -> _Listed:
    paged: list[pa.Array] = []
    wholes = [LISTED_SCHEMA.empty_table()]
    unread: list[pa.Array] = []
    by_frame: list[pa.Array] = []
    for table in found.batches():
        paged.append(pc.unique(table["container"].filter(_are_pages(table))))
        unread.append(_names_in_run(table.filter(_are_unread(table)), told))
        if len(known):
            files = table.filter(pc.is_null(table["container"]))
            wholes.append(files.filter(pc.is_in(_told(files["uri"].combine_chunks(), told), known)))
            by_frame.append(pc.unique(table["container"].filter(are_parts(table))))
    # Of a file that is listed as one image and by some of its frames, each row is the one that it was asked for.
    whole = pa.concat_tables(wholes)
    whole = whole.filter(pc.invert(pc.is_in(whole["uri"], _united(by_frame))))
    return _Listed(_united(paged), whole, pa.concat_arrays([*unread, pa.array([], pa.string())]))


def _as_one_image(old: Sequence[str], files: pa.Array, told: Told) -> dict[str, tuple[str | None, int | None]]:
    """Version and size of those of the files that the run has as one image."""
    names = _told(files, told)
    known: dict[str, tuple[str | None, int | None]] = {}
    for batch in _manifest(old, "uri", "version", "size_bytes", "container", "gone") if len(files) else ():
        is_there = pc.and_(pc.is_null(batch["container"]), pc.invert(batch["gone"]))
        rows = batch.filter(pc.and_(is_there, pc.is_in(batch["uri"], names)))
        places = pc.index_in(rows["uri"], names)
        versions, sizes = rows["version"].to_pylist(), rows["size_bytes"].to_pylist()
        known |= zip(files.take(places).to_pylist(), zip(versions, sizes, strict=True), strict=True)
    return known


def _as_before(old: Sequence[str], names: pa.Array) -> pa.Table:
    """The rows that the run has of these images, but for those that could not be read then, too."""
    columns = (*_PLACE, "version")
    known = [pa.schema([LISTED_SCHEMA.field(name) for name in columns]).empty_table()]
    for batch in _manifest(old, *columns, "refused") if len(names) else ():
        rows = pa.Table.from_batches([batch.filter(pc.is_in(batch["uri"], names))])
        known.append(rows.filter(pc.invert(_are_unread(rows))).select(columns))
    return pa.concat_tables(known)


def _as_parts(old: Sequence[str], listed: pa.Table, told: Told, volumes: str) -> _Parts:
    """The rows of these files, which are listed as one image, where they are to be frames."""
    if not len(listed):  # as in most inputs: no thread is started
        return _Parts(listed)
    names = _told(listed["uri"].combine_chunks(), told)
    at, parts = UriIndex(names), _parts_in_run(old, names)
    tables = [LISTED_SCHEMA.empty_table()]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="frames") as pool:
        for files, known in parts.pieces(names):
            places = at.find(pa.array(files, pa.string()))
            images = [ListedImage(**row) for row in listed.take(places).to_pylist()]
            found = pool.map(_rows_of, images, known, repeat(volumes))
            rows = [row for of_file in found for row in of_file or ()]
            tables.append(pa.Table.from_pylist(rows, schema=LISTED_SCHEMA))
    return _Parts(pa.concat_tables(tables))


def _parts_in_run(old: Sequence[str], files: pa.Array) -> _Parts:
    """What a run has of each of these files; what is gone where it has no other row of the file."""
    columns = (*_PLACE, *_DESCRIBED, "version")
    found = [pa.schema([*(LISTED_SCHEMA.field(name) for name in columns), ("gone", pa.bool_())]).empty_table()]
    wholes: list[pa.Array] = []
    for batch in _manifest(old, *columns, "gone") if len(files) else ():
        is_wanted = pc.and_(are_parts(batch), pc.fill_null(pc.is_in(batch["container"], files), False))
        found.append(pa.Table.from_batches([batch.filter(is_wanted)]).cast(found[0].schema))
        is_there = pc.and_(pc.is_null(batch["container"]), pc.invert(batch["gone"]))
        wholes.append(batch["uri"].filter(pc.and_(is_there, pc.is_in(batch["uri"], files))))
    parts = pa.concat_tables(found)
    there = parts.filter(pc.invert(parts["gone"]))
    gone = parts.filter(parts["gone"])
    of_others = _united([*wholes, pc.unique(there["container"].combine_chunks())])
    gone = gone.filter(pc.invert(pc.is_in(gone["container"], of_others)))
    return _Parts(pa.concat_tables([there, gone]).sort_by([("container", "ascending"), ("offset", "ascending")]))


def _rows_of(image: ListedImage, parts: Sequence[Row], volumes: str) -> list[Row] | None:
    """The frames of a file that is listed as one image; None where it is one.

    Asks the file, but for one that could just not be read, and for a known object.
    """
    refusal = None if image.refused is None else split_refusal(image.refused)
    reason = refusal.reason if refusal is not None and refusal.detail.startswith(UNREAD) else None
    if reason is None and not _is_known_object(image, parts):
        file = FileInfo(uri=image.uri, folders=(), size_bytes=image.size_bytes or 0, version=image.version or "")
        try:
            count = frames_read(file, volumes)
        except StorageError as exc:
            reason = exc.reason
        else:
            return [row._asdict() for row in frames_of(image, count)] if count > 1 else None
    elif reason is not None:
        image = image._replace(refused=None)
    is_as_listed = reason not in (None, "read_failed")  # else it is read again when it can be asked
    as_now = {"version": image.version, "stored_bytes": image.size_bytes} if is_as_listed else {}
    return [_known_part(image, row | as_now)._asdict() for row in parts]


def _is_known_object(image: ListedImage, parts: Sequence[Row]) -> bool:
    """Whether an object, of which a sample is asked, is as large and of the same version as that of these frames."""
    share = -(-(image.size_bytes or 0) // len(parts))
    of_image = [(place, share, image.size_bytes, image.version) for place in range(len(parts))]
    of_run = [tuple(row[name] for name in ("offset", "size_bytes", "stored_bytes", "version")) for row in parts]
    return of_run == of_image and len(parts) > 1 and not storage.is_local(image.uri)


def _known_part(image: ListedImage, part: Row) -> ListedImage:
    """A frame as the run has it, with what describes it there, as far as it is not described now."""
    described = {name: part[name] if getattr(image, name) is None else getattr(image, name) for name in _DESCRIBED}
    return image._replace(
        uri=frame_uri(image.uri, part["uri"][len(part["container"]) + 1 :]),
        container=image.uri,
        **{name: part[name] for name in _AS_BEFORE},
        **described,
    )


def _with_known(tables: Iterator[pa.Table], known: _Known, stayed: set[str], told: Told) -> Iterator[pa.Table]:
    """The rows of a listing as the run has them; `stayed` takes the files that stay one image."""
    as_one, as_parts = pa.array(known.as_one, pa.string()), known.as_parts.files
    before_at = UriIndex(known.as_before["uri"].combine_chunks())
    for table in tables:
        to_one = pc.and_(_are_pages(table), pc.fill_null(pc.is_in(table["container"], as_one), False))
        to_parts = pc.and_(pc.is_null(table["container"]), pc.is_in(table["uri"], as_parts))
        is_unread = pc.and_(_are_unread(table), pc.invert(to_parts))
        to_one = pc.and_(to_one, pc.invert(is_unread))
        if pc.any(is_unread).as_py():
            table = _with_before(table, is_unread.combine_chunks(), known.as_before, before_at, told)
        if pc.any(to_one).as_py():
            yield from known.as_parts.in_place(*_with_wholes(table, to_one, to_parts, known.as_one, stayed))
        else:
            yield from known.as_parts.in_place(table, to_parts.to_numpy())


def _with_wholes(
    table: pa.Table, to_one: pa.ChunkedArray, to_parts: pa.ChunkedArray, as_one: dict[str, Any], stayed: set[str]
) -> tuple[pa.Table, NDArray[np.bool_]]:
    """A listing in which pages are one image where the run has that, and which rows of it are still to be parts."""
    rows: list[Row] = []
    is_whole: list[bool] = []
    for row, is_page, whole in zip(table.to_pylist(), to_one.to_pylist(), to_parts.to_pylist(), strict=True):
        file = row["container"]
        if is_page and as_one[file] == (row["version"], row["stored_bytes"]):
            if file in stayed:
                continue
            stayed.add(file)
            as_file = {"uri": file, "size_bytes": row["stored_bytes"]}
            row |= as_file | dict.fromkeys(("container", "offset", "stored_bytes"))
        rows.append(row)
        is_whole.append(whole)
    return pa.Table.from_pylist(rows, schema=LISTED_SCHEMA), np.array(is_whole, bool)


def _with_before(
    table: pa.Table, is_unread: pa.BooleanArray, known: pa.Table, known_at: UriIndex, told: Told
) -> pa.Table:
    """A listing in which images that could not be read when it was made are as the run has them."""
    rows = table.filter(is_unread).combine_chunks()
    places = known_at.find(_names_in_run(rows, told))
    before, is_known = known.take(places), pc.is_valid(places)
    # A file that has changed gets no version: it is scored as one image now, and looked into when it can be read.
    is_same = pc.fill_null(pc.and_(is_known, pc.equal(rows["version"], before["version"])), False)
    values = {
        "refused": pc.if_else(is_known, None, rows["refused"]),
        "version": pc.if_else(is_same, rows["version"], None),
    }
    # Of frames and members that cannot be read nothing is known but their names; a file may be named like a frame.
    is_part = pc.and_(is_known, pc.is_valid(rows["container"]))
    for name in _AS_BEFORE:
        values[name] = pc.if_else(is_part, before[name], values.get(name, rows[name]))
    is_file = pc.and_(is_part, pc.is_null(before["container"]))
    values["container"] = pc.if_else(is_file, None, rows["container"])
    for name, found in values.items():
        whole = pc.replace_with_mask(table[name].combine_chunks(), is_unread, found.combine_chunks())
        table = with_values(table, name, whole)
    return table
