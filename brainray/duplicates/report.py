"""Renders audit.html: the figures of an audit and rows of pictures of its conflicts, leaks and largest groups.

The pictures are the thumbnails of the descriptors: this module must not read images again. The page needs no network
and runs no script.
"""

import base64
import io
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from brainray import storage

from .descriptors import Descriptors
from .groups import largest_groups, mixed_groups
from .proposals import COLUMN, proposal_rows

if TYPE_CHECKING:
    from jinja2 import Template

# Most groups of each chapter, and most images of a group. At 3 kB an image the page has at most 4 MB.
_GROUPS_SHOWN = {"conflicts": 40, "leaks": 40, "largest": 20, "proposed": 30}
_IMAGES_SHOWN = 12
_HEIGHT_PX, _WIDEST_PX, _NARROWEST_PX = 112, 224, 16  # of a picture on the page


def page(figures: dict[str, Any], table: pa.Table, folders: pa.ChunkedArray, descriptors: Descriptors) -> str:
    """The text of audit.html. `table` (groups.parquet) and `folders` have a row for each descriptor, in that order."""
    shown: set[tuple[str, str]] = set()
    chapters = []
    for title, column, groups in _chapters(table, folders):
        new = [group for group in groups if (column, group) not in shown]
        shown.update((column, group) for group in new)
        if new:
            chapters.append((title, [_group_row(column, group, table, folders, descriptors) for group in new]))
    return _template().render(
        sources=[*figures["data"], *figures["against"]], figures=list(figure_rows(figures)), chapters=chapters
    )


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(loader=PackageLoader("brainray.duplicates"), autoescape=True, undefined=StrictUndefined)
    return pages.get_template("audit.html")


def _chapters(table: pa.Table, folders: pa.ChunkedArray) -> Iterator[tuple[str, str, list[str]]]:
    """The title of each chapter, the column that names its groups, and the groups."""
    groups = table["group"]
    conflicts = mixed_groups(groups, table["label"]).to_pylist()
    yield _heading("One picture, two labels", "group", conflicts, _GROUPS_SHOWN["conflicts"])
    crossing = {*mixed_groups(groups, table["source"]).to_pylist(), *mixed_groups(groups, folders).to_pylist()}
    yield _heading("One picture, in two sets or folders", "group", sorted(crossing), _GROUPS_SHOWN["leaks"])
    large = [group for group, images in largest_groups(groups, _GROUPS_SHOWN["largest"]) if images > 1]
    yield "The largest groups", "group", large
    proposed = table.filter(pc.is_null(table["subject"]))[COLUMN]
    largest = [group for group, _ in largest_groups(proposed, len(proposed))]
    title = "Proposed groups: pictures that look like neighbouring slices of one head"
    yield _heading(title, COLUMN, largest, _GROUPS_SHOWN["proposed"])


def _heading(title: str, column: str, groups: list[str], most: int) -> tuple[str, str, list[str]]:
    """The title, the column and the first `most` groups; the title gives their number where there are more."""
    rest = f" (the first {most} of {len(groups):,})" if len(groups) > most else ""
    return title + rest, column, groups[:most]


def _group_row(
    column: str, group: str, table: pa.Table, folders: pa.ChunkedArray, descriptors: Descriptors
) -> dict[str, Any]:
    """One group for the template: its leaders first, then one image of each label, source and folder, then others."""
    rows = np.flatnonzero(pc.equal(table[column], group).to_numpy(zero_copy_only=False))
    images = table.take(pa.array(rows)).to_pylist()
    kinds = [
        (image["label"], image["source"], folders[int(row)].as_py()) for image, row in zip(images, rows, strict=True)
    ]
    first_of_kind = [kind not in kinds[:i] for i, kind in enumerate(kinds)]
    order = sorted(range(len(rows)), key=lambda i: (images[i]["transform"] is not None, not first_of_kind[i], i))
    shown = [_image_cell(images[i], descriptors, int(rows[i])) for i in order[:_IMAGES_SHOWN]]
    return {"name": group, "images": len(rows), "shown": shown}


def _image_cell(image: dict[str, Any], descriptors: Descriptors, row: int) -> dict[str, Any]:
    """One image for the template: its URI, its picture and its caption."""
    words = [image["label"] or "no label", f"in --{image['source']}", storage.name_of(image["uri"])]
    if image["transform"]:
        similarity = "" if image["similarity"] is None else f", similarity {image['similarity']:.2f}"
        words.append(image["transform"] + similarity)
    return {"uri": image["uri"], "picture": _picture_uri(descriptors, row), "words": words}


def _picture_uri(descriptors: Descriptors, row: int) -> str:
    """A data URI (JPEG) of a thumbnail in the proportions of its box in the image."""
    left, top, right, bottom = descriptors.box[row].tolist()
    wide, high = (right - left) * int(descriptors.width[row]), (bottom - top) * int(descriptors.height[row])
    width_px = min(_WIDEST_PX, max(_NARROWEST_PX, round(_HEIGHT_PX * wide / max(high, 1e-6))))
    sink = io.BytesIO()
    picture = Image.fromarray(np.asarray(descriptors.thumbnail[row])).resize((width_px, _HEIGHT_PX))
    picture.save(sink, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def figure_rows(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of the main figures of summary.json, as text for the page and the terminal."""
    yield "images", f"{figures['images']:,}"
    for reason, images in figures["unreadable"].items():
        yield f"cannot be read: {reason}", f"{images:,}"
    for reason, images in figures.get("excluded", {}).items():  # audits of earlier versions lack it
        yield f"no anatomical slice: {reason}", f"{images:,}"
    yield "distinct pictures", f"{figures['pictures']:,}"
    yield "surplus images", f"{figures['surplus']:,}"
    for name, counts in figures["by_class"].items():
        yield f"{name}: distinct of images", f"{counts['pictures']:,} of {counts['images']:,}"
    yield "pictures with two labels", f"{figures['conflicts']['pictures']:,}"
    for names, pictures in figures["conflicts"]["between"].items():
        yield f"{names}: pictures with both labels", f"{pictures:,}"
    if figures["against"]:
        leaked = figures["leaks"]["against"]
        yield "pictures in both --data and --against", f"{leaked['pictures']:,}"
        for source, images in leaked["images"].items():
            yield f"of --{source} those are images", f"{images:,}"
    for names, shared in figures["leaks"]["folders"].items():
        yield f"{names}: pictures in both", f"{shared['pictures']:,}"
    yield from _subject_rows(figures)
    yield from proposal_rows(figures["proposed"])
    if figures["against"] and figures["leaks"]["proposed_against"]["pictures"]:
        yield "proposed groups in both --data and --against", f"{figures['leaks']['proposed_against']['pictures']:,}"
    for word, images in figures["transforms"].items():
        yield f"copies: {word}", f"{images:,}"
    if figures["largest_group"]:
        yield "images in the largest group", f"{figures['largest_group']['images']:,}"


def _subject_rows(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is known of the groups, such as patients; nothing where no image has one."""
    known = figures["subjects"]
    if not known["subjects"]:
        return
    yield "groups, such as patients", f"{known['subjects']:,}"
    yield "images without a group", f"{known['images_without']:,} ({known['share_without']:.1%})"
    yield "pictures in two groups or more", f"{known['pictures_in_several']:,}"
    if figures["against"]:
        yield "groups in both --data and --against", f"{figures['leaks']['subjects_against']['pictures']:,}"
    for names, shared in figures["leaks"]["subjects"].items():
        yield f"{names}: groups in both", f"{shared['pictures']:,}"
