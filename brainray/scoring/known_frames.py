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
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs import archives
from brainray.inputs.archives import split_refusal
from brainray.inputs.frames import frame_uri, nifti
from brainray.inputs.frames.listing import frames_of, frames_read
from brainray.inputs.frames.pages import SUFFIXES
from brainray.inputs.listed_image import LISTED_SCHEMA, ListedImage
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
    wholes: list[ListedImage]  # listed as one image and not by frame, too, of which the run has frames
    unread: pa.Array  # names in the run of other files that could not be read


class _Known(NamedTuple):
    """The files whose rows differ from those that were listed."""

    as_one: dict[str, tuple[str | None, int | None]]  # files that the run has as one image, with version and size
    as_parts: dict[str, list[Row]]  # the rows of files that were listed as one
    as_before: dict[str, Row]  # by its name in the run, the row of an image that could not be read when it was listed


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
    if not any(known) and not len(listed.unread):
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


def _told_image(uri: str, container: str | None, told: Told) -> str:
    return told(uri) if container is None else told(container) + uri[len(container) :]


def _listed(found: Listing, known: pa.Array, told: Told) -> _Listed:
    paged: list[pa.Array] = []
    wholes: list[ListedImage] = []
    unread: list[str] = []
    by_frame: list[pa.Array] = []
    for table in found.batches():
        paged.append(pc.unique(table["container"].filter(_are_pages(table))))
        files = table.filter(pc.is_null(table["container"])) if len(known) else table.slice(0, 0)
        is_known = pc.is_in(_told(files["uri"].combine_chunks(), told), known)
        wholes += [ListedImage(**row) for row in files.filter(is_known).to_pylist()]
        by_frame.append(pc.unique(table["container"].filter(are_parts(table)) if len(known) else files["container"]))
        others = table.filter(_are_unread(table)).select(("uri", "container")).to_pylist()
        unread += [_told_image(row["uri"], row["container"], told) for row in others]
    # Of a file that is listed as one image and by some of its frames, each row is the one that it was asked for.
    is_both = pc.is_in(pa.array([image.uri for image in wholes], pa.string()), _united(by_frame)).to_pylist()
    wholes = [image for image, both in zip(wholes, is_both, strict=True) if not both]
    return _Listed(_united(paged), wholes, pa.array(unread, pa.string()))


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


def _as_before(old: Sequence[str], names: pa.Array) -> dict[str, Row]:
    """The rows that the run has of these images, but for those that could not be read then, too."""
    known: dict[str, Row] = {}
    for batch in _manifest(old, *_PLACE, "version", "refused") if len(names) else ():
        rows = pa.Table.from_batches([batch.filter(pc.is_in(batch["uri"], names))])
        known |= {row["uri"]: row for row in rows.filter(pc.invert(_are_unread(rows))).to_pylist()}
    return known


def _as_parts(old: Sequence[str], listed: Sequence[ListedImage], told: Told, volumes: str) -> dict[str, list[Row]]:
    """The rows of these files, which are listed as one image, where they are to be frames."""
    parts = _parts_in_run(old, pa.array([told(image.uri) for image in listed], pa.string()))
    known = [(image, parts[name]) for image in listed if (name := told(image.uri)) in parts]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="frames") as pool:
        rows = pool.map(lambda item: _rows_of(item[0], item[1], volumes), known)
        return {image.uri: found for (image, _), found in zip(known, rows, strict=True) if found}


def _parts_in_run(old: Sequence[str], files: pa.Array) -> dict[str, list[Row]]:
    """What a run has of each of these files; what is gone where it has no other row of the file."""
    there: dict[str, list[Row]] = {}
    gone: dict[str, list[Row]] = {}
    wholes: set[str] = set()
    for batch in _manifest(old, *_PLACE, *_DESCRIBED, "version", "gone") if len(files) else ():
        is_wanted = pc.and_(are_parts(batch), pc.fill_null(pc.is_in(batch["container"], files), False))
        for row in batch.filter(is_wanted).to_pylist():
            (gone if row["gone"] else there).setdefault(row["container"], []).append(row)
        is_there = pc.and_(pc.is_null(batch["container"]), pc.invert(batch["gone"]))
        wholes.update(batch["uri"].filter(pc.and_(is_there, pc.is_in(batch["uri"], files))).to_pylist())
    for file in gone.keys() - there.keys() - wholes:
        there[file] = gone[file]
    for rows in there.values():
        rows.sort(key=lambda row: row["offset"])
    return there


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
    as_one, as_parts = pa.array(known.as_one, pa.string()), pa.array(known.as_parts, pa.string())
    for table in tables:
        to_one = pc.and_(_are_pages(table), pc.fill_null(pc.is_in(table["container"], as_one), False))
        to_parts = pc.and_(pc.is_null(table["container"]), pc.is_in(table["uri"], as_parts))
        is_unread = _are_unread(table)
        if not pc.any(pc.or_(pc.or_(to_one, to_parts), is_unread)).as_py():
            yield table
            continue
        rows: list[Row] = []
        marks = (column.to_pylist() for column in (to_one, to_parts, is_unread))
        for row, is_page, is_whole, unread in zip(table.to_pylist(), *marks, strict=True):
            file = row["container"]
            if is_whole:
                rows += known.as_parts[row["uri"]]
            elif unread:
                rows.append(_unread_row(row, known.as_before.get(_told_image(row["uri"], file, told))))
            elif not is_page or known.as_one[file] != (row["version"], row["stored_bytes"]):
                rows.append(row)
            elif file not in stayed:
                stayed.add(file)
                whole = {"uri": file, "size_bytes": row["stored_bytes"]}
                rows.append(row | whole | dict.fromkeys(("container", "offset", "stored_bytes")))
        yield pa.Table.from_pylist(rows, schema=LISTED_SCHEMA)


def _unread_row(row: Row, before: Row | None) -> Row:
    """The row of an image that could not be read when it was listed; `before` is the one that the run has of it."""
    if before is None:
        return row | {"version": None}
    if row["container"] is None:
        # One that has changed gets no version: it is scored as one image now, and looked into when it can be read.
        return row | {"refused": None, "version": row["version"] if row["version"] == before["version"] else None}
    return row | {"refused": None} | {name: before[name] for name in _AS_BEFORE}
