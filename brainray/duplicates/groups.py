"""Lists the images of an audit, groups copies, and makes the table and figures of the groups.

An image is a row of Arrow tables from the listing to groups.parquet; nothing else is kept of it. All figures are
computed from the published table. Finding copies is the task of `search`; this module must not import Ray.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray.errors import EXCLUSION_REASONS, IMAGE_REASONS, BadRequest, ImageError
from brainray.imaging.decode import Excluded
from brainray.inputs.class_names import class_name, class_of_folders
from brainray.inputs.frames.below import PLACE_SCHEMA, images_below, read_images
from brainray.inputs.image_files import Grouper, tables_of
from brainray.inputs.labels.group_file import GroupFile
from brainray.inputs.skip_counts import few_reasons, passed_over
from brainray.inputs.unread import MOST_FILE_BYTES

from .descriptors import Descriptor, Descriptors, Flags, Floats, Ints, nothing
from .proposals import COLUMN, proposal_figures, proposed_groups
from .sandbox import describe_image, sandboxed_describer
from .search import CANDIDATES, SAME_PICTURE
from .transforms import IDENTICAL, JOINED

SCHEMA_VERSION = 1
DATA, AGAINST = "data", "against"
READABLE = -1  # instead of an index into `REASONS`
REASONS = (*IMAGE_REASONS, *EXCLUSION_REASONS)
SCHEMA = pa.schema(  # of groups.parquet
    [
        ("uri", pa.string()),
        ("source", pa.string()),  # data or against
        ("label", pa.string()),
        ("group", pa.string()),  # first digits of its smallest digest: independent of the names of files
        ("similarity", pa.float32()),  # to the leader of the group; null where they do not register
        ("transform", pa.string()),  # words for how the image was made from the leader; null for the leader
        ("subject", pa.string()),
        (COLUMN, pa.string()),  # the subject, or a guess at which pictures are of one; null for a picture on its own
        ("error", pa.string()),  # reason why the image could not be read; then it has no group
    ]
)
_LISTING_COLUMNS = ("uri", "source", "label", "folder", "subject", "relative")
_LISTING_SCHEMA = pa.schema([*((name, pa.string()) for name in _LISTING_COLUMNS), *PLACE_SCHEMA])
_ID_DIGITS = 16
_NOTHING_SHARED: dict[str, Any] = {"pictures": 0, "images": {}}

# The listing.


@dataclass(frozen=True, kw_only=True)
class AuditListing:
    """Every image file below the roots, once."""

    # uri, source, label, folder (the first, unless it names the class), subject (its group, such as a patient), and
    # relative (its path below the root), and the columns of `PLACE_SCHEMA`; null for none
    table: pa.Table
    skipped: dict[str, int]  # files that are no images, by reason
    notes: tuple[str, ...] = ()  # for the user, one line each


def list_images(
    data: Sequence[str],
    against: Sequence[str],
    *,
    group_regex: str | None,
    group_file: GroupFile | None = None,
    output: str | None = None,
) -> AuditListing:
    """List the image files below all roots, and not below `output`.

    A subject is told by the group file, else by the regular expression. Raises `BadRequest` for a root without images
    or inside another root, and what `GroupFile` refuses.
    """
    _check_disjoint([*data, *against])
    subject_of = Grouper(group_regex, option="--group-regex")
    skipped, notes = Counter[str](), list[str]()
    chunks: list[pa.Table] = []
    for source, roots in ((DATA, data), (AGAINST, against)):
        for root in roots:
            tables = list(tables_of(_listing_rows(root, source, subject_of, skipped, notes, output), _LISTING_SCHEMA))
            if not tables:
                found = passed_over(skipped, notes, f"--{source} {root}")
                raise BadRequest(f"--{source} {root}: no image files found{found}")
            chunks += tables
    table = pa.concat_tables(chunks)
    if group_file is not None:
        subjects = pc.coalesce(group_file.groups_of(table), table["subject"])
        table = table.set_column(table.schema.get_field_index("subject"), "subject", subjects)
    return AuditListing(table=table, skipped=few_reasons(skipped), notes=tuple(notes))


def _check_disjoint(roots: Sequence[str]) -> None:
    """Raise `BadRequest` for a root inside another, whose images would be listed twice."""
    for place, root in enumerate(roots):
        for other in (*roots[:place], *roots[place + 1 :]):
            if f"{root}/".startswith(f"{other.rstrip('/')}/"):
                raise BadRequest(f"{root} is given twice, or lies within {other}; give each folder once")


def _listing_rows(
    root: str, source: str, subject_of: Grouper, skipped: Counter[str], notes: list[str], output: str | None
) -> Iterator[dict[str, Any]]:
    """The rows of the listing for one root; counts files that are no images, and notes what the user should know."""
    for found in images_below(f"--{source}", root, skipped, notes, output=output):
        uri, folders = found.image.uri, found.file.folders
        label, folder = _label_and_folder(folders)
        values = (uri, source, label, folder, subject_of(uri, folders), found.relative)
        yield dict(zip(_LISTING_COLUMNS, values, strict=True)) | found.place


def _label_and_folder(folders: tuple[str, ...]) -> tuple[str | None, str | None]:
    """The class of an image, and the folder above the classes (Training, Testing, a hospital) where there is one."""
    label = class_of_folders(folders)
    has_parent = folders and class_name(folders[0]) != label
    return label, folders[0] if has_parent else None


# Descriptors and groups.


def describe_rows_apart(rows: pa.Table, excluding: Collection[str] = EXCLUSION_REASONS) -> dict[str, npt.NDArray[Any]]:
    """As `describe_rows`, in a child process: an image that kills its decoder is one that cannot be read."""
    with sandboxed_describer(excluding) as describe:
        return describe_rows(rows, describe=describe)


def describe_rows(
    rows: pa.Table,
    excluding: Collection[str] = EXCLUSION_REASONS,
    *,
    describe: Callable[[bytes], Descriptor] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Columns of descriptors for rows (position, uri, `PLACE_SCHEMA`).

    An image that is unreadable, or excluded by one of these reasons, keeps its row, with a reason in `error`.
    `describe` is `describe_image`; by default in this process.
    """
    describe = describe or partial(describe_image, excluding=excluding)
    descriptors = [nothing()] * len(rows)
    errors = np.full(len(rows), READABLE, np.int8)
    for row, content in enumerate(read_images(rows, most_bytes=MOST_FILE_BYTES)):
        try:
            if isinstance(content, ImageError):
                raise content
            descriptors[row] = describe(content)
        except (ImageError, Excluded) as exc:
            errors[row] = REASONS.index(exc.reason)
    return {"position": rows["position"].to_numpy(), "error": errors} | Descriptors.stack(descriptors).columns()


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """The group of each of N images. The leader of a group is the image that its others are compared with."""

    number: Ints  # [N] from 0; -1 for an unreadable image
    leader: Ints  # [N] row of the leader; -1 for an unreadable image

    @property
    def readable(self) -> Flags:
        """[N] Whether an image could be read, and so has a group."""
        return self.number >= 0

    def copies(self, descriptors: Descriptors) -> Ints:
        """[M, 2] rows of a leader and of one image of each other picture in its group; equal pixels count once."""
        rows = np.flatnonzero(self.readable)
        _, first = np.unique(descriptors.digest[rows], return_index=True)
        rows = rows[first]
        rows = rows[descriptors.digest[rows] != descriptors.digest[self.leader[rows]]]
        return np.stack([self.leader[rows], rows], axis=1)


def number_groups(groups: npt.NDArray[Any], descriptors: Descriptors) -> Grouping:
    """Number the groups of `group_copies` from 0. Leader: the largest image, of equals the one of smallest digest."""
    readable = np.flatnonzero(descriptors.digest != b"")
    _, member = np.unique(groups[readable], return_inverse=True)
    area = descriptors.height[readable].astype(np.int64) * descriptors.width[readable]
    order = np.lexsort((readable, descriptors.digest[readable], -area, member))
    _, first = np.unique(member[order], return_index=True)
    number = np.full(len(groups), -1)
    leader = np.full(len(groups), -1)
    number[readable] = member
    leader[readable] = readable[order[first]][member]
    return Grouping(number=number, leader=leader)


# The table.


def groups_table(
    listed: pa.Table,
    descriptors: Descriptors,
    errors: npt.NDArray[Any],
    grouping: Grouping,
    described: tuple[Ints, Floats, pa.Array],
) -> pa.Table:
    """The table of groups.parquet, in the order of the listing.

    `errors` [N] are indices into `REASONS` or `READABLE`. `described` holds the pairs of `Grouping.copies` with
    their similarities and words.
    """
    copies, similarity, words = described
    pair = np.full(len(listed), -1)
    pair[copies[:, 1]] = np.arange(len(copies))
    pair = pair[_first_equal(descriptors)]  # images with equal pixels share a pair
    has_pair = pair >= 0
    is_leader = grouping.leader == np.arange(len(listed))
    to_leader = np.where(has_pair, similarity[pair] if len(similarity) else np.nan, np.float32(1))
    columns: dict[str, Any] = {name: listed[name] for name in ("uri", "source", "label", "subject")}
    columns["group"] = _group_ids(descriptors, grouping)
    columns[COLUMN] = proposed_groups(
        descriptors, grouping.number, grouping.leader, columns["group"], listed["subject"]
    )
    columns["similarity"] = pa.array(to_leader.astype(np.float32), mask=~grouping.readable | np.isnan(to_leader))
    columns["transform"] = pc.if_else(
        pa.array(is_leader | ~grouping.readable),
        pa.scalar(None, pa.string()),
        pc.fill_null(
            pc.take(words, pa.array(pair, mask=~has_pair)), pc.if_else(pa.array(has_pair), "unclear", IDENTICAL)
        ),
    )
    columns["error"] = pc.take(pa.array(REASONS), pa.array(errors.astype(np.int64), mask=errors == READABLE))
    return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def _first_equal(descriptors: Descriptors) -> Ints:
    """[N] for each image the row of the first with the same pixels."""
    _, first, same = np.unique(descriptors.digest, return_index=True, return_inverse=True)
    return np.asarray(first[same])


def _group_ids(descriptors: Descriptors, grouping: Grouping) -> pa.Array:
    """[N] the first digits of the smallest digest in the group of each image; null for an unreadable one."""
    rows = np.flatnonzero(grouping.readable)
    order = rows[np.lexsort((descriptors.digest[rows], grouping.number[rows]))]
    _, first = np.unique(grouping.number[order], return_index=True)
    ids = pa.array(descriptors.digest[order[first]].astype(f"U{_ID_DIGITS}"), pa.string())
    return pc.take(ids, pa.array(grouping.number, mask=~grouping.readable))


# The figures.


def figures_of(table: pa.Table, folders: pa.ChunkedArray) -> dict[str, Any]:
    """The figures of summary.json, from groups.parquet. `folders` is the folder of each row, null for none."""
    readable = pc.is_valid(table["group"])
    rows, folders = table.filter(readable), folders.filter(readable)
    failures = sorted(table["error"].drop_null().value_counts().to_pylist(), key=lambda row: row["values"])
    mixed = mixed_groups(rows["group"], rows["label"])
    return {
        "images": len(table),
        "readable": len(rows),
        "unreadable": {row["values"]: row["counts"] for row in failures if row["values"] not in EXCLUSION_REASONS},
        "pictures": pc.count_distinct(rows["group"]).as_py(),
        "surplus": len(rows) - pc.count_distinct(rows["group"]).as_py(),
        "by_class": dict(_by_class(rows)),
        "transforms": _transforms(rows["transform"]),
        "leaks": {
            "against": _shared(rows["group"], rows["source"]).get(f"{AGAINST}{JOINED}{DATA}", _NOTHING_SHARED),
            "folders": _shared(rows["group"], folders),
            "subjects": _shared(rows["subject"], folders),
            "subjects_against": _shared(rows["subject"], rows["source"]).get(
                f"{AGAINST}{JOINED}{DATA}", _NOTHING_SHARED
            ),
            "proposed_against": _shared(rows[COLUMN], rows["source"]).get(f"{AGAINST}{JOINED}{DATA}", _NOTHING_SHARED),
        },
        "subjects": _subjects(rows),
        "proposed": proposal_figures(rows),
        "conflicts": {
            "pictures": len(mixed),
            "images": pc.sum(pc.is_in(rows["group"], value_set=mixed)).as_py() or 0,
            "between": {names: both["pictures"] for names, both in _shared(rows["group"], rows["label"]).items()},
        },
        "largest_group": next(
            ({"group": group, "images": images} for group, images in largest_groups(rows["group"], 1)), None
        ),
        "excluded": {row["values"]: row["counts"] for row in failures if row["values"] in EXCLUSION_REASONS},
        "thresholds": {"similarity": SAME_PICTURE, "candidates": CANDIDATES},
    }


def largest_groups(groups: pa.ChunkedArray, count: int) -> list[tuple[str, int]]:
    """The `count` groups with the most images, and their numbers of images."""
    table = pa.table({"group": groups.drop_null()}).group_by("group").aggregate([([], "count_all")])
    table = table.sort_by([("count_all", "descending"), ("group", "ascending")]).slice(0, count)
    return [(row["group"], row["count_all"]) for row in table.to_pylist()]


def mixed_groups(groups: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.Array:
    """The groups whose images have two values or more, sorted."""
    counted = _count_values(groups, values).group_by("group").aggregate([("value", "count")])
    return counted.filter(pc.field("value_count") > 1)["group"].sort().combine_chunks()


def _by_class(rows: pa.Table) -> Iterator[tuple[str, dict[str, int]]]:
    """Images, pictures and surplus images of each class. A picture with two labels counts in both classes."""
    counted = rows.group_by("label").aggregate([("uri", "count"), ("group", "count_distinct")])
    for row in sorted(counted.to_pylist(), key=lambda row: row["label"] or ""):
        images, pictures = row["uri_count"], row["group_count_distinct"]
        yield row["label"] or "(none)", {"images": images, "pictures": pictures, "surplus": images - pictures}


def _subjects(rows: pa.Table) -> dict[str, Any]:
    """The number of subjects, the readable images without one, and the pictures with copies in two subjects or more."""
    without = rows["subject"].null_count
    return {
        "subjects": pc.count_distinct(rows["subject"]).as_py(),
        "images_without": without,
        "share_without": without / len(rows) if len(rows) else None,
        "pictures_in_several": len(mixed_groups(rows["group"], rows["subject"])),
    }


def _transforms(words: pa.ChunkedArray) -> dict[str, int]:
    """The number of copies by transform, most common first; a mirrored and resized copy counts in both."""
    counts: Counter[str] = Counter()
    for row in words.drop_null().value_counts().to_pylist():
        for word in row["values"].split(JOINED):
            counts[word] += row["counts"]
    return dict(counts.most_common())


def _shared(groups: pa.ChunkedArray, values: pa.ChunkedArray) -> dict[str, Any]:
    """For each pair of values the number of groups that have both, and the number of their images by value."""
    by_value = _count_values(groups, values)
    joined = by_value.join(by_value, "group", right_suffix=" other", join_type="inner")
    joined = joined.filter(pc.field("value") < pc.field("value other"))
    counted = joined.group_by(["value", "value other"]).aggregate(
        [("group", "count"), ("one_count", "sum"), ("one_count other", "sum")]
    )
    return {
        f"{row['value']}{JOINED}{row['value other']}": {
            "pictures": row["group_count"],
            "images": {row["value"]: row["one_count_sum"], row["value other"]: row["one_count other_sum"]},
        }
        for row in sorted(counted.to_pylist(), key=lambda row: (row["value"], row["value other"]))
    }


def _count_values(groups: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.Table:
    """Columns group, value and one_count: the number of images of each group with each value. Nulls are left out."""
    table = pa.table({"group": groups, "value": values}).filter(
        pc.field("value").is_valid() & pc.field("group").is_valid()
    )
    return table.append_column("one", table["group"]).group_by(["group", "value"]).aggregate([("one", "count")])
