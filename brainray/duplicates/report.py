"""The figures of an audit as a page, with rows of pictures: conflicts first, then leaks, then the largest groups.

The pictures are those that signatures hold; no image is read again. The page needs no network and runs no script.
"""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from brainray import storage

from .descriptors import Descriptors
from .groups import largest_groups, mixed_groups

_SHOWN = {"conflicts": 40, "leaks": 40, "largest": 20}  # groups; with 12 images of 3 kB each at most 4 MB
_IMAGES_SHOWN = 12


def page(figures: dict[str, Any], table: pa.Table, folders: pa.ChunkedArray, signatures: Descriptors) -> str:
    """audit.html, of rows in the order of the signatures."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    shown: set[str] = set()
    chapters = []
    for title, groups in _chapters(table, folders):
        new = [group for group in groups if group not in shown]
        shown.update(new)
        if new:
            chapters.append((title, [_group(group, table, folders, signatures) for group in new]))
    pages = Environment(loader=PackageLoader("brainray.duplicates"), autoescape=True, undefined=StrictUndefined)
    return pages.get_template("audit.html").render(
        sources=[*figures["data"], *figures["against"]], figures=list(figure_rows(figures)), chapters=chapters
    )


def _chapters(table: pa.Table, folders: pa.ChunkedArray) -> Iterator[tuple[str, list[str]]]:
    groups = table["group"]
    conflicts = mixed_groups(groups, table["label"]).to_pylist()
    yield _heading("One picture, two labels", conflicts, _SHOWN["conflicts"])
    crossing = {*mixed_groups(groups, table["source"]).to_pylist(), *mixed_groups(groups, folders).to_pylist()}
    yield _heading("One picture, in two sets or folders", sorted(crossing), _SHOWN["leaks"])
    large = [group for group, images in largest_groups(groups, _SHOWN["largest"]) if images > 1]
    yield "The largest groups", large


def _heading(title: str, groups: list[str], most: int) -> tuple[str, list[str]]:
    """Says so where not all are shown."""
    rest = f" (the first {most} of {len(groups):,})" if len(groups) > most else ""
    return title + rest, groups[:most]


def _group(group: str, table: pa.Table, folders: pa.ChunkedArray, signatures: Descriptors) -> dict[str, Any]:
    """The image that stands for the group, then one of each label, folder and source, then others."""
    rows = np.flatnonzero(pc.equal(table["group"], group).to_numpy(zero_copy_only=False))
    images = table.take(pa.array(rows)).to_pylist()
    places = [
        (image["label"], image["source"], folders[int(row)].as_py()) for image, row in zip(images, rows, strict=True)
    ]
    first_of_kind = [place not in places[:i] for i, place in enumerate(places)]
    order = sorted(range(len(rows)), key=lambda i: (images[i]["transform"] is not None, not first_of_kind[i], i))
    shown = [_image(images[i], signatures, int(rows[i])) for i in order[:_IMAGES_SHOWN]]
    return {"name": group, "images": len(rows), "shown": shown}


def _image(image: dict[str, Any], signatures: Descriptors, row: int) -> dict[str, Any]:
    words = [image["label"] or "no label", f"in --{image['source']}", storage.name_of(image["uri"])]
    if image["transform"]:
        alike = "" if image["similarity"] is None else f", similarity {image['similarity']:.2f}"
        words.append(image["transform"] + alike)
    return {"uri": image["uri"], "picture": _picture(signatures, row), "words": words}


def _picture(signatures: Descriptors, row: int) -> str:
    """A data URI, in the proportions of the image."""
    left, top, right, bottom = signatures.box[row].tolist()
    wide, high = (right - left) * int(signatures.width[row]), (bottom - top) * int(signatures.height[row])
    size = max(16, round(112 * wide / max(high, 1e-6))), 112
    sink = io.BytesIO()
    Image.fromarray(np.asarray(signatures.thumbnail[row])).resize((min(size[0], 224), 112)).save(
        sink, "JPEG", quality=80
    )
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def figure_rows(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures that people look at first, in words, for the page and the terminal."""
    yield "images", f"{figures['images']:,}"
    for reason, images in figures["unreadable"].items():
        yield f"cannot be read: {reason}", f"{images:,}"
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
    for kind in ("folders", "subjects"):
        for names, shared in figures["leaks"][kind].items():
            yield f"{names}: {'pictures' if kind == 'folders' else 'subjects'} in both", f"{shared['pictures']:,}"
    for word, images in figures["transforms"].items():
        yield f"copies: {word}", f"{images:,}"
    if figures["largest_group"]:
        yield "images in the largest group", f"{figures['largest_group']['images']:,}"
