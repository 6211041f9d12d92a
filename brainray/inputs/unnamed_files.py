"""Files whose names tell no format, as of a PACS export: their first bytes say which of them are images.

Reads the first bytes only. That they are read at all is decided by their number, see `UnnamedFiles`.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from brainray import storage
from brainray.errors import StorageError
from brainray.storage.base import FileInfo
from brainray.storage.retry import RetryPolicy, RetryState

from .archives import CompressedStreams, begins_tar, container_kind, head_of
from .frames.header import HEAD_BYTES
from .frames.packed import frames_of_head
from .frames.sources import Frames
from .listed_image import ListedImage
from .skip_counts import count_skipped
from .unread import error_of_unread

NO_SUFFIX = "no suffix"
TAR = "tar"  # plain or compressed
DICOM = "DICOM"
# The formats that `imaging` reads, by their first bytes as there.
_FORMATS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WebP": rb"RIFF.{4}WEBP",
    "JPEG 2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "AVIF": rb".{4}ftyp.{0,28}avi[fs]",
    "PNM": rb"P[1-6f]\s[\s#\d]",
    # With its preamble, or a data set without: the first attribute is of group 2 or 8, with a type or a short length.
    DICOM: rb".{128}DICM|[\x02\x08]\0[\0-\x1f]\0(UI|UL|CS|DA|TM|SH|LO|[\0-\x80]\0\0\0)"
    rb"|\0[\x02\x08]\0[\0-\x1f](UI|UL|CS)",
}
_HEAD_BYTES = 512  # as far as the first header of a tar
_COMPRESSED = re.compile(rb"\x1f\x8b\x08|BZh[1-9]|\xfd7zXZ\0|\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_COMPRESSED_HEAD_BYTES = 1 << 20  # enough to unpack a head: bzip2 unpacks blocks of up to 900 kB as a whole
_PACKED_HEAD_BYTES = 16 << 10  # of a zip's member: its header with the name, and enough to unpack a head
# Files without suffix that are looked into unasked. It takes 0.1 ms for each on a disk, and a request in a bucket.
_MOST_ON_DISK = 100_000
_MOST_IN_BUCKET = 1_000
_SAMPLE = 64  # that are looked into where there are more, for the advice
_CHUNK = 1_000
_READS_AT_ONCE = 32
UNREADABLE = "unreadable"

Found = TypeVar("Found")  # a file, or a member of an archive


def format_of(head: bytes | None) -> str | None:
    """The format of an image by the first bytes of its file, if it is one that is read; None for any other.

    Without a head, because it cannot be read: "unreadable".
    """
    if head is None:
        return UNREADABLE
    return next((name for name, magic in _FORMATS.items() if re.match(magic, head, re.DOTALL)), None)


def image_or_tar_format(found: FileInfo) -> str | None:
    """The format of a file, as `format_of`; also `TAR` for a tar, whose compression its bytes tell, too.

    Raises `StorageError` for a read that may succeed later.
    """
    try:
        return FileFormats(tars=True).read(found)
    except StorageError as exc:
        if exc.reason == "read_failed":
            raise
        return None if exc.reason == "not_found" else UNREADABLE


class FileFormats:
    """Tells the formats of files, and remembers the frames of those that are DICOM: by one read each."""

    def __init__(self, *, tars: bool) -> None:
        """With `tars`, a tar is `TAR`, also a compressed one, which takes a second read."""
        self._tars = tars
        self._frames: dict[str, int] = {}

    def __call__(self, found: FileInfo) -> str | None:
        """The format of a file as `format_of`, also of one that cannot be read; None for one that is gone."""
        try:
            return self.read(found)
        except StorageError as exc:
            unread = error_of_unread(exc)
            if unread is not None:
                self._frames[found.uri] = Frames(0, unread=unread)
            return None if exc.reason == "not_found" else UNREADABLE

    def read(self, found: FileInfo) -> str | None:
        """The format of a file as `format_of`. Raises `StorageError`."""
        head = _read_head(found, HEAD_BYTES)  # once, also on a disk: most such files are DICOM
        name = format_of(head)
        if name == DICOM and head is not None:
            frames = frames_of_head(head)
            if frames > 1:
                self._frames[found.uri] = frames
        if name is not None or head is None or not self._tars:
            return name
        if _COMPRESSED.match(head):
            head = _read_head(found, _COMPRESSED_HEAD_BYTES)
        return TAR if head and begins_tar(head) else None

    def frames(self, uri: str) -> int:
        """The frames of a file, once: 1 for one that has no others, or was not looked into; see `sources.Frames`."""
        return self._frames.pop(uri, 1)


def _read_head(found: FileInfo, length: int) -> bytes | None:
    return None if found.archived else read_span(found.uri, 0, min(found.size_bytes, length))


class MemberFormats:
    """Tells the formats of members of archives. Compressed tars are unpacked once, in the order of their members."""

    def __init__(self) -> None:
        self._streams = CompressedStreams(lambda uri, version: storage.open_seekable(uri, version=version))

    def __call__(self, found: tuple[ListedImage, str, int]) -> str | None:
        """The format of a member (with its path and frames), as `format_of`."""
        image = found[0]
        if image.container is None or image.offset is None or not image.size_bytes:
            return None
        kind = container_kind(image.container)
        length = min(image.stored_bytes or 0, _PACKED_HEAD_BYTES if kind == "zip" else _HEAD_BYTES)
        if kind == "compressed tar":
            return format_of(self._streams.read(image.container, image.version, image.offset, length))
        stored = read_part(image.container, image.offset, length, version=image.version)
        return format_of(stored and head_of(kind, stored, _HEAD_BYTES))


def read_part(uri: str, start: int, length: int, *, version: str | None = None) -> bytes | None:
    """Some bytes of a file, none where it is gone; None where it is archived, or this user may not read it.

    Raises `StorageError` for a read that may succeed later.
    """
    try:
        return read_span(uri, start, length, version=version)
    except StorageError as exc:
        if exc.reason == "read_failed":
            raise
        return b"" if exc.reason == "not_found" else None


def read_span(uri: str, start: int, length: int, *, version: str | None = None) -> bytes:
    """Some bytes of a file, with retries as of other reads. Raises `StorageError`."""
    if not length:
        return b""
    tries = RetryState(policy=RetryPolicy(), in_bucket=uri.startswith("s3://"))
    return tries.persist(lambda: storage.read_range(uri, start, length, version=version), time.sleep)


class UnnamedFiles(Generic[Found]):
    """The files below one input, or members of one archive, whose names tell no format.

    Finds the images among them, and counts the others.
    With `any_suffix` all are looked into, also those with an unknown suffix. Without it, those without a suffix are,
    if they outnumber the images that names tell and are not too many; else a sample is, so that the user can be told.
    """

    def __init__(
        self,
        root: str,
        skipped: Counter[str],
        *,
        option: str = "--input",
        sample: bool = True,
        any_suffix: bool | None = False,
        all_without_suffix: bool = False,
        format_in: Callable[[Found], str | None],
    ) -> None:
        """`option` is the one that names the input; `any_suffix` is None where the command has no such option.

        With `all_without_suffix` those without a suffix are looked into, however many they are.
        `format_in` gives the format by the first bytes, as `format_of`.

        Without `sample` nothing is read for the advice.
        """
        self._source = f"{option} {root}"
        scored = any_suffix is not None
        self._used = "scored" if scored else "used"
        self._advice = (
            f"give {'--any-suffix to score such files' if scored else 'such files the suffix of their format'}"
        )
        self._skipped = skipped
        self._any_suffix = bool(any_suffix)
        self._all = self._any_suffix or all_without_suffix
        self._format_in = format_in
        self._most = _MOST_IN_BUCKET if root.startswith("s3://") else _MOST_ON_DISK
        self._sample = sample
        self._held: list[tuple[Found, str]] = []  # with the reason to skip it
        self.files = 0  # that were added
        self._without_suffix = 0
        self._formats: Counter[str] = Counter()
        self.notes: list[str] = []  # for the user, one line each; complete after `rest`

    def wants(self, reason: str) -> bool:
        """Whether a file that is skipped for this reason is to be added."""
        return reason == NO_SUFFIX or (self._any_suffix and reason.startswith("suffix "))

    def add(self, found: Found, reason: str) -> Iterator[tuple[Found, str]]:
        """Take a file. Gives images (and tars) among those taken, with their formats, if enough are held."""
        self.files += 1
        self._without_suffix += reason == NO_SUFFIX
        if self._all or self._without_suffix <= self._most:
            self._held.append((found, reason))
        else:
            del self._held[_SAMPLE:]
        if self._all and len(self._held) >= _CHUNK:
            yield from self._images()
            self._held = []

    def rest(self, named: int) -> Iterator[tuple[Found, str]]:
        """The images (and tars) among the files that are still held, after an input with `named` other images."""
        few = self._without_suffix <= self._most and self._without_suffix > named
        if self._all or few:
            yield from self._images()
            self._note_formats()
        elif self._held:
            self._advise()

    def _images(self) -> Iterator[tuple[Found, str]]:
        files = [found for found, _ in self._held]
        for (found, reason), name in zip(self._held, self._formats_of(files), strict=True):
            if name == UNREADABLE:  # it may be an image that an earlier run has: its row tells the reason
                yield found, name
                continue
            if name is None:
                count_skipped(self._skipped, reason)
            else:
                self._formats[name] += 1
                yield found, name

    def _note_formats(self) -> None:
        images = self._formats.total()
        if images and not self._all:
            what = "images or tars" if self._formats[TAR] else "images"
            self.notes.append(
                f"{self._source}: {images:,} of {self._without_suffix:,} files without suffix are {what} "
                f"by their first bytes ({_images_in(self._formats)}), and are {self._used}"
            )

    def _advise(self) -> None:
        """Pass over the files, and note how many of a sample are images."""
        sample = [found for found, _ in self._held[: _SAMPLE if self._sample else 0]]
        formats = Counter(name for name in self._formats_of(sample) if name and name != UNREADABLE)
        self._skipped[NO_SUFFIX] += self._without_suffix
        if formats:
            self.notes.append(
                f"{self._source}: {self._without_suffix:,} files without suffix were passed over; of the first "
                f"{len(sample)}, look like images: {_images_in(formats)}; {self._advice}"
            )

    def _formats_of(self, files: Sequence[Found]) -> Iterator[str | None]:
        with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="first-bytes") as pool:
            yield from pool.map(self._format_in, files)


def _images_in(formats: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in formats.most_common())
