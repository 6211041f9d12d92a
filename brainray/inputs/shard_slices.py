"""Cuts a listing into slices, each of which becomes a shard."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

_SHARD_IMAGES = 1000
# Small inputs get smaller shards, so that every core has work and the last shards end together.
_SHARDS_AT_LEAST = 16
_SHARD_IMAGES_AT_LEAST = 64


def shard_size_for(images: int, wanted: int | None) -> int:
    """Images per shard. Depends on the listing only, so that shards are the same on every machine."""
    if wanted is not None:
        return wanted
    return max(_SHARD_IMAGES_AT_LEAST, min(_SHARD_IMAGES, -(-images // _SHARDS_AT_LEAST)))


def slices(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in the same order, `rows` at a time; the last may have fewer."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while len(held) >= rows:
            yield held.slice(0, rows).combine_chunks()
            held = held.slice(rows)
    if held is not None and len(held):
        yield held.combine_chunks()
