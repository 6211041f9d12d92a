"""A member of an archive: its row of the index, the check of its name, and reading from an open archive.

Knows no format: `tar_file`, `zip_file` and `parquet_file` yield members, `archives.list_members` collects them.
"""

import re
from typing import NamedTuple, Protocol

from brainray.errors import ImageError
from brainray.inputs.frames.nifti import ALL
from brainray.inputs.frames.nifti.header import GZIP
from brainray.inputs.frames.nifti.listing import slices_in
from brainray.inputs.frames.sources import Frames
from brainray.inputs.image_suffixes import image_suffix

MOST_MEMBER_BYTES = 1 << 30
LONGEST_LABEL = 1000  # characters; longer ones are no class names
_LONGEST_NAME = 4096  # characters; PATH_MAX of Linux
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # would break lines of logs and CSV files
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\udc80-\udcff]")
_SEPARATORS = re.compile(r"[/\\]")
# Another file in gzip, such as `scan.tck.gz`, is passed over by its suffix, as in a folder.
_ARCHIVE = re.compile(r"\.(tar|zip|parquet|pq|tgz|7z|rar|bz2|tbz2?|xz|txz|zst|tzst)(\.gz)?$", re.IGNORECASE)


class BinaryFile(Protocol):
    """A readable, seekable binary file, such as `io.BytesIO`, `pyarrow.NativeFile` and open files."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, whence: int, /) -> int: ...
    def tell(self) -> int: ...


class Member(NamedTuple):
    """A row of `archives.INDEX_SCHEMA`, before repeated names are made distinct."""

    name: str  # "": the archive itself
    size_bytes: int | None = None
    offset: int | None = None
    stored_bytes: int | None = None
    label: str | None = None
    label_key: str | None = None  # of JSON, or a column, under which the label stands if it may be none
    refused: str | None = None  # `str` of an `ImageError`
    frames: int | None = None  # of a DICOM file that has several
    volume: str | None = None  # header of a NIfTI file, see `frames.nifti.header.Header.to_text`
    label_unread: str | None = None  # why the label that this file holds cannot be read or labels nothing
    frame_bytes: int | None = None  # of frames in a file that is packed as a whole: those of each, 0: not known


def with_frames(member: Member, frames: int) -> Member:
    """The member with the frames that its first bytes tell, if there are several."""
    if frames <= 1:
        return member
    each_bytes = frames.each_bytes or 0 if isinstance(frames, Frames) and frames.packed else None
    return member._replace(frames=int(frames), frame_bytes=each_bytes)


def with_volume(member: Member, head: bytes) -> Member:
    """The NIfTI file with what its first bytes tell: its header, or why there is none."""
    slices = slices_in(member.name, head, member.size_bytes or 0, ALL)
    if slices is None:
        return member
    header = None if slices.header is None else slices.header._replace(packed=head.startswith(GZIP)).to_text()
    return member._replace(volume=header, refused=str(slices.refused) if header is None else None)


def frames_by_row(frames: int | None, frame_bytes: int | None) -> int:
    """The frames of a member by its row of the index."""
    if frames is None or frame_bytes is None:
        return frames or 1
    return Frames(frames, packed=True, each_bytes=frame_bytes or None)


def is_archive(name: str) -> bool:
    """Whether a file is named as an archive, of any kind. It may hold images, so skipping it must be reported.

    An image in gzip, `x.png.gz`, is none.
    """
    return _ARCHIVE.search(name) is not None and not image_suffix(name)


def row_name(stored: str) -> tuple[str, str | None]:
    """The name of a member for its row, and the reason if a member of that name is refused.

    Bytes that are not UTF-8 come as surrogates ("surrogateescape"); they and control characters become escapes. Parts
    of the path that are ".", as `tar -C folder .` stores them, are left out.
    """
    name, refused = stored, _refusal(stored[:_LONGEST_NAME])
    if len(stored) > _LONGEST_NAME:
        name, refused = stored[:_LONGEST_NAME], f"member name is longer than {_LONGEST_NAME:,} characters"
    elif refused is None and ("./" in stored or "//" in stored or stored.endswith((".", "/"))):
        name = "/".join(part for part in stored.split("/") if part not in ("", "."))
    if not name:
        name, refused = "(unnamed)", "member name is empty"
    shown = name if name.isascii() and name.isprintable() else _UNPRINTABLE.sub(_escape, name)
    return shown, None if refused is None else str(ImageError("unsupported", refused))


def _refusal(stored: str) -> str | None:
    if _CONTROL.search(stored):
        return "member name has control characters"
    has_drive = stored[1:2] == ":" and stored[0].isalpha()
    if has_drive or stored.startswith(("/", "\\")) or (".." in stored and ".." in _SEPARATORS.split(stored)):
        return "member name leads outside the container"
    if is_archive(stored):
        return "an archive inside an archive is not opened"
    return None


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if 0xFF < code < 0xDC80 else f"\\x{code & 0xFF:02x}"


def too_many(most: int) -> ImageError:
    return ImageError("too_large", f"more than {most:,} members; write several smaller files")


def too_large(size_bytes: int) -> str:
    return str(ImageError("too_large", f"{size_bytes:,} bytes are more than the {MOST_MEMBER_BYTES:,} read"))


def size_of(file: BinaryFile) -> int:
    file.seek(0, 2)
    return file.tell()


def read_at(file: BinaryFile, offset: int, length: int) -> bytes:
    """Read `length` bytes from `offset`; fewer only at the end of the file."""
    file.seek(offset, 0)
    parts = []
    while length > 0 and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
