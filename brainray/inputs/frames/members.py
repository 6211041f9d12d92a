"""Frames, pages and slices of files that are members of an archive: their rows, and bytes of frames.

Their rows have place and stored size of the member, and their own share of its size.
"""

from collections.abc import Callable, Iterator, Sequence

from brainray.errors import ImageError
from brainray.inputs.image_suffixes import without_number
from brainray.inputs.listed_image import ListedImage

from . import frame_uri, member_frame_name, nifti
from .listing import refusal_of_frames, refusal_of_pages, unpacked_share
from .nifti.header import Header
from .nifti.listing import Slices, places_of
from .pages import is_paged
from .reading import read_frames
from .sources import Image, Keep, Once, within


def frame_of_member(member: ListedImage, number: int, frames: int) -> ListedImage:
    """The row of a frame, from 1, of a member with that many."""
    size_bytes = member.size_bytes
    if size_bytes is not None:
        size_bytes = unpacked_share(frames, size_bytes) or -(-size_bytes // frames)
    return member._replace(uri=member_frame_name(member.uri, number), size_bytes=size_bytes)


def slice_of_member(member: ListedImage, place: nifti.Place, header: Header) -> ListedImage:
    """The row of a slice of a member with this header. Its size is that of its voxels, unpacked."""
    name = nifti.place_name(place, several=header.volumes > 1)
    return member._replace(uri=frame_uri(member.uri, name), size_bytes=header.slice_bytes(place.axis))


def frames_of_member(member: ListedImage, path: str, frames: int) -> Iterator[tuple[ListedImage, str]]:
    """The rows of a member with their paths: of its frames or slices, or its own where it has one or too many."""
    if isinstance(frames, Slices) and not member.refused:
        yield from _slices_of_member(member, path, frames)
        return
    refused = None
    if frames > 1:
        has_pages = is_paged(without_number(member.uri))
        refused = refusal_of_pages(frames) if has_pages else refusal_of_frames(member.size_bytes or 0, frames)
    if refused is not None or frames <= 1 or member.refused:
        yield member._replace(refused=member.refused or refused), path
        return
    for number in range(1, frames + 1):
        yield frame_of_member(member, number, frames), member_frame_name(path, number)


def _slices_of_member(member: ListedImage, path: str, slices: Slices) -> Iterator[tuple[ListedImage, str]]:
    header = slices.header
    if header is None or slices.refused is not None:
        yield member._replace(refused=str(slices.refused)), path
        return
    for place in places_of(header, slices):
        row = slice_of_member(member, place, header)
        yield row, path + row.uri.removeprefix(member.uri)


def read_member_frames(
    content: Callable[[], Image], numbers: Sequence[int], once: Once, keep: Keep
) -> tuple[Image, ...]:
    """The frames at these places, from 0, of a member that has to be unpacked as a whole; else as `read_frames`."""
    data = content()
    if isinstance(data, ImageError):
        return (data,) * len(numbers)
    return read_frames(within(data), len(data), numbers, once, keep)
