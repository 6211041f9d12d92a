"""NIfTI files that a list names are asked for their slices several at a time, and keep the order of the list."""

import threading
from collections import Counter

from support.imaging.niftis import nifti

from brainray.inputs.frames import listing
from brainray.inputs.frames.listing import FrameRows
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unnamed_files import FileFormats

CONTENT = nifti()


def asked(monkeypatch, rows: list[ListedImage], *, at_once: int, is_read=lambda row, image: True):
    """The names in order with their slices; `at_once` files have to be asked before one of them has an answer."""
    together = threading.Barrier(at_once, timeout=20)

    def head(uri: str, start: int, length: int) -> bytes:
        together.wait()
        return CONTENT[start : start + length]

    monkeypatch.setattr(listing, "read_span", head)
    frames = FrameRows(Counter(), "first", FileFormats(tars=False))
    return [(row, image.uri, int(count)) for row, image, count in frames.of_listed(enumerate(rows), is_read)]


def test_a_list_of_volumes_costs_no_round_trip_each(monkeypatch):
    rows = [ListedImage(f"s3://b/{number}.nii.gz", len(CONTENT)) for number in range(8)]
    assert asked(monkeypatch, rows, at_once=8) == [(number, f"s3://b/{number}.nii.gz", 20) for number in range(8)]


def test_only_volumes_are_asked_that_will_be_read(monkeypatch):
    rows = [
        ListedImage("s3://b/unknown.nii", None),
        ListedImage("s3://b/a.nii#z=3", 9, container="s3://b/a.nii"),
        ListedImage("s3://b/refused.nii", 9, refused="too_large: it is"),
        ListedImage("s3://b/left-out.nii", 9),
        ListedImage("s3://b/a.png", 9),
        ListedImage("s3://b/a.nii.gz", len(CONTENT)),
    ]
    found = asked(monkeypatch, rows, at_once=1, is_read=lambda row, image: "left-out" not in image.uri)
    assert [count for _, _, count in found] == [0, 0, 0, 0, 0, 20]
