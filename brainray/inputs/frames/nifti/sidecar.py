"""The JSON file beside a NIfTI file, as BIDS and dcm2niix write it: what it says of scanner and sequence, no more.

It is looked for beside the file (`sub-1_T1w.json`), and of BIDS also in the folder that holds those of the subjects
(`T1w.json`), as one file may speak for all. One that is missing or damaged, or is no file, says nothing.
"""

import errno
import json
import re
from typing import Any

from brainray import storage
from brainray.errors import StorageError

from . import SUFFIXES

# Attributes of the scanner and the sequence, whose values `imaging.nifti` maps to those of fixed lists.
_FIELDS = (
    "Modality",
    "Manufacturer",
    "MagneticFieldStrength",
    "ImageType",
    "SeriesDescription",
    "ProtocolName",
    "SequenceName",
)
_MOST_BYTES = 1 << 20
_MOST_SHARED = 256  # files that speak for many images, and are kept
_NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_SUBJECT = re.compile(r"(?P<root>.*/)sub-[^/]+/(?:.*/)?sub-[^/]+_(?P<suffix>[A-Za-z0-9]+)$")
_TASK = re.compile(r"_(task-[A-Za-z0-9]+)_")

Values = dict[str, Any]


class Sidecars:
    """Reads side files; those that speak for many images once."""

    def __init__(self) -> None:
        self._shared: dict[str, Values] = {}

    def of(self, uri: str) -> Values:
        """What is said of a NIfTI file; the nearest file wins. Raises `StorageError` where a later read may succeed."""
        suffix = next((suffix for suffix in sorted(SUFFIXES, key=len)[::-1] if uri.lower().endswith(suffix)), None)
        if suffix is None:
            return {}
        path = uri[: -len(suffix)]
        found: Values = {}
        bids = _SUBJECT.fullmatch(path)
        if bids is not None:
            task = _TASK.search(path)
            names = [bids["suffix"], *([f"{task[1]}_{bids['suffix']}"] if task else [])]
            for name in names:
                found |= self._of_many(f"{bids['root']}{name}.json")
        return found | _read(f"{path}.json")

    def _of_many(self, uri: str) -> Values:
        if uri not in self._shared:
            if len(self._shared) >= _MOST_SHARED:
                self._shared.clear()
            self._shared[uri] = _read(uri)
        return self._shared[uri]


def _read(uri: str) -> Values:
    try:
        values = json.loads(storage.read_once(uri, most_bytes=_MOST_BYTES))
    except StorageError as exc:
        if exc.reason == "read_failed" and not _is_no_file(exc):
            raise
        return {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: values[name] for name in _FIELDS if isinstance(values.get(name), str | int | float | list)}


def _is_no_file(error: StorageError) -> bool:
    """Whether a name on a disk stands for no file, which no later read finds either."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_FILE
