"""Slices of NIfTI files: each is a row, `vol.nii.gz#z=57` or, of a file with several volumes, `vol.nii.gz#t=2,z=57`.

A file is asked for its header when it is listed, without nibabel, an extra that `volume` imports where a file is read.
The letter is the axis of the patient that the slice is square to: `z` from the feet to the head, `y` to the front, `x`
to the right. Slices and volumes are counted from 0, as in `nibabel.as_closest_canonical`.
"""

import re
from typing import NamedTuple

from brainray.inputs.image_suffixes import without_number

SUFFIXES = (".nii", ".nii.gz")
AXES = "xyz"
FIRST, ALL = "first", "all"  # which volumes of a file are listed; else the number of one, from 0
MOST_SLICES = 100_000  # of a file, as of frames
OTHER_VOLUMES = "volume of a 4-D file"  # that is not listed: the reason by which it is counted
_NUMBER = r"0|[1-9][0-9]{0,5}"
_PLACE = re.compile(rf"(?:t=(?P<volume>{_NUMBER}),)?(?P<axis>[xyz])=(?P<number>{_NUMBER})")


class Place(NamedTuple):
    """Where a slice is in its file."""

    axis: int  # of the patient: 0 to 2 for x, y, z
    number: int  # along the axis
    volume: int = 0


def is_nifti(name: str) -> bool:
    """Whether a file is NIfTI by its suffix."""
    return name.lower().endswith(SUFFIXES)


def place_name(place: Place, *, several: bool) -> str:
    """The name of a slice in its file, which has one volume or `several`."""
    volume = f"t={place.volume}," if several else ""
    return f"{volume}{AXES[place.axis]}={place.number}"


def place_of(name: str) -> Place | None:
    """The slice that a name in a file stands for; None for any other name."""
    found = _PLACE.fullmatch(name)
    if found is None:
        return None
    return Place(AXES.index(found["axis"]), int(found["number"]), int(found["volume"] or 0))


def split(uri: str) -> tuple[str, Place] | None:
    """The file and the slice that a URI stands for; None for any other URI."""
    file, _, name = uri.rpartition("#")
    place = place_of(name) if is_nifti(without_number(file)) else None
    return None if place is None else (file, place)
