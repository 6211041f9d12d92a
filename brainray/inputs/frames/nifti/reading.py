"""Reads slices of NIfTI files for the threads of a worker.

A worker unpacks one volume at a time, and keeps the last ones: of a file that is read by several shards the worker of
each unpacks it. Volumes of a file with several are unpacked in order, without a new beginning.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from brainray import storage
from brainray.errors import ImageError, StorageError

from . import SUFFIXES, place_of
from .file import NO_SLICE, NiftiFile, Slice
from .sidecar import Sidecars
from .stream import Fetch

_KEPT_BYTES = 256 << 20  # of volumes that a worker keeps; at least the one that it reads
_MOST_KEPT = 64  # files


class Volumes:
    """The volumes of a worker. Safe to share between threads, which wait for each other."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str | None], NiftiFile | ImageError] = OrderedDict()
        self._sidecars = Sidecars()
        self._lock = threading.Lock()  # guards the above, and the memory: one volume is unpacked at a time

    def read(
        self, uri: str, version: str | None, size_bytes: int, fetch: Fetch, names: Sequence[str]
    ) -> tuple[Slice, ...]:
        """The slices of these names. Raises `StorageError` where a read fails."""
        places = [place_of(name) for name in names]
        with self._lock:
            try:
                file = self._file(uri, version, size_bytes, fetch)
                if isinstance(file, ImageError):
                    return (file,) * len(names)
                missing = ImageError("truncated", NO_SLICE)
                return tuple(missing if place is None else file.slice_at(place) for place in places)
            except BaseException:
                self._held.pop((uri, version), None)  # its stream may have lost bytes
                raise

    def _file(self, uri: str, version: str | None, size_bytes: int, fetch: Fetch) -> NiftiFile | ImageError:
        key = (uri, version)
        if key not in self._held:
            described = {"name": stem(storage.name_of(uri)), "sidecar": self._sidecars.of(uri)}
            self._held[key] = _opened(lambda: NiftiFile(fetch, size_bytes, described))
        self._held.move_to_end(key)
        while len(self._held) > 1 and self._is_full():
            self._held.popitem(last=False)
        return self._held[key]

    def _is_full(self) -> bool:
        kept_bytes = sum(0 if isinstance(file, ImageError) else file.kept_bytes for file in self._held.values())
        return kept_bytes > _KEPT_BYTES or len(self._held) > _MOST_KEPT


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
