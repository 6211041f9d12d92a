"""The group file (`--groups`): tells which images belong together, such as those of one patient.

Its rows find their images as those of a label file do (`label_file`, `label_match`). Groups are text: "01" is not "1".
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray.errors import BadRequest
from brainray.inputs.class_names import NO_VALUE
from brainray.inputs.frames.listing import files_of_frames
from brainray.inputs.tables.table_columns import GROUP_COLUMNS

from .label_file import LabelFile, read_named_values

OPTION = "--groups"


class GroupFile:
    """Groups by URI, else by path below the folder of images, else by file name."""

    def __init__(self, keys: pa.Array, groups: pa.Array, *, uri: str) -> None:
        """`groups` are null for rows without a group."""
        self._uri = uri
        self._source = f"{OPTION} {uri}"
        self._rows = LabelFile(keys, groups, source=self._source)

    def groups_of(self, images: pa.Table) -> pa.Array:
        """The group of each of all images (uri, relative: the path below its folder); null for none.

        Raises `BadRequest` where a row fits several images, two rows fit one image, no image gets a group, or a row
        fits no image while some image has no row: then it may be misspelt. If every image has a row, the file is one
        for more images than these, and further rows are counted only.
        """
        uris, relative = (images[name].combine_chunks() for name in ("uri", "relative"))
        names = pc.replace_substring_regex(relative, "(?s)^.*/", "")
        files = files_of_frames(images)
        self._rows.begin()
        groups = self._rows.labels_of(uris, relative, names, files)
        if not self._rows.all_used:
            positions, near = self._rows.near_labels([(uris, relative, names, files)])
            groups = pc.replace_with_mask(groups, np.isin(np.arange(len(groups)), positions), near)
        without = len(images) - self._rows.matched
        self._rows.check_all_used_once(may_miss=not without, listed=[images], remedy=_remedy(without))
        if groups.null_count == len(groups):
            raise BadRequest(f"{self._source}: no image gets a group by it; leave it out, or fill in the groups")
        return groups

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def rows(self) -> LabelFile:
        """The rows, with groups in place of labels, for a listing that looks its images up chunk by chunk."""
        return self._rows

    def check_listing(self, listed: Iterable[pa.Table], *, images: int, extending: bool) -> None:
        """Check the rows once all images of a listing are looked up: raise `BadRequest` as `groups_of` does for rows.

        That no image gets a group is no error here. When `extending` a run, rows may name images that are gone.
        """
        without = images - self._rows.matched
        self._rows.check_all_used_once(
            some_may_be_gone=extending, may_miss=not without, listed=listed, remedy=_remedy(without)
        )

    def describe(self) -> Iterator[str]:
        """Yield lines for the log: rows that name no image, and rows without a group."""
        if self._rows.without_image:
            yield f"{OPTION}: {self._rows.without_image:,} row(s) name none of these images, of which each has a row"
        if self._rows.without_label:
            yield f"{OPTION}: {self._rows.without_label:,} row(s) have no group (empty, NA or unknown)"


def _remedy(without: int) -> str:
    return f"; {without:,} image(s) have no row: correct the names, or give each a row, with no group if unknown"


def read_group_file(uri: str) -> GroupFile:
    """Read a CSV or Parquet file with an image and a group column. Raises `BadRequest`, which names the fault."""
    keys, (raw,) = read_named_values(OPTION, uri, GROUP_COLUMNS)
    groups = pc.utf8_trim_whitespace(pc.utf8_normalize(raw, "NFC"))
    is_none = pc.is_in(pc.utf8_lower(groups), value_set=pa.array(sorted(NO_VALUE)))
    return GroupFile(keys, pc.if_else(is_none, pa.scalar(None, pa.string()), groups), uri=uri)
