"""The columns of lists and label files: the names by which each role is found.

Names are compared without case, blanks, hyphens and underscores; of several that fit, the first in the order here
counts.
"""

import re
from collections.abc import Iterable, Sequence

from brainray.errors import BadRequest

# The fuller a name says where the image is, the earlier it stands.
IMAGE_COLUMNS = (
    "uri", "url", "imageuri", "imageurl", "path", "imagepath", "filepath", "file", "filename", "imagefile",
    "imagefilename", "imagename", "image", "key", "seriesawsurl",
)  # fmt: skip
# Whose values name what lies below them, as in the index of the Imaging Data Commons.
PREFIX_COLUMNS = ("seriesawsurl",)
# With columns of bucket and key only these count more than them.
URI_COLUMNS = ("uri", "url", "imageuri", "imageurl")
# Of a label file also what may be a name without folder and suffix. Its rows must name images that are listed.
LABELLED_COLUMNS = (*(name for name in IMAGE_COLUMNS if name not in PREFIX_COLUMNS), "imageid", "name")
# Of a label file that names series in place of images.
SERIES_COLUMNS = ("series", "seriesinstanceuid", "seriesuid", "seriesid")
BUCKET_COLUMN, KEY_COLUMN = "bucket", "key"  # together they name an object, as in an S3 inventory
SIZE_COLUMNS = ("sizebytes", "size")
VERSION_COLUMNS = ("version", "etag")
GROUP_COLUMNS = ("group", "subject", "patient", "groupid", "subjectid", "patientid", "participantid")
# Of a box, as shares of the width and height of the image.
BOX_COLUMNS = (("left", "xmin", "x1"), ("top", "ymin", "y1"), ("right", "xmax", "x2"), ("bottom", "ymax", "y2"))
LATEST_COLUMNS = ("islatest",)
DELETED_COLUMNS = ("isdeletemarker",)
STORAGE_COLUMNS, TIER_COLUMNS = ("storageclass",), ("intelligenttieringaccesstier",)


def spelled(name: str) -> str:
    """A name as it is compared: without case, blanks (also those of no width), hyphens and underscores."""
    return re.sub(r"[\s_\u200b\ufeff-]", "", name).lower()


def find_column(header: Sequence[str], names: Iterable[str], source: str) -> int | None:
    """The place of the column that has the first of `names`; None without one. Refuses one that is there twice."""
    found = [spelled(name) for name in header]
    for name in names:
        if found.count(name) > 1:
            doubled = ", ".join(repr(column) for column, key in zip(header, found, strict=True) if key == name)
            raise BadRequest(f"{source}: has {found.count(name)} columns named {name} ({doubled}); keep one")
        if name in found:
            return found.index(name)
    return None


def find_needed(header: Sequence[str], names: Sequence[str], source: str, what: str) -> int:
    """The place of a column. Raises `BadRequest` without one."""
    place = find_column(header, names, source)
    if place is None:
        raise BadRequest(
            f"{source}: has no {what} column; it needs one named {_or(names)}, but has {', '.join(header)}"
        )
    return place


def _or(names: Sequence[str]) -> str:
    shown = [name for name in ("image", "path", "uri") if name in names]
    return " or ".join(shown or names[:3])
