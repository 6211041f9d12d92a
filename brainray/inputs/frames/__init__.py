"""Frames of DICOM files that hold several: each is a row, the third `file.dcm#3`, in an archive `a.zip#f.dcm#frame=3`.

`nifti` has the slices of volumes. A file is asked for their number when it is listed, by its first bytes; a frame is
read as a DICOM file of its own. pydicom is imported by `library`, where a file is read.
"""

import re
from importlib.util import find_spec

from brainray.errors import INSTALL

SUFFIXES = (".dcm", ".dicom", ".ima")
PACKED = ".gz"
_FRAME = re.compile(r"(?P<file>.+\.(?:dcm|dicom|ima)(?:\.gz)?)#(?P<number>[1-9][0-9]{0,8})", re.IGNORECASE | re.DOTALL)
_MEMBER_FRAME = re.compile(r"(?P<member>.+)#frame=(?P<number>[1-9][0-9]{0,8})", re.DOTALL)


def frame_uri(file: str, number: int | str) -> str:
    """The name of a frame, which are numbered from 1 as in DICOM, or of a slice by its name."""
    return f"{file}#{number}"


def is_dicom(name: str) -> bool:
    """Whether a file is DICOM by its suffix, packed by gzip or not."""
    return name.lower().removesuffix(PACKED).endswith(SUFFIXES)


def unread_note(files: int, slices: int = 0) -> tuple[str, ...]:
    """What the user should know where DICOM or NIfTI was listed and its extra is missing: a line each, or none."""
    listed = (
        (files, "DICOM files or frames", "pydicom", "dicom"),
        (slices, "slices of NIfTI volumes", "nibabel", "nifti"),
    )
    return tuple(
        f"{count:,} {what} get a row `unsupported`; to have them scored: {INSTALL.format(extra)}, then run the same "
        "command again with --retry-unread"
        for count, what, module, extra in listed
        if count and find_spec(module) is None
    )


def split(uri: str) -> tuple[str, int] | None:
    """The file and the number of the frame that a name stands for; None for any other name."""
    found = _FRAME.fullmatch(uri)
    return (found["file"], int(found["number"])) if found else None


def member_frame_name(member: str, number: int) -> str:
    """The name of a frame of a member of an archive; `#3` alone is a member whose name occurs for the third time."""
    return f"{member}#frame={number}"


def split_member_frame(name: str) -> tuple[str, int] | None:
    """The member and the number of the frame that a name in an archive stands for; None for any other name."""
    found = _MEMBER_FRAME.fullmatch(name)
    return (found["member"], int(found["number"])) if found else None
