"""Asks DICOM, NIfTI, TIFF and GIF files for their frames while they are listed, several at a time and in order.

On a disk every such file is asked, most by one read of their first bytes. In a bucket that would be a request for each,
so of DICOM, objects are asked that are larger than a single slice, and of smaller ones and of TIFF and GIF a sample.
Files whose names tell no format were looked into for that, and are not read again.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import ImageError, Outage, StorageError
from brainray.inputs import archives
from brainray.inputs.image_suffixes import without_number
from brainray.inputs.listed_image import ListedImage, tables_in
from brainray.inputs.unnamed_files import FileFormats, read_span
from brainray.inputs.unread import error_of_unread
from brainray.storage.base import FileInfo

from . import frame_uri, is_dicom, nifti, split_member_frame, unread_note
from .header import HEAD_BYTES
from .nifti.header import HEAD_BYTES as NIFTI_HEAD_BYTES
from .nifti.header import Header
from .nifti.listing import Slices, chosen_slices, rows_of, slices_in
from .nifti.stream import MOST_RATIO
from .packed import MOST_BYTES, frames_of_head
from .pages import MOST_PAGES, is_paged, pages_in
from .sampling import SINGLE_BYTES, AskedSample
from .sources import Frames, is_unread

_MOST_FRAMES = 100_000  # of a file; an fMRI of an hour has some 100,000
_LEAST_FRAME_BYTES = 16  # of a compressed frame; a header that promises more frames than fit is damaged
_AT_ONCE = 32
_AHEAD = 256
_WINDOW = 32  # files that were asked last, of which a share decides about an outage, as of reads of images
_NUMBERED = "#(frame=|(t=[0-9]+,)?[xyz]=)?[0-9]{1,9}$"  # whose names may be those of frames and slices
_FIRST = "#(frame=)?0*1$"
_PLACE = ["uri", "container", "offset", "size_bytes", "stored_bytes"]

Kind = TypeVar("Kind")


class _Entry(NamedTuple, Generic[Kind]):
    """A file whose frames are asked, or known by those of another."""

    file: FileInfo
    kind: Kind
    answer: Future[int] | None = None
    is_own: bool = True


class _Listed(NamedTuple, Generic[Kind]):
    """A row of a list with its image, and the answer of a NIfTI file."""

    row: Kind
    image: ListedImage
    answer: Future[int] | None


Entry = TypeVar("Entry", _Entry[Any], _Listed[Any])


def with_frames(
    files: Iterable[tuple[FileInfo, Kind]], formats: FileFormats | None = None, *, volumes: str = nifti.FIRST
) -> Iterator[tuple[FileInfo, Kind, int]]:
    """The same files in order, each with its number of frames, 0 or 1 for a single image; of NIfTI its `Slices`.

    `formats` has looked into the files whose names tell no format. `volumes`: which ones of NIfTI files with several,
    see `ScoreOptions.volumes`.
    """
    sample = AskedSample()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="frames") as pool:
        entries = (
            _asked(found, kind, sample, pool, volumes) if kind is None else _Entry(found, kind) for found, kind in files
        )
        for entry in _ahead(entries):
            yield _answered(entry, formats)


def _ahead(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same entries in order; while the first one waits for its answer, others are asked."""
    held: deque[Entry] = deque()
    for entry in entries:
        held.append(entry)
        while held and (held[0].answer is None or len(held) > _AHEAD):
            yield held.popleft()
    yield from held


def _asked(found: FileInfo, kind: Kind, sample: AskedSample, pool: ThreadPoolExecutor, volumes: str) -> _Entry[Kind]:
    if found.archived is not None or found.special:
        return _Entry(found, kind)
    if nifti.is_nifti(found.uri) and found.size_bytes > 0:
        return _Entry(found, kind, pool.submit(frames_in_file, found, volumes))
    has_pages = is_paged(found.uri) and found.size_bytes > 0
    if not is_dicom(found.uri) and not has_pages:
        return _Entry(found, kind)
    is_sampled = not storage.is_local(found.uri) and (has_pages or found.size_bytes < SINGLE_BYTES)
    known = sample.stands_for(found.uri, found.size_bytes) if is_sampled else None
    if known is not None:
        return _Entry(found, kind, known, is_own=False)
    answer = pool.submit(frames_in_file, found, volumes)
    if is_sampled:
        sample.add(found.uri, found.size_bytes, answer)
    return _Entry(found, kind, answer)


class FrameRows:
    """The rows of files with frames, counted: for what the user should know of them."""

    def __init__(self, skipped: Counter[str], volumes: str, formats: FileFormats, *, most_unread: float = 1.0) -> None:
        """`skipped` takes the volumes that are not listed (`ScoreOptions.volumes`); `formats` is of `with_frames`.

        A greater share than `most_unread` of the files that were asked last is an outage of the storage.
        """
        self._most_unread = most_unread
        self._unread: deque[bool] = deque(maxlen=_WINDOW)
        self._skipped = skipped
        self._volumes = volumes
        self._formats = formats
        self._dicoms = 0  # files or frames
        self._slices = 0

    def of_files(self, files: Iterable[tuple[FileInfo, Kind]]) -> Iterator[tuple[FileInfo, Kind, int]]:
        """As `with_frames`."""
        return with_frames(files, self._formats, volumes=self._volumes)

    def rows(self, image: ListedImage, frames: int) -> Iterator[ListedImage]:
        """The rows of a file: one for a single image, and for a file that is not read.

        Raises `Outage` where most files that were asked last could not be read.
        """
        self._dicoms += max(1, frames) * is_dicom(image.uri)
        if image.refused:
            yield image
            return
        unread = frames.unread if isinstance(frames, Frames) else None
        self._unread.append(unread is not None)
        if unread is not None:
            self._check_for_outage(unread)
            yield image._replace(refused=str(unread))
            return
        if isinstance(frames, Slices):
            self._count_slices(frames)
        yield from frames_of(image, frames)

    def _check_for_outage(self, last: ImageError) -> None:
        failed = sum(self._unread)
        if len(self._unread) == _WINDOW and failed > self._most_unread * _WINDOW:
            raise Outage(
                f"{failed} of the last {_WINDOW} files that were listed could not be read (the last: {last.detail}); "
                "is the input still mounted and readable? With --max-unread 100% such files get error rows"
            )

    def of_member(self, member: ListedImage, frames: int, volume: Header | None) -> int:
        """The frames of a member of an archive, of NIfTI its `Slices`; counts what the user should know."""
        self._dicoms += max(1, frames) * is_dicom(member.uri)
        if volume is None or member.refused:
            return frames
        # Indexes of earlier versions do not tell whether a file is packed.
        packed = volume.packed if volume.packed is not None else without_number(member.uri).lower().endswith(".gz")
        slices = chosen_slices(volume, member.size_bytes or 0, self._volumes, packed=packed)
        self._count_slices(slices)
        return slices

    def _count_slices(self, slices: Slices) -> None:
        if slices.refused is not None:
            return
        self._slices += slices
        if slices.others:
            self._skipped[nifti.OTHER_VOLUMES] += slices.others

    def of_listed(
        self, rows: Iterable[tuple[Kind, ListedImage]], is_read: Callable[[Kind, ListedImage], bool]
    ) -> Iterator[tuple[Kind, ListedImage, int]]:
        """The rows of a list in order with their images, each with the frames of its file.

        Of NIfTI files whose size is known these are their `Slices`, of TIFF and GIF on a disk their pages. All others
        have 0, also those that are not read.
        """
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="frames") as pool:
            entries = (
                _Listed(
                    row, image, self._asked(image, pool) if _may_have_frames(image) and is_read(row, image) else None
                )
                for row, image in rows
            )
            for row, image, answer in _ahead(entries):
                yield row, image, 0 if answer is None else answer.result()

    def _asked(self, image: ListedImage, pool: ThreadPoolExecutor) -> Future[int]:
        found = FileInfo(uri=image.uri, folders=(), size_bytes=image.size_bytes or 0, version=image.version or "")
        return pool.submit(frames_in_file, found, self._volumes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one line each."""
        return unread_note(self._dicoms, self._slices)


def _may_have_frames(image: ListedImage) -> bool:
    """Whether the file of a row is asked: in a bucket, pages would take a request or two for each file."""
    is_asked = nifti.is_nifti(image.uri) or (is_paged(image.uri) and storage.is_local(image.uri))
    return bool(is_asked and image.size_bytes and image.container is None and not image.refused)


def is_frame(container: str, name: str, offset: int, size_bytes: int | None, stored_bytes: int | None) -> bool:
    """Whether an image in a container is a frame of a DICOM file, or a slice of NIfTI; else a member of an archive.

    A frame has its number for a name, one more than its offset, a slice its place. Both containers may be without a
    suffix: a member of a tar may be named 513 and begin at byte 512, and is as large as what is stored of it; a frame
    is a part of its file.
    """
    is_slice = nifti.place_of(name) is not None
    if archives.kind_of(container) is not None or not (is_slice or name == str(offset + 1)):
        return False
    return offset == 0 or is_dicom(container) or nifti.is_nifti(container) or size_bytes != stored_bytes


def files_of_frames(images: pa.Table) -> pa.Array:
    """The URI of the file of each image of a listing that is a frame; null for any other image."""
    if "container" not in images.column_names or images["container"].null_count == len(images):
        return pa.nulls(len(images), pa.string())
    may_be = pc.and_(pc.is_valid(images["container"]), pc.match_substring_regex(images["uri"], _NUMBERED))
    rows = np.flatnonzero(may_be.to_numpy(zero_copy_only=False))
    files = np.full(len(images), None, object)
    for row, place in zip(rows.tolist(), images.select(_PLACE).take(pa.array(rows)).to_pylist(), strict=True):
        name = place["uri"][len(place["container"]) + 1 :]
        member = split_member_frame(name) or (nifti.split(name) if archives.kind_of(place["container"]) else None)
        if member is not None:
            files[row] = archives.member_uri(place["container"], member[0])
        elif is_frame(place["container"], name, *(place[column] for column in _PLACE[2:])):
            files[row] = place["container"]
    return pa.array(files, pa.string())


def listed_with_frames(path: str, *, most: int = 5) -> list[str]:
    """At most `most` files of which the local file of a listing has both the file as one image and its first frame.

    Where a file is one image, that is the same picture; of further frames it has none, or is itself refused.
    """
    firsts = (table.filter(pc.match_substring_regex(table["uri"], _FIRST)) for table in tables_in(path))
    files = [pc.unique(files_of_frames(table)).drop_null() for table in firsts]
    framed = pc.unique(pa.concat_arrays([*files, pa.array([], pa.string())]))
    if not len(framed):
        return []
    both = (table["uri"].filter(pc.is_in(table["uri"], framed)).to_pylist() for table in tables_in(path))
    return list(islice(chain.from_iterable(both), most))


def frames_of(image: ListedImage, frames: int) -> Iterator[ListedImage]:
    """The rows of a file with several frames; its one row where they cannot be, or there is one."""
    if isinstance(frames, Slices):
        yield from rows_of(image, frames)
        return
    if frames <= 1:
        yield image
        return
    size_bytes = image.size_bytes or 0
    refused = refusal_of_pages(frames) if is_paged(image.uri) else refusal_of_frames(size_bytes, frames)
    if refused is not None:
        yield image._replace(refused=image.refused or refused)
        return
    share = -(-size_bytes // frames)
    for number in range(1, frames + 1):
        yield image._replace(
            uri=frame_uri(image.uri, number),
            size_bytes=unpacked_share(frames, size_bytes) or share,
            container=image.uri,
            offset=number - 1,
            stored_bytes=size_bytes,
        )


def refusal_of_pages(pages: int) -> str | None:
    """Why a file of so many pages, which are there, is not read; None where it is."""
    if pages <= MOST_PAGES:
        return None
    return str(ImageError("too_large", f"it has more than the {MOST_PAGES:,} pages that are read"))


def refusal_of_frames(size_bytes: int, frames: int) -> str | None:
    """Why a file is not read frame by frame; None where it is."""
    if frames > _MOST_FRAMES:
        return str(ImageError("too_large", f"{frames:,} frames are more than the {_MOST_FRAMES:,} that are read"))
    if isinstance(frames, Frames) and frames.packed:
        return _refusal_of_packed(size_bytes, frames)
    if frames > size_bytes // _LEAST_FRAME_BYTES:
        words = f"{size_bytes:,} bytes cannot hold the {frames:,} frames of its header"
        return str(ImageError("truncated", words))
    return None


def _refusal_of_packed(size_bytes: int, frames: Frames) -> str | None:
    """Why a file is not unpacked for its frames, by what its header promises."""
    promised = frames * (frames.each_bytes or _LEAST_FRAME_BYTES)
    if promised > size_bytes * MOST_RATIO:
        words = f"{size_bytes:,} bytes cannot hold the {int(frames):,} frames of its header"
        return str(ImageError("truncated", words))
    if promised > MOST_BYTES:
        words = f"its {int(frames):,} frames unpack to more than the {MOST_BYTES:,} bytes that are allowed"
        return str(ImageError("too_large", words))
    return None


def unpacked_share(frames: int, size_bytes: int) -> int | None:
    """The bytes of a frame in memory, of a packed file whose header tells them; not those of its file (`is_frame`)."""
    each = frames.each_bytes if isinstance(frames, Frames) else None
    return None if each is None else each + (each == size_bytes)


def _answered(entry: _Entry[Kind], formats: FileFormats | None) -> tuple[FileInfo, Kind, int]:
    found, kind, answer, is_own = entry
    if answer is None:
        return found, kind, formats.frames(found.uri) if formats and kind is None else 0
    frames = answer.result()
    is_answer = is_own or (frames <= 1 and not is_unread(frames))
    return found, kind, frames if is_answer else frames_in_file(found)


def frames_in_file(found: FileInfo, volumes: str = nifti.FIRST) -> int:
    """As `frames_read`; 0 where the file cannot be read, with the reason (`Frames`) but for one that is gone."""
    try:
        return frames_read(found, volumes)
    except StorageError as exc:
        unread = error_of_unread(exc)
        return 0 if unread is None else Frames(0, unread=unread)


def frames_read(found: FileInfo, volumes: str = nifti.FIRST) -> int:
    """The number of frames or pages by the first bytes of a file, of NIfTI its `Slices`.

    Raises `StorageError` where it cannot be read.
    """
    if not found.size_bytes:
        return 1
    if is_paged(found.uri):
        return pages_in(lambda start, length: read_span(found.uri, start, length), found.size_bytes)
    length = NIFTI_HEAD_BYTES if nifti.is_nifti(found.uri) else HEAD_BYTES
    head = read_span(found.uri, 0, min(found.size_bytes, length))
    slices = slices_in(found.uri, head, found.size_bytes, volumes) if head else None
    return frames_of_head(head) if slices is None else slices
