"""The border between names and pseudonyms: a listing goes in, and comes out with a pseudonym in place of each name.

Nothing after it knows the names; they wait in a local scratch file until they are kept in the folder of the user, which
is before the run names a pseudonym of them.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import BadRequest, BrainrayError
from brainray.inputs.archives import split_refusal
from brainray.inputs.archives.index import keep
from brainray.inputs.listed_image import LISTED_SCHEMA, UriIndex, few_collections, tables_in, with_values
from brainray.inputs.listing import Listing
from brainray.machine.ahead import map_ahead
from brainray.scoring.manifest import Shard, read_shard

from .errors import hidden
from .key import OPTION, Pseudonyms
from .names import NAMES_SCHEMA, RealNames, with_real

_THREADS = 8
_SUFFIX, _OTHER_SUFFIX = "suffix ", "other suffix"  # reasons to pass a file over that are a part of its name


@dataclass(frozen=True, kw_only=True)
class ListedNames:
    """The names of a listing, in its order, in a local file of `NAMES_SCHEMA`."""

    pseudonyms: Pseudonyms
    path: str
    indexes: str  # the folder that keeps the indexes of archives, whose members they name

    @property
    def real(self) -> RealNames:
        return RealNames(self.pseudonyms.folder)

    def check(self, shards: Sequence[Shard], texts: Iterable[str] = ()) -> None:
        """Raise `BadRequest` where the folder has lost names of shards, groups or `texts` that the run has already."""
        lost = self.real.lost(shard.shard_id for shard in shards)
        if lost:
            why = next(iter(lost.values()))
            more = f", and {len(lost) - 1:,} more" if len(lost) > 1 else ""
            self._refuse(f"{len(lost):,} of {len(shards):,} shards ({why}{more})")
        known = self.real.texts().keys() | self.pseudonyms.texts.keys()
        unknown = {*texts, *_groups_of(shards)} - known
        if unknown:
            self._refuse(
                f"{len(unknown):,} groups or options of the run ({min(unknown)}); a file texts-*.parquet is gone"
            )

    def _refuse(self, lost: str) -> NoReturn:
        raise BadRequest(
            f"{OPTION} {self.pseudonyms.folder} has lost the names of {lost}; restore that folder, or give another "
            "--output"
        )

    def keep_texts(self) -> None:
        """Write the texts of the listing that the folder does not have, as one that was lost."""
        self.real.write_texts(self.pseudonyms.texts)

    def keep(self, shards: Sequence[Shard]) -> None:
        """Write key, texts, and the names of those shards that the folder does not have; each file is durable."""
        self.pseudonyms.write_key()
        self.keep_texts()
        missing = self.real.lost(shard.shard_id for shard in shards)
        names = _Names(tables_in(self.path))
        found = (
            (shard.shard_id, names.of(read_shard(shard)["uri"].combine_chunks()))
            for shard in shards
            if shard.shard_id in missing
        )
        for _ in map_ahead(lambda each: self.real.write_shard(*each), found, threads=_THREADS):
            pass

    def keep_indexes(self, paths: Sequence[str]) -> None:
        """Keep the indexes of archives of the listing, and no others of this run."""
        storage.make_private(self.indexes)
        keep(paths, self.indexes, storage.PRIVATE)

    def rows(self, rows: pa.Table) -> pa.Table:
        """Rows of the manifest with their real names, before any is kept; those that are gone come last, unchanged."""
        wanted = rows["uri"].combine_chunks()
        found = (table.filter(pc.is_in(table["pseudonym"], wanted)) for table in tables_in(self.path))
        known = pa.concat_tables([NAMES_SCHEMA.empty_table(), *found]).combine_chunks()
        is_there = pc.is_in(rows["uri"], known["pseudonym"].combine_chunks())
        there = with_real(rows.filter(is_there), known, self.pseudonyms.folder)
        return pa.concat_tables([there, rows.filter(pc.invert(is_there)).cast(there.schema)])

    def first_rows(self, listing: Listing) -> pa.Table:
        """The first rows of the listing with their real names."""
        names = next(tables_in(self.path))
        return with_real(next(listing.batches()), names, self.pseudonyms.folder)


def _groups_of(shards: Sequence[Shard]) -> set[str]:
    """The groups in local manifest files."""
    found: set[str] = set()
    for path in dict.fromkeys(shard.manifest_uri for shard in shards):
        for table in tables_in(path, ["group"]):
            found.update(table["group"].unique().drop_null().to_pylist())
    return found


class _Names:
    """The names of shards one after the other; new shards have the order of the listing."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._held = NAMES_SCHEMA.empty_table()

    def of(self, pseudonyms: pa.Array) -> pa.Table:
        """The names of the images of the next shard. Memory does not grow with what is passed over."""
        first = self._held.slice(0, len(pseudonyms))
        if first["pseudonym"].combine_chunks().equals(pseudonyms):  # most often, in a first run
            self._held = self._held.slice(len(pseudonyms))
            return first
        found = NAMES_SCHEMA.empty_table()
        while True:
            places = np.flatnonzero(pc.is_in(self._held["pseudonym"], pseudonyms).to_numpy())
            found = pa.concat_tables([found, self._held.take(places)]).combine_chunks()
            order = pc.index_in(pseudonyms, found["pseudonym"].combine_chunks())
            if not order.null_count:
                self._held = self._held.slice(int(places[-1]) + 1 if len(places) else 0)
                return found.take(order)
            table = next(self._tables, None)
            if table is None:
                raise BrainrayError("images of a new shard are not in the listing; run the same command again")
            self._held = table.combine_chunks()


def pseudonymised(
    found: Listing, pseudonyms: Pseudonyms, *, levels: int, given: pa.Table | None, indexes: str
) -> tuple[Listing, ListedNames]:
    """The listing with pseudonyms, and its names; the listing of before is deleted.

    `levels` are those of its groups. `given` are labels by pseudonym, which win over those of the listing. `indexes` is
    the folder for those of archives.
    """
    path, names_path = f"{found.path}.public", f"{found.path}.real"
    given_at = None if given is None else UriIndex(given["uri"].combine_chunks())
    labelled = 0
    with (
        few_collections(),
        pq.ParquetWriter(path, LISTED_SCHEMA, compression="zstd") as public,
        pq.ParquetWriter(names_path, NAMES_SCHEMA, compression="zstd") as private,
    ):
        for rows in found.batches():
            table, names = _split(rows, pseudonyms, levels)
            if given is not None and given_at is not None and len(given):
                labels = given["label"].take(given_at.find(table["uri"].combine_chunks()))
                table = with_values(table, "label", pc.coalesce(labels, table["label"]))
            public.write_table(table)
            private.write_table(names)
            labelled += len(table) - table["label"].null_count
    os.unlink(found.path)
    skipped: Counter[str] = Counter()
    for reason, count in found.skipped.items():
        skipped[_OTHER_SUFFIX if reason.startswith((_SUFFIX, _OTHER_SUFFIX)) else reason] += count
    listing = replace(found, path=path, labelled=labelled, skipped=dict(sorted(skipped.items())))
    return listing, ListedNames(pseudonyms=pseudonyms, path=names_path, indexes=indexes)


def _split(rows: pa.Table, pseudonyms: Pseudonyms, levels: int) -> tuple[pa.Table, pa.Table]:
    """Rows of a listing with pseudonyms, and their names."""
    uris, containers = rows["uri"].to_pylist(), rows["container"].to_pylist()
    places = zip(*(rows[name].to_pylist() for name in ("offset", "size_bytes", "stored_bytes")), strict=True)
    hidden_uris = list(map(pseudonyms.of_image, uris, containers, places))
    hidden_containers = [None if each is None else pseudonyms.of_file(each) for each in containers]
    refused = [
        None if text is None else _refused(text, hidden_uri, uri)
        for text, hidden_uri, uri in zip(rows["refused"].to_pylist(), hidden_uris, uris, strict=True)
    ]
    groups = [pseudonyms.of_group(group, levels) for group in rows["group"].to_pylist()]
    names = pa.table([hidden_uris, uris, containers], schema=NAMES_SCHEMA)
    columns = {"uri": hidden_uris, "container": hidden_containers, "refused": refused, "group": groups}
    for name, values in columns.items():
        rows = with_values(rows, name, pa.array(values, pa.string()))
    return rows, names


def _refused(text: str, pseudonym: str, uri: str) -> str:
    error = split_refusal(text)
    return str(hidden(error, pseudonym, uri))
