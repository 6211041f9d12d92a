"""Renders `summary/report.html`, one file that needs nothing else: no other file, no network, and no script to be read.

The content security policy allows the page's own style and script by their hashes and pictures in the page; every
value is escaped by the template. There is no clock, so equal runs give equal bytes.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from . import sections, text
from .archive import archive
from .maps import CellMap, map_figures, with_maps
from .sections import PageSource, Values
from .series import series
from .thumbnails import Thumbnail
from .tiles import MOST_STRIP, Row, TilePart

if TYPE_CHECKING:
    from jinja2 import Environment

# A URI that is longer is shown cut and takes no answer, for the answer must hold it whole: keeps the page small.
MOST_URI_CHARS = 1_300
_LONGEST = 400  # characters of any text of a user
_PROBABILITIES = 3  # of a tile: the highest ones
_FILTERS = (  # functions of `text`
    "between",
    "count",
    "cut",
    "decimal",
    "duration",
    "estimate",
    "group_name",
    "interval_text",
    "listed",
    "percent",
    "plural",
    "rate",
    "when",
)


def render(
    source: PageSource, thumbnails: Mapping[str, Thumbnail] | None, maps: Mapping[str, CellMap] | None = None
) -> str:
    """The text of the page. Without `thumbnails` its tiles have no pictures; `maps` are drawn over them."""
    numbers = iter(range(1, 1_000_000))
    parts = {part.name: _part(part, source, thumbnails, numbers) for part in source.parts}
    mapped = with_maps([tile for part in parts.values() for tile in part["tiles"]], maps or {})
    style, script = own("report.css"), own("report.js")
    return (
        environment()
        .get_template("report.html")
        .render(
            style=style,
            script=script,
            policy=policy(style, script),
            storage_key=_storage_key(source),
            classes=source.classes,
            labelled=source.labelled,
            grouped=bool(source.figures["groups"]),
            pictures=thumbnails is not None,
            maps=map_figures(mapped, source.card.get("metrics") or {}),
            verdict=sections.verdict(source),
            reconciliation=sections.reconciliation(source),
            parts=parts,
            cell_links=_cell_links(parts["mistakes"]["tiles"]),
            quality=sections.quality(source),
            groups=sections.group_tables(source.figures),
            strip=_strip(source, thumbnails),
            series=series(source),
            archive=archive(source),
            provenance=sections.provenance(source),
            review_list=source.figures["review_list"],
        )
    )


@cache
def environment() -> "Environment":
    """The engine of the templates of all pages: it escapes every value."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("brainray.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update({name: getattr(text, name) for name in _FILTERS} | {"exact": _exact})
    return pages


def _exact(value: object) -> str:
    """The escaped value, from which a browser reads the same again; it takes a carriage return for a line feed."""
    from markupsafe import Markup, escape

    return escape(value).replace("\r", Markup("&#13;"))


def _shown(value: object) -> object:
    """What the template shows for a value: text is cut and its invisible characters are written out, then escaped."""
    return text.cut(value, _LONGEST) if type(value) is str else value


def make_ready() -> None:
    """Compile the templates, which takes 0.2 s, so that the first page takes less time."""
    for name in environment().list_templates(extensions=["html"]):
        environment().get_template(name)


@cache
def own(name: str) -> str:
    """The text of the page's own style or script, which the template must not escape."""
    from jinja2 import PackageLoader
    from markupsafe import Markup

    return Markup(PackageLoader("brainray.page").get_source(environment(), name)[0])


def policy(style: str, script: str) -> str:
    """No request to anywhere, whatever a name in the page may try."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _storage_key(source: PageSource) -> str:
    """Names the answers of this run in a browser: they belong to its model and inputs, wherever the page is moved."""
    return storage_key(source.figures["fingerprint"], *source.run.get("inputs", ()))


def storage_key(*names: str) -> str:
    """The key of answers in a browser: those to equal names are the same."""
    named = "\n".join(names)
    return f"brainray-answers-{hashlib.sha256(named.encode()).hexdigest()[:16]}"


def _part(part: TilePart, source: PageSource, thumbnails: Mapping[str, Thumbnail] | None, numbers: Any) -> Values:  # noqa: ANN401
    levels = len(source.figures.get("group_levels", ()))
    tiles = [tile_of(row, next(numbers), source.classes, thumbnails, levels=levels) for row in part.rows]
    return {"tiles": tiles, "images": part.images, "left_out": part.left_out, "reasons": part.reasons}


def tile_of(
    row: Row, number: int, classes: Sequence[str], thumbnails: Mapping[str, Thumbnail] | None, *, levels: int
) -> Values:
    """What the template shows of an image, which takes an answer; `levels` of its group."""
    uri = row["uri"]
    probs = sorted(((row[f"prob_{name}"] or 0.0, name) for name in classes), key=lambda each: -each[0])
    label = row["label"] if row["label"] in classes else None
    name = uri.rpartition("/")[2] or uri
    return {
        "number": number,
        "uri": uri if len(uri) <= MOST_URI_CHARS else None,
        "content": row.get("content_hash") or "",
        "shown_uri": text.cut(uri, 300),
        "name": text.cut(name, 60),
        "group": text.group_name(row.get("group"), levels),
        "label": label,
        "predicted": row["predicted"],
        "judged": row.get("judged", False),
        "wrong": row.get("judged", False) or (label is not None and label != row["predicted"]),
        "confidence": row["confidence"],
        "review": row.get("review"),
        "probs": [(name, prob) for prob, name in probs[:_PROBABILITIES]],
        "error": row.get("error"),
        "detail": row.get("error_detail"),
        "thumbnail": (thumbnails or {}).get(uri),
    }


def _strip(source: PageSource, thumbnails: Mapping[str, Thumbnail] | None) -> Values:
    """The tiles of groups: their image, and how many of their images say what."""
    levels = len(source.figures.get("group_levels", ()))
    tiles = []
    for row in source.strip:
        said = sorted(((n, name) for name, n in row["images"].items() if n), key=lambda each: (-each[0], each[1]))
        tile: Values = {
            "group": text.group_name(row["group"], levels),
            "said": [(name, n) for n, name in said[:_PROBABILITIES]],
            "others": len(said) - _PROBABILITIES,
            "ok": sum(n for n, _ in said),
            "thumbnail": (thumbnails or {}).get(row["uri"]),
            "name": text.cut(row["uri"].rpartition("/")[2] or row["uri"], 60),
            "shown_uri": text.cut(row["uri"], 300),
        }
        tiles.append(tile | {name: row[name] for name in ("predicted", "confidence", "label", "wrong")})
    return {
        "tiles": tiles,
        "most": MOST_STRIP,
        "left_out": source.strip_groups - len(tiles),
        "unscored": source.strip_unscored,
        "level": source.strip_level,
    }


def _cell_links(tiles: list[Values]) -> dict[str, dict[str, int]]:
    """The tile that a cell of the confusion leads to, by label and prediction."""
    links: dict[str, dict[str, int]] = {}
    for tile in tiles:
        if tile["judged"]:  # it is in no cell
            continue
        links.setdefault(tile["label"], {}).setdefault(tile["predicted"], tile["number"])
    return links
