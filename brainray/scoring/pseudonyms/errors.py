"""Keeps names out of what is said of images that could not be read: their rows, and logs of workers.

Whoever decodes an image knows its bytes only. Who reads it knows its place, and errors of file systems, buckets and
archives name it, in their own spelling too.
"""

import re
from collections.abc import Iterable, Iterator

from brainray.errors import INSTALL, BrainrayError, ImageError, Outage, StorageError
from brainray.imaging.heif import IS_HEIF
from brainray.inputs.frames.library import IS_DICOM
from brainray.inputs.frames.sources import Image
from brainray.inputs.unread import UNREAD

_LEFT_OUT = {
    "not_found": "it is gone since it was listed",
    "forbidden": "it may not be read",
    "empty": "it has no bytes",
    "archived": "it must be restored before it can be read",
}
_OTHERWISE = "what is wrong is left out, as it names the image"
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")  # as `repr` shows a name
_BETWEEN = re.compile(r"[/#\\]")
_LEAST_CHARS = 3  # of a part of a path that is looked for; shorter ones of ASCII are in any text
_OF_READERS = tuple(re.escape(text) for text in (INSTALL.partition("{")[0], IS_DICOM, IS_HEIF))
_TELLS_READER = re.compile("|".join(_OF_READERS))  # details that `parts.is_unread` looks for
_OUTAGE = (
    "images of the input cannot be read (which, and why, is left out of the logs of workers); is the input still "
    "mounted and readable? Finished parts are kept: run the same command to go on, or with --max-unread 100% to give "
    "such images error rows"
)
_FAILED = "an image of the input could not be read, and what was said of it is left out, as it may name the image"


def hidden(error: ImageError, pseudonym: str, uri: str) -> ImageError:
    """The error of an image with its pseudonym in place of its name.

    Where parts of its path are left in other spellings, the words are replaced by those of the reason.
    """
    file = pseudonym.partition("#")[0]
    detail = error.detail.replace(uri, pseudonym)
    for end in (at.start() for at in re.finditer("#", uri)):
        detail = detail.replace(uri[:end], file)
    detail = _QUOTED.sub("(a name)", detail)
    mark = UNREAD if detail.startswith(UNREAD) else ""  # by which the next run knows such a row
    rest = detail[len(mark) :].replace(pseudonym, "").replace(file, "").casefold()
    parts = _BETWEEN.split(uri.casefold())
    names = {part for part in parts if len(part) >= _LEAST_CHARS or not part.isascii()}
    if any(name in rest for name in names) and not _TELLS_READER.search(detail):
        left = f"{pseudonym}: {_LEFT_OUT.get(error.reason, _OTHERWISE)}"
        detail = f"{mark}; {left}" if mark else left
    return ImageError(error.reason, detail)


def without_names(
    images: Iterator[tuple[Image, int]], pseudonyms: Iterable[str], uris: Iterable[str]
) -> Iterator[tuple[Image, int]]:
    """What was read of images, in order, with pseudonyms in its errors. Errors that end the run lose their words."""
    for pseudonym, uri in zip(pseudonyms, uris, strict=True):
        failure: type[BrainrayError] | None = None
        try:
            image, retries = next(images)
        except BrainrayError as exc:  # raised again below, so that it does not carry this one, nor its words
            failure = type(exc)
        if failure is not None:
            raise Outage(_OUTAGE) if issubclass(failure, (Outage, StorageError)) else BrainrayError(_FAILED)
        yield (hidden(image, pseudonym, uri) if isinstance(image, ImageError) else image), retries
