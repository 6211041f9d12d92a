"""The images of a run that a sample is drawn from, read part by part: memory does not grow with their number.

They are the scored images that the model has not learned from. Those with a label are counted, and only the others are
drawn. A group is drawn as a whole where that is asked for; the groups of a run are held in memory.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray.errors import BadRequest
from brainray.evaluation.counts import UNITS, Ints
from brainray.evaluation.sampling import BINS, STRATA, Strata, cut_strata, draw_order, error_bin, stratum_of
from brainray.scoring.parts import open_part, part_uri, present_shards, read_parts
from brainray.scoring.prediction_schema import prob_column
from brainray.scoring.run_folder import later_columns
from brainray.scoring.summary.group_levels import cut

_HELD = 16  # tables
_COLUMNS = ("uri", "label", "predicted", "confidence", "status", "group", "content_hash", "shard_id")
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The run whose images are drawn, and how."""

    uri: str
    run: dict[str, Any]  # run.json
    seed: int
    depth: int | None = None  # levels of a group that is drawn as a whole; None: all of them
    by_group: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.run["classes"])

    def tables(self) -> Iterator[pa.Table]:
        """The population, part by part, with the column `unit`. Raises `BadRequest` for a run without parts."""
        uris = [part_uri(self.uri, shard_id) for shard_id in sorted(present_shards(self.uri))]
        if not uris:
            raise BadRequest(f"{self.uri}: nothing is scored yet; run `brainray score` with it as --output")
        yield from read_parts(self._table, uris)

    def _table(self, uri: str) -> pa.Table:
        seen = ["seen"] if "seen" in later_columns(self.run) else []
        columns = [*_COLUMNS, *seen, *map(prob_column, self.classes)]
        with open_part(uri, self.run["fingerprint"]) as (file, _):
            table = file.read(columns=columns, use_threads=False)
            counts = pc.equal(table["status"], "ok")
            if seen:
                counts = pc.and_(counts, pc.invert(pc.fill_null(table["seen"], False)))
            table = table.filter(counts)
            unit = pc.coalesce(cut(table["group"], self.depth), table["uri"]) if self.by_group else table["uri"]
            return table.append_column("unit", unit)

    def class_of(self, column: pa.ChunkedArray) -> Ints:
        """[N] the class of each value, -1 for none."""
        found = pc.index_in(column, value_set=pa.array(self.classes, pa.string()))
        return np.asarray(pc.fill_null(found, -1), np.int64)

    def hashes(self, names: pa.ChunkedArray) -> Hashes:
        """[N] random numbers of names, which depend on the seed and nothing else."""
        key = str(self.seed).encode()
        digests = b"".join(
            hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8, key=key).digest()
            for name in names.to_pylist()
        )
        return np.frombuffer(digests, ">u8").astype(np.uint64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """The images that were drawn, and the population that they stand for."""

    strata: Strata
    images: Ints  # [H]
    predicted: Ints  # [H, K]
    known: Ints  # [K, K] images with a label
    checksum: str  # of the names of the images: equal for equal populations
    rows: pa.Table  # in the order in which they are to be labelled, with `place`, `stratum` and `inclusion_probability`


@dataclass
class _Census:
    """Counts of the population: of its units by bin of expected error, or of each group."""

    known: Ints
    units: Ints = field(default_factory=lambda: np.zeros(BINS, np.int64))
    errors: Ints = field(default_factory=lambda: np.zeros(BINS, np.int64))
    groups: dict[str, list[int]] = field(default_factory=dict)  # images, expected errors in `UNITS`


def draw(source: Source, labels: int) -> Drawn:
    """Draw images for so many labels: always the same for one seed, and the first of those for more labels.

    Raises `BadRequest` where there is nothing to draw.
    """
    census = _count(source)
    strata = cut_strata(census.units, census.errors, strata=1 if source.by_group else STRATA)
    if not strata.units.sum():
        if census.known.sum():
            raise BadRequest(f"{source.uri}: each scored image has a label, so its summary has the accuracy already")
        raise BadRequest(f"{source.uri}: no image was scored that the model has not learned from; nothing can be drawn")
    order = draw_order(strata, labels)
    chosen = _choose(source, census, strata, order, labels)
    H, K = len(strata.units), len(source.classes)
    images, predicted, total = np.zeros(H, np.int64), np.zeros((H, K), np.int64), 0
    for table in source.tables():
        total = (total + int(source.hashes(table["uri"]).sum())) % 2**64
        table, stratum_N = _unlabelled(source, strata, table)
        images += np.bincount(stratum_N, minlength=H)
        np.add.at(predicted, (stratum_N, source.class_of(table["predicted"])), 1)
        chosen.add(table, stratum_N)
    return Drawn(
        strata=strata,
        images=images,
        predicted=predicted,
        known=census.known,
        checksum=f"{total:016x}",
        rows=chosen.ordered(),
    )


def _count(source: Source) -> _Census:
    K = len(source.classes)
    census = _Census(known=np.zeros((K, K), np.int64))
    for table in source.tables():
        label_N, predicted_N = source.class_of(table["label"]), source.class_of(table["predicted"])
        known_N = label_N >= 0
        np.add.at(census.known, (label_N[known_N], predicted_N[known_N]), 1)
        error_N = 1 - table["confidence"].to_numpy()[~known_N].astype(np.float64)
        units_N = np.rint(error_N * UNITS).astype(np.int64)
        if source.by_group:
            for name, error in zip(table["unit"].filter(pa.array(~known_N)).to_pylist(), units_N.tolist(), strict=True):
                entry = census.groups.setdefault(name, [0, 0])
                entry[0] += 1
                entry[1] += error
        else:
            np.add.at(census.units, error_bin(error_N), 1)
            np.add.at(census.errors, error_bin(error_N), units_N)
    for images, error in census.groups.values():
        place = error_bin(np.array([error / images / UNITS]))[0]
        census.units[place] += 1
        census.errors[place] += round(error / images)
    return census


def _unlabelled(source: Source, strata: Strata, table: pa.Table) -> tuple[pa.Table, Ints]:
    """The images without a label, and [N] the stratum of each; groups are of one."""
    table = table.filter(pa.array(source.class_of(table["label"]) < 0))
    error_N = 1 - table["confidence"].to_numpy().astype(np.float64)
    return table, stratum_of(error_bin(error_N), strata)


class _Chosen:
    """Keeps the units with the lowest hashes of each stratum, as many as are drawn from it."""

    def __init__(self, source: Source, strata: Strata, order: Ints) -> None:
        self._source, self._strata, self._order = source, strata, order
        self._drawn = np.bincount(order, minlength=len(strata.units))
        self._kept: list[pa.Table] = []

    def add(self, table: pa.Table, stratum_N: Ints) -> None:
        """Take the rows of a part."""
        table = table.append_column("stratum", pa.array(stratum_N, pa.int64()))
        table = table.append_column("hash", pa.array(self._source.hashes(table["unit"])))
        self._kept.append(self._lowest(table))
        if len(self._kept) > _HELD:
            self._kept = [self._lowest(pa.concat_tables(self._kept))]

    def _lowest(self, table: pa.Table) -> pa.Table:
        """The rows that may be drawn."""
        stratum_N = table["stratum"].to_numpy()
        return table.filter(pa.array(_rank(table["hash"].to_numpy(), stratum_N) < self._drawn[stratum_N]))

    def ordered(self) -> pa.Table:
        """The drawn rows in the order of labelling."""
        table = self._lowest(pa.concat_tables(self._kept)).combine_chunks()
        stratum_N = table["stratum"].to_numpy()
        rank_N = _rank(table["hash"].to_numpy(), stratum_N)
        turn = {(int(h), place): n for n, (h, place) in enumerate(_places(self._order))}
        turn_N = [turn[place] for place in zip(stratum_N.tolist(), rank_N.tolist(), strict=True)]
        table = table.append_column("turn", pa.array(turn_N, pa.int64()))
        shares_H = self._drawn / self._strata.units
        table = table.append_column("inclusion_probability", pa.array(shares_H[stratum_N]))
        table = table.sort_by([("turn", "ascending"), ("uri", "ascending")])
        return table.append_column("place", pa.array(np.arange(1, len(table) + 1))).drop_columns(["turn", "hash"])


def _rank(hash_N: Hashes, stratum_N: Ints) -> Ints:
    """[N] the place of the unit of each row among those of its stratum, by hash."""
    rank_N = np.zeros(len(hash_N), np.int64)
    for h in np.unique(stratum_N):
        rows = stratum_N == h
        rank_N[rows] = np.unique(hash_N[rows], return_inverse=True)[1]
    return rank_N


def _places(order: Ints) -> Iterator[tuple[int, int]]:
    """The stratum of each turn, and how often it was drawn from before."""
    before: dict[int, int] = {}
    for h in order.tolist():
        yield h, before.get(h, 0)
        before[h] = before.get(h, 0) + 1


def _choose(source: Source, census: _Census, strata: Strata, order: Ints, labels: int) -> _Chosen:
    """Which units are drawn: as `order` says, and of groups as many as it takes for so many labels.

    The last group may bring a few images more. To leave it out would leave out large groups more often than small ones.
    """
    if not source.by_group:
        return _Chosen(source, strata, order)
    names = list(census.groups)
    size_U = np.array([census.groups[name][0] for name in names])
    _check_sizes(size_U, labels)
    by_hash = np.argsort(source.hashes(pa.chunked_array([pa.array(names, pa.string())])))
    before = np.cumsum(size_U[by_hash]) - size_U[by_hash]
    return _Chosen(source, strata, order[: int((before < labels).sum())])


def _check_sizes(images_U: Ints, labels: int) -> None:
    """Raise `BadRequest` where a group has more images than labels: a person would be asked for too many."""
    large = images_U > labels
    if large.any():
        images, total = int(images_U[large].sum()), int(images_U.sum())
        raise BadRequest(
            f"--whole-groups: {large.sum():,} of {len(images_U):,} groups have more images than --labels {labels}, "
            f"{images:,} of {total:,} images ({images / total:.0%}); give --labels {int(images_U.max())} or more, "
            "or leave --whole-groups out"
        )
