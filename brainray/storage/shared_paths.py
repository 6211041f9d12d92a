"""Checks that every node resolves a local path to the same file, as on a shared mount.

The machine of the command records its paths (`shared_paths_of`); each node compares. Buckets need no check.
"""

import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from brainray import storage
from brainray.errors import BadRequest, StorageError

from . import Writer

_ADVICE = "give a path that all nodes share, or s3://"
_SAMPLES = 16  # of those offered; each costs the machine of the command a stat


@dataclass(frozen=True)
class NamedPath:
    """A file or folder that an option of the command names, or a file below that folder."""

    option: str
    uri: str
    version: str | None = None  # of a file; None: its existence is enough
    shown: bool = True  # whether a message may name it
    advice: str = _ADVICE  # where a node sees another file there, or none

    def __str__(self) -> str:
        """The option and the path, as a message names it."""
        return f"{self.option} {self.uri if self.shown else '(one of them)'}"


@dataclass(frozen=True, kw_only=True)
class SharedPaths:
    """The local paths of a command as its own machine resolves them. Buckets are left out."""

    output: str
    mark: str | None  # a file that exists in this output only; None for a bucket
    seen: tuple[NamedPath, ...]  # each must be the same on every node
    samples: tuple[NamedPath, ...] = ()  # files that may change or go while a run lasts: one that is the same suffices

    def unseen(self) -> NamedPath | None:
        """The first path that is missing or another file on this machine; None: all are the same."""
        if self.mark is not None and not storage.exists(self.mark):
            return NamedPath("--output", self.output)
        unseen = next((path for path in self.seen if not _is_same(path)), None)
        if unseen is None and self.samples and not any(map(_is_same, self.samples)):
            unseen = self.samples[0]
        return unseen

    def check(self) -> None:
        """Raise `BadRequest` where a path is missing or another file on this machine."""
        unseen = self.unseen()
        if unseen is not None:
            raise BadRequest(unshared_message([(socket.gethostname(), unseen)]))


def unshared_message(failed: Sequence[tuple[str, NamedPath]]) -> str:
    """The message about nodes (host, path that is not shared), of which it names the first."""
    host, unseen = failed[0]
    others = f" (nor do {len(failed) - 1} others see all)" if len(failed) > 1 else ""
    return f"{unseen} is not the same on node {host} as where the command runs{others}; {unseen.advice}"


def shared_paths_of(
    named: Iterable[NamedPath], *, samples: Iterable[NamedPath] = (), output: str, writer: Writer
) -> SharedPaths:
    """Record the output, the named paths, and 16 of the samples. Leaves a mark file in the lease folder of the output.

    Paths that this machine does not find, or not as they were listed, are left out.
    """
    mark = None
    if _is_local(output) and writer.staging is not None:
        mark = storage.join(writer.staging, f"seen-{secrets.token_hex(8)}")
        writer.create(mark)
    return SharedPaths(
        output=output,
        mark=mark,
        seen=tuple(_found_here(named)),
        samples=tuple(islice(_found_here(samples), _SAMPLES)),
    )


def _found_here(paths: Iterable[NamedPath]) -> Iterator[NamedPath]:
    yield from (path for path in paths if _is_local(path.uri) and _is_same(path))


def _is_local(uri: str) -> bool:
    """Whether a location is on a disk: neither in a bucket, nor the model that the package brings to every node."""
    return uri.startswith(("/", "file://"))


def _is_same(path: NamedPath) -> bool:
    try:
        found = storage.stat(path.uri)
    except StorageError:
        return False
    return found is not None and path.version in (None, found.version)
