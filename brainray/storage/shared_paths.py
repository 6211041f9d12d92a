"""Checks that every node resolves a local path to the same file, as on a shared mount.

The machine of the command records its paths (`shared_paths_of`); each node compares. Buckets need no check.
"""

import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from brainray import storage
from brainray.errors import BadRequest, StorageError

from . import Writer

_ADVICE = "give a path that all nodes share, or s3://"


@dataclass(frozen=True)
class NamedPath:
    """A file or folder that an option of the command names, or a file below that folder."""

    option: str
    uri: str
    version: str | None = None  # of a file; None: its existence is enough


@dataclass(frozen=True, kw_only=True)
class SharedPaths:
    """The local paths of a command as its own machine resolves them. Buckets are left out."""

    output: str
    mark: str | None  # a file that exists in this output only; None for a bucket
    seen: tuple[NamedPath, ...]

    def unseen(self) -> str | None:
        """The first path that is missing or another file on this machine, with its option; None: all are the same."""
        if self.mark is not None and not storage.exists(self.mark):
            return f"--output {self.output}"
        return next((f"{path.option} {path.uri}" for path in self.seen if not _is_same(path)), None)

    def check(self) -> None:
        """Raise `BadRequest` where a path is missing or another file on this machine."""
        unseen = self.unseen()
        if unseen is not None:
            raise BadRequest(unshared_message([(socket.gethostname(), unseen)]))


def unshared_message(failed: Sequence[tuple[str, str]]) -> str:
    """The message about nodes (host, path that is not shared), of which it names the first."""
    host, unseen = failed[0]
    others = f" (nor do {len(failed) - 1} others see all)" if len(failed) > 1 else ""
    return f"{unseen} is not the same on node {host} as where the command runs{others}; {_ADVICE}"


def shared_paths_of(named: Iterable[NamedPath], *, output: str, writer: Writer) -> SharedPaths:
    """Record the output and the named paths. Leaves a mark file in the lease folder of a local output."""
    mark = None
    if _is_local(output) and writer.staging is not None:
        mark = storage.join(writer.staging, f"seen-{secrets.token_hex(8)}")
        writer.create(mark)
    return SharedPaths(output=output, mark=mark, seen=tuple(path for path in named if _is_local(path.uri)))


def _is_local(uri: str) -> bool:
    """Whether a location is on a disk: neither in a bucket, nor the model that the package brings to every node."""
    return uri.startswith(("/", "file://"))


def _is_same(path: NamedPath) -> bool:
    try:
        found = storage.stat(path.uri)
    except StorageError:
        return False
    return found is not None and path.version in (None, found.version)
