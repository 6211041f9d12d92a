"""Whether another machine sees the same files: a local path means something on every node, and rarely the same."""

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
    """A file or folder that an option of the command names, or has below it."""

    option: str
    uri: str
    version: str | None = None  # of a file; None: that it is there is enough


@dataclass(frozen=True, kw_only=True)
class SharedPaths:
    """What the machine sees on which the command runs. Says nothing of buckets, which are the same from everywhere."""

    output: str
    mark: str | None  # a file that is in this very output alone; None for a bucket
    seen: tuple[NamedPath, ...]

    def unseen(self) -> str | None:
        """What this machine does not see, or sees another file for; None where it sees all."""
        if self.mark is not None and not storage.exists(self.mark):
            return f"--output {self.output}"
        return next((f"{seen.option} {seen.uri}" for seen in self.seen if not _is_there(seen)), None)

    def check(self) -> None:
        """Raise `BadRequest` where this machine, on which a worker has started, does not see all."""
        unseen = self.unseen()
        if unseen is not None:
            raise BadRequest(unshared_message([(socket.gethostname(), unseen)]))


def unshared_message(blind: Sequence[tuple[str, str]]) -> str:
    """The line for people: which machine does not see what."""
    host, unseen = blind[0]
    others = f" (nor do {len(blind) - 1} others see all)" if len(blind) > 1 else ""
    return f"{unseen} is not the same on node {host} as where the command runs{others}; {_ADVICE}"


def shared_paths_of(named: Iterable[NamedPath], *, output: str, writer: Writer) -> SharedPaths:
    """The sight of the output and of what else is named. Leaves a mark in the lease of a local output."""
    mark = None
    if _is_local(output) and writer.staging is not None:
        mark = storage.join(writer.staging, f"seen-{secrets.token_hex(8)}")
        writer.create(mark)
    return SharedPaths(output=output, mark=mark, seen=tuple(seen for seen in named if _is_local(seen.uri)))


def _is_local(uri: str) -> bool:
    """Not in a bucket, nor the model of the package, which every node has."""
    return uri.startswith(("/", "file://"))


def _is_there(seen: NamedPath) -> bool:
    try:
        found = storage.stat(seen.uri)
    except StorageError:
        return False
    return found is not None and seen.version in (None, found.version)
