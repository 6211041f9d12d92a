"""Writes `summary/maps.parquet`: for chosen rows of a run, the map of where the score came from.

The images are read from the archive again, shard by shard, and only the bytes that were scored get a map. torch is
imported where maps are made and nowhere else; kept maps are read without it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.callbacks import Say
from brainray.config import Explain
from brainray.errors import BadRequest, BrainrayError, ImageError, Outage, StorageError
from brainray.imaging.decode import Decoded, decode
from brainray.inputs.frames.sources import Image
from brainray.inputs.listed_image import CHUNK_ROWS
from brainray.inputs.ranges import plan_reads
from brainray.inputs.reader import Reader, reads_in_flight
from brainray.inputs.shard_slices import slices
from brainray.models.bundle import SHIPPED, Bundle, load_bundle, named
from brainray.models.map_values import ImageMaps, class_order
from brainray.page.maps import CellMap
from brainray.page.tiles import choose, pictured
from brainray.scoring.manifest import Shard, load_shards, read_shard
from brainray.scoring.maps.of_shard import for_review
from brainray.scoring.maps.table import FINGERPRINT, MAPS_SCHEMA, map_rows
from brainray.scoring.parts import part_uri, present_shards
from brainray.scoring.prediction_schema import prob_column
from brainray.scoring.pseudonyms.names import KeyedNames
from brainray.scoring.run_folder import MANIFEST
from brainray.storage.scratch import scratch_folder

from .highlights import Highlights

if TYPE_CHECKING:
    from brainray.models.maps import ClassMaps

MAPS = "maps.parquet"  # in the summary
_BATCH = 32
_ROW_GROUP = 4_096  # rows; small groups take more than their maps
_NUMBERED = "first"


@dataclass(kw_only=True)
class MapsWritten:
    """How many of the maps that were asked for were made, how many were there, and why other rows have none."""

    images: int = 0  # made now
    there: int = 0  # of an earlier report, of the same content
    missing: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        if not (self.images or self.there or self.missing):
            return "no map was made, because no scored image of this run is among those that were asked for"
        made = f"{self.images:,} maps" + (f", and {self.there:,} that were there already" if self.there else "")
        return made + (f"; without one: {self.reasons}" if self.missing else "")

    @property
    def reasons(self) -> str:
        """How many images have no map, by reason."""
        return ", ".join(f"{images:,} {why}" for why, images in sorted(self.missing.items()))


def bundle_of_run(run: Mapping[str, Any], model: str | None) -> Bundle:
    """The model of a run, which must be the very one; `model` names where it is now. Raises `BadRequest`."""
    uri = named(model or run.get("model") or SHIPPED)
    try:
        bundle = load_bundle(uri)
    except BadRequest as exc:
        raise BadRequest(f"--explain needs the model of the run, with --model where it was moved to: {exc}") from exc
    if bundle.fingerprint != run.get("fingerprint"):
        raise BadRequest(
            f"--explain: the run is of model {run.get('fingerprint')}, and {uri} holds {bundle.fingerprint}; "
            "name the folder of the run's model with --model"
        )
    return bundle


class MapSource(Protocol):
    """Adds maps to those of a summary: made now, or while the images were scored."""

    def write(
        self,
        run_uri: str,
        run: Mapping[str, Any],
        folder: str,
        highlights: Highlights,
        failures: Mapping[str, int],
        writer: storage.Writer,
    ) -> object: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class MapMaker:
    """Makes the maps of a run: its model, loaded, and which images are asked for."""

    bundle: Bundle
    maps: "ClassMaps"
    explain: Explain
    say: Say
    names: KeyedNames | None = None  # those behind the pseudonyms of the run, if it has any
    written: MapsWritten = field(default_factory=MapsWritten)

    @classmethod
    def of_run(
        cls, run: Mapping[str, Any], explain: Explain, *, model: str | None, say: Say, names: KeyedNames | None = None
    ) -> Self:
        """Load the model of a run. Raises `BadRequest` where it is not there, or has no exact maps."""
        bundle = bundle_of_run(run, model)
        from brainray.models.maps import ClassMaps  # torch, which a report needs for nothing else

        return cls(bundle=bundle, maps=ClassMaps(bundle), explain=explain, say=say, names=names)

    def write(
        self,
        run_uri: str,
        run: Mapping[str, Any],
        folder: str,
        highlights: Highlights,
        failures: Mapping[str, int],
        writer: storage.Writer,
    ) -> None:
        """Add to maps.parquet in `folder`: first of the page's images, then of the review list.

        Maps of the same model and content that are there stay, and are not made again. Those of another model go.
        Where no map is made, nothing else is written.
        """
        first = chosen(highlights, failures, self.explain)
        delete_others(folder, self.bundle.fingerprint, writer)
        uri = storage.join(folder, MAPS)
        add_maps(uri, self._blocks(run_uri, run, first, _there(uri)), self.bundle.fingerprint, writer)
        self.say(f"--explain: {self.written}")

    def check(self) -> None:
        """Raise `BrainrayError` where every map that was asked for, one or more, could not be made."""
        if self.written.missing and not (self.written.images or self.written.there):
            raise BrainrayError(
                f"--explain: no map could be made ({self.written.reasons}); maps need the images as they were scored, "
                "at their place then. The summary is written"
            )

    def _blocks(
        self,
        run_uri: str,
        run: Mapping[str, Any],
        first: Mapping[str, str],
        there: pa.Table,
    ) -> Iterator[pa.Table]:
        """New rows of maps.parquet, which holds those of `there`. Raises `Outage` where the storage fails."""
        reader = Reader(roots=self.names.inputs(run) if self.names else run.get("inputs") or ())
        try:
            for shard in _shards(run_uri, run, self.explain, first):
                wanted = _wanted(run_uri, shard, self.bundle.classes, self.explain, first)
                new = _without(wanted, there)
                self.written.there += len(wanted) - len(new)
                yield from _blocks(new, reader, self)
        except Outage as exc:
            raise Outage("--explain: the images cannot be read again; is the input still mounted?") from exc


def chosen(highlights: Highlights, failures: Mapping[str, int], explain: Explain) -> dict[str, str]:
    """The first images of the page and then of the review list, by URI, with their shard."""
    listed = (highlights.rows[kind].to_pylist() for kind in ("mistake", "judged", "unsure"))
    rows = chain(pictured(choose(highlights, failures)), *listed)
    return dict(list({row["uri"]: row["shard_id"] for row in rows}.items())[: explain.most])


def _there(uri: str) -> pa.Table:
    """URI and content of the images that have a map in a file; no rows where there is no file."""
    names = ["uri", "content_hash"]
    if not storage.exists(uri):
        return MAPS_SCHEMA.empty_table().select(names)
    with storage.open_parquet(uri) as file:
        return file.read(columns=names).combine_chunks()


def _without(rows: pa.Table, there: pa.Table) -> pa.Table:
    """The rows of images of which there is no map with the same content."""
    places = pc.index_in(rows["uri"], there["uri"].combine_chunks())
    same = pc.equal(there["content_hash"].take(places), rows["content_hash"])
    return rows.filter(pc.invert(pc.fill_null(same, False)))


def there_of(uri: str, wanted: pa.Array) -> int:
    """The number of wanted images that have a map in a file, if it is there."""
    if not storage.exists(uri):
        return 0
    with storage.open_parquet(uri) as file:
        batches = storage.batches_of(file, CHUNK_ROWS, ["uri"])
        return sum(pc.sum(pc.is_in(batch["uri"], wanted)).as_py() or 0 for batch in batches)


def add_maps(uri: str, blocks: Iterator[pa.Table], fingerprint: str, writer: storage.Writer) -> None:
    """Add rows to a file of maps, in place of those of the same images. Without a row nothing is written."""
    earlier, rows = uri if storage.exists(uri) else None, 0
    schema = MAPS_SCHEMA.with_metadata({FINGERPRINT: fingerprint.encode()})
    with scratch_folder() as scratch:
        path = f"{scratch}/{MAPS}"
        with pq.ParquetWriter(path, schema, compression="zstd") as file:
            for block in slices(_with_others(blocks, earlier), _ROW_GROUP):
                rows += len(block)
                file.write_table(block)
        if rows:
            writer.write_bytes(uri, storage.read_bytes(path))


def _with_others(blocks: Iterator[pa.Table], uri: str | None) -> Iterator[pa.Table]:
    """New rows, and after them the rows of a file of earlier ones, but for those of the same images."""
    if uri is None:
        yield from blocks
        return
    made = []
    for block in blocks:
        made.append(block["uri"])
        yield block
    if not made:
        return
    replaced = pa.concat_arrays([chunk for column in made for chunk in column.chunks])
    with storage.open_parquet(uri) as file:
        for batch in storage.batches_of(file, 1_000):
            kept = batch.filter(pc.invert(pc.is_in(batch["uri"], replaced)))
            yield pa.Table.from_batches([kept]).cast(MAPS_SCHEMA)


def _shards(run_uri: str, run: Mapping[str, Any], explain: Explain, chosen: Mapping[str, str]) -> Iterator[Shard]:
    """The shards that hold rows that were asked for."""
    present, named_shards = present_shards(run_uri), set(chosen.values())
    for name in run.get("manifest") or ():
        for shard in load_shards([storage.join(run_uri, MANIFEST, name)]):
            if shard.shard_id in present and (explain.which != _NUMBERED or shard.shard_id in named_shards):
                yield shard


def _wanted(
    run_uri: str, shard: Shard, classes: Sequence[str], explain: Explain, chosen: Mapping[str, str]
) -> pa.Table:
    """The rows of a shard that get a map: those of the manifest, with hash and probabilities of the part."""
    probs = [prob_column(name) for name in classes]
    names = ["uri", "status", "label", "predicted", "review", "content_hash", *probs]
    with storage.open_parquet(part_uri(run_uri, shard.shard_id)) as file:
        part = file.read(columns=names, use_threads=False)
    wanted = pc.equal(part["status"], "ok")
    if explain.which != "all":
        asked = pc.is_in(part["uri"], pa.array(list(chosen), pa.string()))
        if explain.which == "review":
            asked = pc.or_(asked, for_review(part, tuple(classes)))
        wanted = pc.and_(wanted, asked)
    part = part.filter(wanted)
    listed = read_shard(shard)
    places = pc.index_in(part["uri"], listed["uri"].combine_chunks())
    part = part.filter(pc.is_valid(places))
    rows = listed.take(places.drop_null())
    for name in ("content_hash", *probs):
        rows = rows.append_column(name, part[name])
    return rows


def _blocks(wanted: pa.Table, reader: Reader, maker: MapMaker) -> Iterator[pa.Table]:
    """The rows of maps.parquet for the rows of a shard, a batch at a time."""
    bundle, maps, written = maker.bundle, maker.maps, maker.written
    unread = pc.or_(wanted["gone"], pc.is_valid(wanted["refused"]))
    if gone := pc.sum(unread).as_py():
        written.missing["gone"] += gone
    wanted = wanted.filter(pc.invert(unread))
    real = maker.names.rows(wanted) if maker.names else wanted
    for start, images in _in_batches(_read(real, reader)):
        rows = wanted.slice(start, len(images))
        hashes = rows["content_hash"].to_pylist()
        decoded = [_decoded(*each, bundle, written) for each in zip(images, hashes, strict=True)]
        there = [each for each in decoded if each is not None]
        if there:
            kept = rows.filter(pa.array([each is not None for each in decoded]))
            made = _made(kept, np.stack([each.pixels for each in there]), bundle, maps)
            squares = np.array([each.square for each in there])
            yield map_rows(kept, made, bundle.classes, squares, maps.grid.box, bundle.image.image_px)
            written.images += len(there)


def _made(rows: pa.Table, pixels: npt.NDArray[np.uint8], bundle: Bundle, maps: "ClassMaps") -> ImageMaps:
    """The maps of images; `rows` have the probabilities by which the classes of each are ordered."""
    values_NKhw, logits_NK = maps(pixels)
    order_NC = class_order(np.stack([rows[prob_column(name)].to_numpy() for name in bundle.classes], axis=1))
    return ImageMaps(
        order_NC=order_NC,
        values_NChw=np.take_along_axis(values_NKhw, order_NC[:, :, None, None], axis=1).astype(np.float16),
        logits_NC=np.take_along_axis(logits_NK, order_NC, axis=1),
        biases_NC=maps.biases[order_NC],
    )


def _read(rows: pa.Table, reader: Reader) -> Iterator[Image]:
    """The bytes or the error of each image, in order."""
    ahead = reads_in_flight(rows["uri"].to_pylist())
    with ThreadPoolExecutor(ahead + 1, thread_name_prefix="read") as pool:
        for read in reader.read_ahead(list(plan_reads(rows)), pool, ahead=ahead):
            yield from read.images


def _in_batches(images: Iterator[Image]) -> Iterator[tuple[int, list[Image]]]:
    """The images in lists of `_BATCH`, with the place of the first."""
    start, held = 0, []
    for image in images:
        held.append(image)
        if len(held) == _BATCH:
            yield start, held
            start, held = start + _BATCH, []
    if held:
        yield start, held


def _decoded(image: Image, content_hash: str | None, bundle: Bundle, written: MapsWritten) -> Decoded | None:
    """The image, if its bytes are those that were scored; else the reason is counted."""
    if isinstance(image, ImageError):
        written.missing["gone" if image.reason == "not_found" else "unreadable"] += 1
        return None
    if content_hash is not None and hashlib.sha256(image).hexdigest() != content_hash:
        written.missing["changed since they were scored"] += 1
        return None
    try:
        return decode(image, bundle.image)
    except ImageError:
        written.missing["unreadable"] += 1
        return None


def delete_others(folder: str, fingerprint: str, writer: storage.Writer) -> None:
    """Delete the maps of another model."""
    uri = storage.join(folder, MAPS)
    if not storage.exists(uri):
        return
    with suppress(StorageError), storage.open_parquet(uri) as file:
        if (file.schema_arrow.metadata or {}).get(FINGERPRINT) == fingerprint.encode():
            return
    writer.delete(uri)


def maps_of(folder: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, CellMap]:
    """The maps of rows by URI, as far as there are any of the content that was scored."""
    uri = storage.join(folder, MAPS)
    hashes = {row["uri"]: row["content_hash"] for row in rows}
    if not hashes or not storage.exists(uri):
        return {}
    found: dict[str, CellMap] = {}
    wanted = pa.array(list(hashes), pa.string())
    with storage.open_parquet(uri) as file:
        for batch in storage.batches_of(file, 1_000):
            for row in batch.filter(pc.is_in(batch["uri"], wanted)).to_pylist():
                if row["content_hash"] == hashes[row["uri"]] and len(row["classes"]) > 1:
                    found[row["uri"]] = _cell_map(row)
    return found


def _cell_map(row: Mapping[str, Any]) -> CellMap:
    """The difference between the map of the predicted class and that of the runner-up."""
    maps = np.array(row["values"], np.float32).reshape(-1, row["rows"], row["columns"])
    return CellMap(
        values=maps[0] - maps[1],
        predicted=row["classes"][0],
        runner_up=row["classes"][1],
        box=(row["left"], row["top"], row["right"], row["bottom"]),
    )
