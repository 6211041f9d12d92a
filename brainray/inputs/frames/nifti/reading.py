"""Reads slices of NIfTI files for the threads of a worker.

A worker unpacks one volume at a time, and keeps the last ones: of a file that is read by several shards the worker of
each unpacks it. Volumes of a file with several are unpacked in order, without a new beginning. Two shards of a worker
may read two files, or two parts of one, by turns: each goes on with a stream of its own.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from brainray import storage
from brainray.errors import ImageError, StorageError

from . import SUFFIXES, place_of
from .file import NO_SLICE, NiftiFile, Slice
from .sidecar import Sidecars
from .stream import Fetch

_KEPT_BYTES = 256 << 20  # of volumes that a worker keeps
_LEAST_KEPT = 2  # open files, however large: one for each shard that a worker has at a time
_MOST_KEPT = 64


class _Wanted(NamedTuple):
    """A volume of a file."""

    uri: str
    version: str | None
    volume: int


class _Open(NamedTuple):
    """A file that is open, or why it cannot be."""

    uri: str
    version: str | None
    file: NiftiFile | ImageError

    def is_of(self, wanted: _Wanted) -> bool:
        return (self.uri, self.version) == wanted[:2]

    def holds(self, wanted: _Wanted) -> bool:
        """Whether a slice of it takes no unpacking."""
        return self.is_of(wanted) and (isinstance(self.file, ImageError) or self.file.holds(wanted.volume))


class Volumes:
    """The volumes of a worker. Safe to share between threads, which wait for each other."""

    def __init__(self) -> None:
        self._held: list[_Open] = []  # first those that are dropped first
        self._sidecars = Sidecars()
        self._turns = _Turns()  # guards the above, and the memory: one volume is unpacked at a time

    def read(
        self, uri: str, version: str | None, size_bytes: int, fetch: Fetch, names: Sequence[str]
    ) -> tuple[Slice, ...]:
        """The slices of these names. Raises `StorageError` where a read fails."""

        def open_file() -> NiftiFile:
            described = {"name": stem(storage.name_of(uri)), "sidecar": self._sidecars.of(uri)}
            return NiftiFile(fetch, size_bytes, described)

        return self._read(uri, version, open_file, names)

    def read_member(
        self, uri: str, version: str | None, name: str, content: Callable[[], tuple[Fetch, int]], names: Sequence[str]
    ) -> tuple[Slice, ...]:
        """As `read`, for a member of an archive of this name, beside which no side file is looked for.

        `content` is called where the member is not open, and raises what reading does.
        """
        described = {"name": stem(storage.name_of(name)), "sidecar": {}}
        return self._read(uri, version, lambda: NiftiFile(*content(), described), names)

    def _read(
        self, uri: str, version: str | None, open_file: Callable[[], NiftiFile], names: Sequence[str]
    ) -> tuple[Slice, ...]:
        places = [place_of(name) for name in names]
        wanted = _Wanted(uri, version, next((place.volume for place in places if place is not None), 0))
        with self._turns.turn(lambda: any(each.holds(wanted) for each in self._held)):
            opened = self._opened(wanted, open_file)
            try:
                file = opened.file
                if isinstance(file, ImageError):
                    return (file,) * len(names)
                missing = ImageError("truncated", NO_SLICE)
                found = tuple(missing if place is None else file.slice_at(place) for place in places)
            except BaseException:
                self._held.remove(opened)  # its stream may have lost bytes
                raise
            if any(place is not None and file.is_last(place) for place in places):
                self._held.insert(0, self._held.pop())  # shards go through a file in order: it is wanted no longer
            return found

    def _opened(self, wanted: _Wanted, open_file: Callable[[], NiftiFile]) -> _Open:
        """The file, at or before the volume that is wanted."""
        opened = self._held_for(wanted)
        if opened is None:
            opened = _Open(wanted.uri, wanted.version, _opened(open_file))
        else:
            self._held.remove(opened)
        self._held.append(opened)
        while len(self._held) > _LEAST_KEPT and self._is_full():
            del self._held[0]
        return opened

    def _held_for(self, wanted: _Wanted) -> _Open | None:
        """The open file that has the volume, else the one that is the least before it."""
        of_file = [each for each in self._held if each.is_of(wanted)]
        ready = next((each for each in of_file if each.holds(wanted)), None)
        before = [each for each in of_file if isinstance(each.file, NiftiFile) and each.file.is_before(wanted.volume)]
        return ready or max(before, key=_position, default=None)

    def _is_full(self) -> bool:
        kept_bytes = sum(0 if isinstance(each.file, ImageError) else each.file.kept_bytes for each in self._held)
        return kept_bytes > _KEPT_BYTES or len(self._held) > _MOST_KEPT


def _position(opened: _Open) -> int:
    return opened.file.position if isinstance(opened.file, NiftiFile) else 0


class _Turns:
    """Lets one thread at a time go on: first those whose turn is short, then in the order in which they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_short: list[Callable[[], bool]] = []  # of those that wait
        self._is_taken = False

    @contextmanager
    def turn(self, is_short: Callable[[], bool]) -> Iterator[None]:
        """Wait for a turn. `is_short` is asked again at each end of a turn."""
        with self._changed:
            self._is_short.append(is_short)
            try:
                self._changed.wait_for(lambda: not self._is_taken and self._next() is is_short)
                self._is_taken = True
            finally:
                self._is_short.remove(is_short)
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()

    def _next(self) -> Callable[[], bool]:
        return next((is_short for is_short in self._is_short if is_short()), self._is_short[0])


def stem(name: str) -> str:
    """The name of a file without its suffix."""
    suffix = next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _opened(make: Callable[[], NiftiFile]) -> NiftiFile | ImageError:
    try:
        return make()
    except StorageError:
        raise
    except ImageError as exc:
        return exc
