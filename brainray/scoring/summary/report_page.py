"""Makes the page of a run: finds its images in the manifest, has their thumbnails made, and renders it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import StorageError
from brainray.page.render import render
from brainray.page.sections import PageSource
from brainray.page.thumbnails import ROWS_SCHEMA, Thumbnail, make_thumbnails
from brainray.page.tiles import Row, choose, pictured
from brainray.scoring.manifest import Shard, load_shards, read_shard
from brainray.scoring.pseudonyms.key import FIELD as PSEUDONYMS
from brainray.scoring.pseudonyms.names import RealNames
from brainray.scoring.run_folder import MANIFEST, SUMMARY

from .group_levels import depth
from .group_strip import strip_rows
from .highlights import Highlights
from .maps import maps_of

_THREADS = 8


def report_page(
    run_uri: str,
    run: Mapping[str, Any],
    figures: Mapping[str, Any],
    *,
    confusion: pa.Table,
    per_class: pa.Table,
    highlights: Highlights,
    series: Sequence[Mapping[str, Any]] = (),
    previous: Mapping[str, Any] | None,
    thumbnails: bool,
    names: RealNames | None = None,
) -> bytes:
    """The bytes of report.html. Reads the images that it shows, unless it has no thumbnails."""
    grouped = bool(figures["groups"])
    parts = choose(highlights, figures["failures"], grouped=grouped)
    strip = strip_rows(run_uri, figures) if grouped else ()
    levels = figures["group_levels"]
    level = depth(levels)
    strip_level = levels[-1 if level is None else level - 1] if grouped else ""
    unscored = figures["groups_unscored"][strip_level] if grouped else 0
    source = PageSource(
        run_uri=run_uri,
        run=dict(run),
        figures=dict(figures),
        confusion=confusion,
        per_class=per_class,
        parts=parts,
        previous=None if previous is None else dict(previous),
        series=[dict(row) for row in series],
        strip=strip,
        strip_groups=figures["group_counts"][strip_level] - unscored if grouped else 0,
        strip_unscored=unscored,
        strip_level=strip_level if len(levels) > 1 else "group",
    )
    shown = [*pictured(parts), *strip]
    pictures = thumbnails_of(run_uri, run, shown, names) if thumbnails else None
    maps = maps_of(storage.join(run_uri, SUMMARY), pictured(parts)) if thumbnails else {}
    return render(source, pictures, maps).encode()


def thumbnails_of(
    run_uri: str, run: Mapping[str, Any], rows: Sequence[Row], names: RealNames | None
) -> dict[str, Thumbnail] | None:
    """The thumbnails of rows, by URI; None for a run with pseudonyms whose names are not known."""
    if names is None and run.get(PSEUDONYMS) is not None:
        return None
    wanted = pa.table(
        {name: pa.array([row[name] for row in rows], pa.string()) for name in ("uri", "content_hash", "shard_id")}
    )
    folder = storage.join(run_uri, MANIFEST)
    manifest = (run.get("manifest") or ()) if rows else ()
    shard_ids = set(wanted["shard_id"].to_pylist())
    unknown = {row["uri"]: Thumbnail(missing="the manifest does not hold it") for row in rows}
    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="manifest") as pool:
            files = pool.map(lambda name: load_shards([storage.join(folder, name)]), manifest)
            shards = [shard for shards in files for shard in shards if shard.shard_id in shard_ids]
            tables = list(pool.map(lambda shard: _listed(shard, wanted), shards))
        if not tables:
            return unknown
        listed = pa.concat_tables(tables)
        real = listed if names is None else names.rows(listed)
    except StorageError:  # a damaged manifest costs the pictures; `report --verify` names it
        return unknown
    made = make_thumbnails(real)
    known_as = dict(zip(real["uri"].to_pylist(), listed["uri"].to_pylist(), strict=True))
    return unknown | {known_as[uri]: thumbnail for uri, thumbnail in made.items()}


def _listed(shard: Shard, wanted: pa.Table) -> pa.Table:
    """The rows of `ROWS_SCHEMA` of the wanted images of a shard, with their shard."""
    listed = read_shard(shard)
    found = listed.filter(pc.is_in(listed["uri"], wanted["uri"].combine_chunks()))
    places = pc.index_in(found["uri"], wanted["uri"].combine_chunks())
    hashes = wanted["content_hash"].take(places)
    return found.append_column("content_hash", hashes).select([*ROWS_SCHEMA.names, "shard_id"])
