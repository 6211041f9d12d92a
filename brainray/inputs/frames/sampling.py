"""Which files are asked for frames or pages where each answer costs a request: in buckets, and in a zip there.

Large DICOM files are, for they are more than a slice. Of small ones and of files with pages, the first of each size in
each folder stands for the others: files of a series are of one kind, and of about one size.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from . import is_dicom
from .pages import is_paged
from .sources import is_unread

SINGLE_BYTES = 640 << 10  # a slice of 512 x 512 pixels of 16 bits has 512 KiB, and its header up to 100 kB
_STEPS = 8  # in which sizes double: files that differ by less than a tenth count as of one size
_KINDS = 4096  # of folder and size that are remembered
_FREE, _SHARE = 64, 16  # small files of a bucket that are asked: these, and one of so many

Kind = tuple[str, int, bool]
_ONE: Future[int] = Future()
_ONE.set_result(1)


def may_be_dicom(name: str) -> bool:
    """Whether a member of an archive may be DICOM by its name: by its suffix, or without one."""
    suffix = os.path.splitext(name.rpartition("/")[2])[1]
    return is_dicom(name) or not suffix or suffix[1:].isdecimal()


def kind_of_size(name: str, size_bytes: int) -> Kind:
    """The folder of a file, the class of its size, and whether it may have pages."""
    return name.rpartition("/")[0], int(math.log2(size_bytes + 1) * _STEPS), is_paged(name)


def _may_stand(frames: int) -> bool:
    """Whether an answer is one for other files, too: those of several frames are asked each."""
    return frames <= 1 and not is_unread(frames)


class AskedSample:
    """As `FrameSample`, for answers that come later. At most one of 16 small files is asked, beyond the first 64."""

    def __init__(self) -> None:
        self._of: OrderedDict[Kind, Future[int]] = OrderedDict()
        self._small = self._asked = 0

    def stands_for(self, name: str, size_bytes: int) -> Future[int] | None:
        """The answer of a file like this one; None where it has to be asked itself."""
        self._small += 1
        kind = kind_of_size(name, size_bytes)
        known = self._of.get(kind)
        if known is None and self._asked >= _FREE + self._small // _SHARE:
            return _ONE
        return known if known is None or not known.done() or _may_stand(known.result()) else None

    def add(self, name: str, size_bytes: int, answer: Future[int]) -> None:
        """Remember the answer of a file that was asked."""
        self._asked += 1
        self._of[kind_of_size(name, size_bytes)] = answer
        if len(self._of) > _KINDS:
            self._of.popitem(last=False)


class FrameSample:
    """The frames of files that are met one after the other, of which as few as that are asked."""

    def __init__(self) -> None:
        self._known: OrderedDict[Kind, int] = OrderedDict()

    def frames(self, name: str, size_bytes: int, ask: Callable[[], int]) -> int:
        """The number of frames, 1 where there are not several."""
        kind = kind_of_size(name, size_bytes)
        is_large = size_bytes >= SINGLE_BYTES and not is_paged(name)  # a picture of one page may have any size
        if is_large or self._known.get(kind, 2) > 1:
            self._known[kind] = found = ask()
            if len(self._known) > _KINDS:
                self._known.popitem(last=False)
            return found
        return 1
