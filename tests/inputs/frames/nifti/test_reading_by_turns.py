"""Two shards of a worker read volumes by turns: neither makes the other unpack again."""

import threading
import time

import numpy as np
import pytest
from support.imaging.niftis import SHAPE, head, nifti

from brainray.inputs.frames.nifti import reading
from brainray.inputs.frames.nifti.file import NiftiFile
from brainray.inputs.frames.nifti.reading import Volumes


@pytest.fixture
def unpacked(monkeypatch):
    """The names of files and the numbers of volumes, in the order in which they are unpacked; none is small."""
    monkeypatch.setattr(reading, "_KEPT_BYTES", 0)
    made, read = [], NiftiFile._read

    def spy(self, number):
        made.append((self._described["name"], number))
        return read(self, number)

    monkeypatch.setattr(NiftiFile, "_read", spy)
    return made


def slices(volumes, name, content, place, begun=None):
    """Read a slice; `begun` takes where the file is begun."""

    def fetch(start: int, length: int) -> bytes:
        if begun is not None:
            begun.append(start)
        return content[start : start + length]

    (found,) = volumes.read(f"/none/{name}.nii.gz", "v", len(content), fetch, [place])
    assert isinstance(found, bytes)


def test_two_files_that_are_read_by_turns_are_unpacked_once(unpacked):
    volumes, content, last = Volumes(), nifti(), SHAPE[2] - 1
    for number in range(10):
        for name in "ab":
            slices(volumes, name, content, f"z={number}")
    slices(volumes, "a", content, f"z={last}")
    slices(volumes, "c", content, "z=0")
    for name in "bcb":
        slices(volumes, name, content, "z=10")
    assert unpacked == [("a", 0), ("b", 0), ("c", 0)]


def test_two_parts_of_a_file_that_are_read_by_turns_have_two_beginnings(unpacked):
    content, begun, volumes = nifti(np.stack([head()] * 6, axis=3)), [], Volumes()
    for number in range(3):
        for place in (f"t={number + 3},z=3", f"t={number},z=3", f"t={number + 3},z=4", f"t={number},z=4"):
            slices(volumes, "a", content, place, begun)
    assert sorted(unpacked) == [("a", number) for number in range(6)]
    assert begun == [0, 0]


def test_reads_of_the_volume_that_is_held_do_not_wait_for_another_to_be_unpacked(unpacked):
    volumes, content, threads = Volumes(), nifti(), []
    slices(volumes, "a", content, "z=1")
    with volumes._turns.turn(lambda: True):
        for name in ("b", "c", "a"):
            threads.append(threading.Thread(target=slices, args=(volumes, name, content, "z=2")))
            threads[-1].start()
            while len(volumes._turns._is_short) < len(threads):
                assert threads[-1].is_alive()
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert unpacked == [("a", 0), ("b", 0), ("c", 0)]
