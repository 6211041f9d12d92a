"""Paths of local files as URIs, and the errors of the system as `StorageError`. Opens no file."""

import errno
import os
import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from brainray.errors import ImageReason, StorageError, Unavailable

_REASONS: dict[int, ImageReason] = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
}
# A disk that fails, or a server of files that does not answer.
_OUTAGES = {
    *(errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNRESET),
    *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV),
}

_FILE_URI = re.compile("file:(//|(?=/))", re.IGNORECASE)  # Hadoop and Spark write file:/data/1.jpg


def plain_file_uri(uri: str) -> str:
    """A local URI with its scheme as `path_of` takes it; any other text as it is."""
    found = _FILE_URI.match(uri)
    return f"file://{uri[found.end() :]}" if found else uri


def path_of(uri: str) -> str:
    """The path of a local URI, as the `os` functions take it."""
    if uri.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(uri[len("file://") :].removeprefix("localhost")))
    return uri


def uri_of(path: str) -> str:
    """The URI of a path; `path_of` turns it back."""
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))


def text_of(name: str) -> str:
    """A file name for display: bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def storage_error(uri: str, error: OSError) -> StorageError:
    kind = Unavailable if error.errno in _OUTAGES else StorageError
    return kind(_REASONS.get(error.errno or 0, "read_failed"), f"{uri}: {error.strerror or error}")
