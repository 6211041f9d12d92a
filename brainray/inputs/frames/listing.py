"""Asks DICOM and NIfTI files for their frames while they are listed, several at a time and in order.

On a disk every such file is asked, by one read of its first bytes. In a bucket that would be a request for each, so
of DICOM only objects are asked that are larger than a single slice.
"""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import ImageError, StorageError
from brainray.inputs import archives
from brainray.inputs.image_files import IMAGE_SUFFIXES
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unnamed_files import DICOM, image_or_tar_format, read_part
from brainray.storage.base import FileInfo

from . import SUFFIXES, frame_uri, is_dicom, nifti, split, unread_note
from .header import HEAD_BYTES, frames_in
from .nifti.header import HEAD_BYTES as NIFTI_HEAD_BYTES
from .nifti.listing import Slices, rows_of, slices_in

# A slice of 512 x 512 pixels of 16 bits has 512 KiB, and its header up to 100 kB.
_SINGLE_BYTES = 640 << 10
_MOST_FRAMES = 100_000  # of a file; an fMRI of an hour has some 100,000
_LEAST_FRAME_BYTES = 16  # of a compressed frame; a header that promises more frames than fit is damaged
_AT_ONCE = 32
_AHEAD = 256
_NUMBERED = "#[1-9][0-9]{0,8}$"
_PLACE = ["uri", "container", "offset", "size_bytes", "stored_bytes"]

Kind = TypeVar("Kind")


def with_frames(
    files: Iterable[tuple[FileInfo, Kind]], *, volumes: str = nifti.FIRST
) -> Iterator[tuple[FileInfo, Kind, int]]:
    """The same files in order, each with its number of frames, 0 or 1 for a single image; of NIfTI its `Slices`.

    `volumes`: which ones of NIfTI files with several, see `ScoreOptions.volumes`.
    """
    held: deque[tuple[FileInfo, Kind, Future[int] | None]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="frames") as pool:
        for found, kind in files:
            asked = kind is None and _may_have_frames(found)
            held.append((found, kind, pool.submit(_frames, found, volumes) if asked else None))
            while held and (held[0][2] is None or len(held) > _AHEAD):
                yield _answered(held.popleft())
        while held:
            yield _answered(held.popleft())


class FrameRows:
    """The rows of files with frames, counted: for what the user should know of them."""

    def __init__(self, skipped: Counter[str], volumes: str) -> None:
        """`skipped` takes the volumes that are not listed, see `ScoreOptions.volumes`."""
        self._skipped = skipped
        self._volumes = volumes
        self._dicoms = 0  # files or frames
        self._slices = 0

    def of_files(self, files: Iterable[tuple[FileInfo, Kind]]) -> Iterator[tuple[FileInfo, Kind, int]]:
        """As `with_frames`."""
        return with_frames(files, volumes=self._volumes)

    def rows(self, image: ListedImage, frames: int) -> Iterator[ListedImage]:
        """The rows of a file: one for a single image, and for a file that is not read."""
        self._dicoms += max(1, frames) * is_dicom(image.uri)
        if image.refused:
            yield image
            return
        if isinstance(frames, Slices) and frames.refused is None:
            self._slices += frames
            if frames.others:
                self._skipped[nifti.OTHER_VOLUMES] += frames.others
        yield from frames_of(image, frames)

    def of_listed(self, image: ListedImage) -> Iterator[ListedImage]:
        """The rows of an image that a list names: of a NIfTI file those of its slices, where its size is known."""
        size_bytes = image.size_bytes
        if image.container is not None or not nifti.is_nifti(image.uri) or not size_bytes:
            yield image
            return
        found = FileInfo(uri=image.uri, folders=(), size_bytes=size_bytes, version=image.version or "")
        yield from self.rows(image, 0 if image.refused else _frames(found, self._volumes))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one line each."""
        return unread_note(self._dicoms, self._slices)


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
        if is_frame(place["container"], name, *(place[column] for column in _PLACE[2:])):
            files[row] = place["container"]
    return pa.array(files, pa.string())


def frames_of(image: ListedImage, frames: int) -> Iterator[ListedImage]:
    """The rows of a file with several frames; its one row where they cannot be, or there is one."""
    if isinstance(frames, Slices):
        yield from rows_of(image, frames)
        return
    if frames <= 1:
        yield image
        return
    size_bytes = image.size_bytes or 0
    if frames > min(_MOST_FRAMES, size_bytes // _LEAST_FRAME_BYTES):
        error = ImageError("truncated", f"{size_bytes:,} bytes cannot hold the {frames:,} frames of its header")
        if frames > _MOST_FRAMES:
            error = ImageError("too_large", f"{frames:,} frames are more than the {_MOST_FRAMES:,} that are read")
        yield image._replace(refused=image.refused or str(error))
        return
    for number in range(1, frames + 1):
        yield image._replace(
            uri=frame_uri(image.uri, number),
            size_bytes=-(-size_bytes // frames),
            container=image.uri,
            offset=number - 1,
            stored_bytes=size_bytes,
        )


def named_frame(uri: str) -> tuple[str, int | nifti.Place] | None:
    """The file and the number of the frame, or the place of the slice, that a name in a list stands for; else None.

    Of a file without such a suffix the first bytes decide; on a disk only, where that costs no request.
    """
    in_volume = nifti.split(uri)
    if in_volume is not None:
        return in_volume
    file, _, number = uri.rpartition("#")
    if split(uri) is not None or not storage.is_local(uri) or split(f"{file}{SUFFIXES[0]}#{number}") is None:
        return split(uri)
    try:
        found = storage.stat(file)
        is_file = found is not None and not found.special and image_or_tar_format(found) == DICOM
    except StorageError:
        is_file = False
    return (file, int(number)) if is_file else None


def listed_frame(listed: ListedImage, file: str, frame: int | nifti.Place) -> ListedImage:
    """The frame or slice of a file that a list names; the file may have fewer.

    Of an object, the list tells the size.
    """
    try:
        found = storage.stat(file)
    except StorageError:
        return listed  # the read will report the reason
    size_bytes, version = (found.size_bytes, found.version) if found else (listed.size_bytes, listed.version)
    if size_bytes is None:
        return listed._replace(refused=f"unsupported: a frame needs the size of its file; add it to the list: {file}")
    place = frame if isinstance(frame, int) else frame.number + 1
    volume = 0 if isinstance(frame, int) else frame.volume
    return listed._replace(
        size_bytes=-(-size_bytes // place),  # at most, for there are as many frames
        version=version,
        container=file,
        offset=place - 1 + volume * nifti.MOST_SLICES,
        stored_bytes=size_bytes,
    )


def _answered(entry: tuple[FileInfo, Kind, Future[int] | None]) -> tuple[FileInfo, Kind, int]:
    found, kind, asked = entry
    return found, kind, 0 if asked is None else asked.result()


def _may_have_frames(found: FileInfo) -> bool:
    """Whether a file is to be asked, by its name and size."""
    if found.archived is not None or found.special:
        return False
    if nifti.is_nifti(found.uri):
        return found.size_bytes > 0
    suffix = os.path.splitext(storage.name_of(found.uri))[1].lower()
    may_be = suffix in SUFFIXES or suffix not in IMAGE_SUFFIXES  # names without a suffix tell no format
    return may_be and (storage.is_local(found.uri) or found.size_bytes >= _SINGLE_BYTES)


def _frames(found: FileInfo, volumes: str) -> int:
    length = NIFTI_HEAD_BYTES if nifti.is_nifti(found.uri) else HEAD_BYTES
    try:
        head = read_part(found.uri, 0, min(found.size_bytes, length)) or b""
        slices = slices_in(found.uri, head, found.size_bytes, volumes) if head else None
        return frames_in(head) if slices is None else slices
    except StorageError:  # the read for its pixels will report the reason
        return 0
