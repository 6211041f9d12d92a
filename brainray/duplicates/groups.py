"""The groups of an audit: which picture stands for each, what the others are, and the figures drawn from them.

A row an image, as Arrow; nothing else is kept of an image. What is counted is counted from the table that is published.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import IMAGE_REASONS, BadRequest, ImageError, StorageError
from brainray.imaging.decode import luminance
from brainray.inputs.class_names import class_name, class_of_folders
from brainray.inputs.image_files import Grouper, image_files, tables_of

from .descriptors import Descriptors, describe_picture, nothing
from .search import CANDIDATES, SAME_PICTURE
from .transforms import IDENTICAL, JOINED

DATA, AGAINST = "data", "against"
READABLE = -1  # instead of a place in `IMAGE_REASONS`
_SCHEMA = pa.schema([(name, pa.string()) for name in ("uri", "source", "label", "folder", "subject")])


@dataclass(frozen=True, kw_only=True)
class AuditListing:
    """Every image file below the roots, once."""

    table: pa.Table  # uri, source, label, folder (the first, where it is not the class), subject; null for none
    skipped: dict[str, int]


def list_images(data: Sequence[str], against: Sequence[str], *, group_regex: str | None) -> AuditListing:
    """Raises `BadRequest` where there is nothing to look at, or a root lies in another."""
    _check_apart([*data, *against])
    subject_of = Grouper(group_regex, option="--group-regex")
    skipped: Counter[str] = Counter()
    chunks: list[pa.Table] = []
    for source, roots in ((DATA, data), (AGAINST, against)):
        for root in roots:
            found = list(tables_of(_rows(root, source, subject_of, skipped), _SCHEMA))
            if not found:
                raise BadRequest(f"--{source} {root}: no image files found")
            chunks += found
    return AuditListing(table=pa.concat_tables(chunks), skipped=dict(sorted(skipped.items())))


def _check_apart(roots: Sequence[str]) -> None:
    """No image may be listed twice."""
    for place, root in enumerate(roots):
        for other in (*roots[:place], *roots[place + 1 :]):
            if f"{root}/".startswith(f"{other.rstrip('/')}/"):
                raise BadRequest(f"{root} is given twice, or lies within {other}; give each folder once")


def _rows(root: str, source: str, subject_of: Grouper, skipped: Counter[str]) -> Iterator[dict[str, str | None]]:
    for found in image_files(f"--{source}", root, skipped):
        label, folder = _label_and_folder(found.folders)
        subject = subject_of(found.uri, found.folders)
        yield {"uri": found.uri, "source": source, "label": label, "folder": folder, "subject": subject}


def _label_and_folder(folders: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Its class, and the folder (Training, Testing, a hospital) that sets of classes are divided into."""
    label = class_of_folders(folders)
    divided = folders and class_name(folders[0]) != label
    return label, folders[0] if divided else None


def describe_rows(rows: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """(position, uri) -> signatures; an image that cannot be read keeps its row, with a reason."""
    signatures = [nothing()] * len(rows)
    errors = np.full(len(rows), READABLE, np.int8)
    for row, uri in enumerate(rows["uri"].to_pylist()):
        try:
            signatures[row] = describe_picture(luminance(storage.read_bytes(uri)))
        except (ImageError, StorageError) as exc:
            errors[row] = IMAGE_REASONS.index(exc.reason)
    return {"position": rows["position"].to_numpy(), "error": errors} | Descriptors.stack(signatures).columns()


Array = npt.NDArray[Any]
SCHEMA_VERSION = 1
_ID_DIGITS = 16
SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("source", pa.string()),  # data or against
        ("label", pa.string()),
        ("group", pa.string()),  # of the smallest digest in it: the same whatever the files are called
        ("similarity", pa.float32()),  # to the image that stands for the group; null where they do not register
        ("transform", pa.string()),  # what makes it of that image; null for that image itself
        ("subject", pa.string()),
        ("error", pa.string()),  # why it could not be read; then it has no group
    ]
)


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """For each of N images: its group, as a number from 0, and the image that stands for that. -1: not readable."""

    number: Array
    leader: Array

    @property
    def readable(self) -> Array:
        return self.number >= 0

    def copies(self, signatures: Descriptors) -> Array:
        """[M, 2] leaders and an image of each other picture in their groups, pixel for pixel copies once."""
        rows = np.flatnonzero(self.readable)
        _, first = np.unique(signatures.digest[rows], return_index=True)
        rows = rows[first]
        rows = rows[signatures.digest[rows] != signatures.digest[self.leader[rows]]]
        return np.stack([self.leader[rows], rows], axis=1)


def number_groups(groups: Array, signatures: Descriptors) -> Grouping:
    """Of each group the largest image stands for it, of equals the one with the smallest digest."""
    readable = np.flatnonzero(signatures.digest != b"")
    _, member = np.unique(groups[readable], return_inverse=True)
    area = signatures.height[readable].astype(np.int64) * signatures.width[readable]
    order = np.lexsort((readable, signatures.digest[readable], -area, member))
    _, first = np.unique(member[order], return_index=True)
    number = np.full(len(groups), -1)
    leader = np.full(len(groups), -1)
    number[readable] = member
    leader[readable] = readable[order[first]][member]
    return Grouping(number=number, leader=leader)


def groups_table(
    listed: pa.Table,
    signatures: Descriptors,
    errors: Array,
    grouping: Grouping,
    described: tuple[Array, Array, pa.Array],
) -> pa.Table:
    """groups.parquet. `described` is what `Grouping.copies` gave, with similarities and words for its rows."""
    copies, similarity, words = described
    place = np.full(len(listed), -1)
    place[copies[:, 1]] = np.arange(len(copies))
    place = place[_first_alike(signatures)]
    known = place >= 0
    leads = grouping.leader == np.arange(len(listed))
    alike = np.where(known, similarity[place] if len(similarity) else np.nan, np.float32(1))
    columns: dict[str, Any] = {name: listed[name] for name in ("uri", "source", "label", "subject")}
    columns["group"] = _group_ids(signatures, grouping)
    columns["similarity"] = pa.array(alike.astype(np.float32), mask=~grouping.readable | np.isnan(alike))
    columns["transform"] = pc.if_else(
        pa.array(leads | ~grouping.readable),
        pa.scalar(None, pa.string()),
        pc.fill_null(pc.take(words, pa.array(place, mask=~known)), pc.if_else(pa.array(known), "unclear", IDENTICAL)),
    )
    columns["error"] = pc.take(pa.array(IMAGE_REASONS), pa.array(errors.astype(np.int64), mask=errors == READABLE))
    return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def _first_alike(signatures: Descriptors) -> Array:
    """For each image the first with the same pixels."""
    _, first, same = np.unique(signatures.digest, return_index=True, return_inverse=True)
    return np.asarray(first[same])


def _group_ids(signatures: Descriptors, grouping: Grouping) -> pa.Array:
    rows = np.flatnonzero(grouping.readable)
    order = rows[np.lexsort((signatures.digest[rows], grouping.number[rows]))]
    _, first = np.unique(grouping.number[order], return_index=True)
    ids = pa.array(signatures.digest[order[first]].astype(f"U{_ID_DIGITS}"), pa.string())
    return pc.take(ids, pa.array(grouping.number, mask=~grouping.readable))


def figures_of(table: pa.Table, folders: pa.ChunkedArray) -> dict[str, Any]:
    """What summary.json holds of the images. `folders` is the folder of each row, null for none."""
    readable = pc.is_valid(table["group"])
    rows, folders = table.filter(readable), folders.filter(readable)
    failures = table["error"].drop_null().value_counts().to_pylist()
    mixed = mixed_groups(rows["group"], rows["label"])
    return {
        "images": len(table),
        "readable": len(rows),
        "unreadable": {row["values"]: row["counts"] for row in sorted(failures, key=lambda row: row["values"])},
        "pictures": pc.count_distinct(rows["group"]).as_py(),
        "surplus": len(rows) - pc.count_distinct(rows["group"]).as_py(),
        "by_class": dict(_by_class(rows)),
        "transforms": _transforms(rows["transform"]),
        "leaks": {
            "against": _across(rows["group"], rows["source"]).get(f"{AGAINST}{JOINED}{DATA}", _NOTHING_SHARED),
            "folders": _across(rows["group"], folders),
            "subjects": _across(rows["subject"], folders),
        },
        "conflicts": {
            "pictures": len(mixed),
            "images": pc.sum(pc.is_in(rows["group"], value_set=mixed)).as_py() or 0,
            "between": {names: shared["pictures"] for names, shared in _across(rows["group"], rows["label"]).items()},
        },
        "largest_group": _largest(rows["group"]),
        "thresholds": {"similarity": SAME_PICTURE, "candidates": CANDIDATES},
    }


_NOTHING_SHARED: dict[str, Any] = {"pictures": 0, "images": {}}


def _by_class(rows: pa.Table) -> Iterator[tuple[str, dict[str, int]]]:
    """A picture with two labels counts in both classes."""
    counted = rows.group_by("label").aggregate([("uri", "count"), ("group", "count_distinct")])
    for row in sorted(counted.to_pylist(), key=lambda row: row["label"] or ""):
        images, pictures = row["uri_count"], row["group_count_distinct"]
        yield row["label"] or "(none)", {"images": images, "pictures": pictures, "surplus": images - pictures}


def _transforms(words: pa.ChunkedArray) -> dict[str, int]:
    """How many copies were made so; one that was mirrored and resized counts in both."""
    counts: Counter[str] = Counter()
    for row in words.drop_null().value_counts().to_pylist():
        for word in row["values"].split(JOINED):
            counts[word] += row["counts"]
    return dict(counts.most_common())


def _memberships(groups: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.Table:
    """(group, value, images), each pair once."""
    table = pa.table({"group": groups, "value": values}).filter(
        pc.field("value").is_valid() & pc.field("group").is_valid()
    )
    return table.append_column("one", table["group"]).group_by(["group", "value"]).aggregate([("one", "count")])


def _across(groups: pa.ChunkedArray, values: pa.ChunkedArray) -> dict[str, Any]:
    """For each two values how many groups have both, and how many images of each those are."""
    by_value = _memberships(groups, values)
    joined = by_value.join(by_value, "group", right_suffix=" there", join_type="inner")
    joined = joined.filter(pc.field("value") < pc.field("value there"))
    counted = joined.group_by(["value", "value there"]).aggregate(
        [("group", "count"), ("one_count", "sum"), ("one_count there", "sum")]
    )
    return {
        f"{row['value']}{JOINED}{row['value there']}": {
            "pictures": row["group_count"],
            "images": {row["value"]: row["one_count_sum"], row["value there"]: row["one_count there_sum"]},
        }
        for row in sorted(counted.to_pylist(), key=lambda row: (row["value"], row["value there"]))
    }


def _largest(groups: pa.ChunkedArray) -> dict[str, Any] | None:
    return next(({"group": group, "images": images} for group, images in largest_groups(groups, 1)), None)


def largest_groups(groups: pa.ChunkedArray, count: int) -> list[tuple[str, int]]:
    """The groups with the most images, and how many."""
    table = pa.table({"group": groups.drop_null()}).group_by("group").aggregate([([], "count_all")])
    table = table.sort_by([("count_all", "descending"), ("group", "ascending")]).slice(0, count)
    return [(row["group"], row["count_all"]) for row in table.to_pylist()]


def mixed_groups(groups: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.Array:
    """The groups whose images have two values or more, sorted."""
    counted = _memberships(groups, values).group_by("group").aggregate([("value", "count")])
    return counted.filter(pc.field("value_count") > 1)["group"].sort().combine_chunks()
