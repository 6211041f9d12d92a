"""The rows of a NIfTI file: which of its volumes and slices are listed, or why none can be."""

from brainray.errors import ImageError
from brainray.inputs.listed_image import ListedImage

from . import ALL, FIRST, MOST_SLICES, Place, is_nifti, place_name
from .header import GZIP, Header, is_nifti_head, read_header, unpacked_head
from .stream import MOST_RATIO


class Slices(int):
    """The number of rows of a NIfTI file, which stands for a file of several frames, and what the rows are."""

    refused: ImageError | None  # why there is a single row, which is not read
    others: int  # volumes that are not listed
    header: Header | None
    volumes: range

    def __new__(cls, header: Header | None, volumes: range = range(1), refused: ImageError | None = None) -> "Slices":
        """Without a header, or with a refusal, the rows are one."""
        count = 1 if header is None or refused else header.count(header.sliced_along()) * len(volumes)
        made = super().__new__(cls, count)
        made.header, made.volumes, made.refused = header, volumes, refused
        made.others = 0 if header is None else header.volumes - len(volumes)
        return made


def slices_in(name: str, head: bytes, size_bytes: int, volumes: str = FIRST) -> Slices | None:
    """The slices of a file, by its first bytes; None for one that is not NIfTI."""
    try:
        unpacked = unpacked_head(head)
    except ImageError as exc:
        return Slices(None, refused=exc) if is_nifti(name) else None
    if not is_nifti_head(unpacked):
        return _no_magic(name, head, unpacked)
    try:
        return chosen_slices(read_header(unpacked), size_bytes, volumes, packed=head.startswith(GZIP))
    except ImageError as exc:
        return Slices(None, refused=exc)


def chosen_slices(header: Header, size_bytes: int, volumes: str, *, packed: bool) -> Slices:
    """The slices of a file with this header that are listed."""
    try:
        header.check_size()
        chosen = _chosen(header, volumes)
        _check_bytes(header, chosen, size_bytes, packed=packed)
    except ImageError as exc:
        return Slices(header, refused=exc)
    return Slices(header, chosen)


def rows_of(image: ListedImage, slices: Slices) -> list[ListedImage]:
    """The rows of a file; its one row where it is refused. The size of a slice is that of its voxels, unpacked."""
    header, stored_bytes = slices.header, image.size_bytes or 0
    if slices.refused is not None or header is None:
        return [image._replace(refused=image.refused or str(slices.refused))]
    count = header.count(header.sliced_along())
    return [
        image._replace(
            uri=f"{image.uri}#{place_name(place, several=header.volumes > 1)}",
            size_bytes=header.slice_bytes(place.axis),
            container=image.uri,
            offset=place.volume * count + place.number,
            stored_bytes=stored_bytes,
        )
        for place in places_of(header, slices)
    ]


def places_of(header: Header, slices: Slices) -> list[Place]:
    """Where the slices are that are listed."""
    axis = header.sliced_along()
    return [Place(axis, number, volume) for volume in slices.volumes for number in range(header.count(axis))]


def _no_magic(name: str, head: bytes, unpacked: bytes) -> Slices | None:
    """A file without NIfTI's magic: none of our business, but for one that is named so and has the header of one."""
    is_cut = head.startswith(GZIP) and len(unpacked) < 348
    if not is_nifti(name) or not (is_cut or unpacked[:4] in (b"\\\1\0\0", b"\0\0\1\\")):
        return None
    try:
        read_header(unpacked)
    except ImageError as exc:
        return Slices(None, refused=ImageError("truncated", "it ends before its NIfTI header does") if is_cut else exc)
    return None


def _chosen(header: Header, volumes: str) -> range:
    if volumes == ALL:
        return range(header.volumes)
    number = 0 if volumes == FIRST else int(volumes)
    if number >= header.volumes:
        raise ImageError("unsupported", f"it has {header.volumes:,} volumes, and --volumes {number} is none of them")
    return range(number, number + 1)


def _check_bytes(header: Header, volumes: range, size_bytes: int, *, packed: bool) -> None:
    """Raise where the file cannot hold what its header promises, or promises too many slices."""
    slices = max(header.shape) * len(volumes)
    if slices > MOST_SLICES:
        raise ImageError("too_large", f"{slices:,} slices are more than the {MOST_SLICES:,} that are read")
    needed = header.start + (volumes.start + 1) * header.volume_bytes
    there = size_bytes * MOST_RATIO if packed else size_bytes
    if needed > there:
        sides = " x ".join(f"{side:,}" for side in header.shape)
        raise ImageError("truncated", f"{size_bytes:,} bytes cannot hold the {sides} voxels of its header")
