"""Proof that a run is what it says: every image of the manifest has one row, in a readable part of this model.

Manifest URIs are unique, and each part holds just the URIs of its shard in their order: so each image has one row.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import StorageError

from .manifest import Shard, load_shards, read_shard, repeated_uris
from .parts import part_info, part_uri, present_shards

_THREADS = 4
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What the part files of a run hold, added up, and what is wrong with them."""

    rows: int = 0
    failed: int = 0
    wrong: tuple[str, ...] = ()  # one clause each, naming the part and the images
    broken: tuple[str, ...] = ()  # shards whose part must be written anew

    def __str__(self) -> str:
        more = f" and {len(self.wrong) - _SHOWN} more" if len(self.wrong) > _SHOWN else ""
        return "; ".join(self.wrong[:_SHOWN]) + more


@dataclass(frozen=True)
class _Checked:
    rows: int = 0
    failed: int = 0
    wrong: list[str] = field(default_factory=list)


def verify_parts(
    run_uri: str,
    *,
    manifest_files: Sequence[str],
    fingerprint: str,
    deep: Callable[[Shard], bool] = lambda _: True,
) -> Verification:
    """Compare the parts of a run with its manifest, whose files are given as local copies.

    Of shards that are to be looked at `deep`, every column is read and the checksum of every page compared, which finds
    what has been damaged since it was written; of others the URIs.
    """
    rows = failed = 0
    shards = load_shards(manifest_files)
    wrong = [f"{uri} is listed more than once" for uri in repeated_uris(manifest_files)]
    broken: list[str] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        checked = pool.map(lambda shard: _check_part(run_uri, shard, fingerprint, deep=deep(shard)), shards)
        for shard, found in zip(shards, checked, strict=True):
            rows, failed = rows + found.rows, failed + found.failed
            if found.wrong:
                wrong += found.wrong
                broken.append(shard.shard_id)
    unknown = present_shards(run_uri) - {shard.shard_id for shard in shards}
    wrong += [f"part-{shard_id}.parquet belongs to no shard" for shard_id in sorted(unknown)]
    return Verification(rows=rows, failed=failed, wrong=tuple(wrong), broken=(*broken, *sorted(unknown)))


def _check_part(run_uri: str, shard: Shard, fingerprint: str, *, deep: bool) -> _Checked:
    uri, name = part_uri(run_uri, shard.shard_id), f"part-{shard.shard_id}.parquet"
    expected = read_shard(shard)["uri"]
    try:
        with storage.open_parquet(uri, checksums=True) as file:
            info = part_info(uri, file)
            found = file.read(columns=None if deep else ["uri"], use_threads=False)["uri"]
    except StorageError as exc:
        why = "is missing" if exc.reason == "not_found" else f"is damaged ({exc})"
        return _Checked(wrong=[f"{name} {why}, with the rows of {_some(expected)}"])
    wrong = []
    if info.model != fingerprint:
        wrong.append(f"{name} is of model {info.model}, not {fingerprint}")
    if info.digest != shard.digest or info.shard_id != shard.shard_id:
        wrong.append(f"{name} was written for other rows of the manifest")
    if not found.equals(expected):
        wrong += [f"{name} {complaint}" for complaint in _differences(found, expected)]
    return _Checked(rows=len(found), failed=info.failed, wrong=wrong)


def _differences(found: pa.ChunkedArray, expected: pa.ChunkedArray) -> Iterator[str]:
    counts = found.value_counts()
    sets = {
        "lacks": expected.filter(pc.invert(pc.is_in(expected, found.combine_chunks()))),
        "has more than one row for": counts.field("values").filter(pc.greater(counts.field("counts"), 1)),
        "has rows of another shard:": found.filter(pc.invert(pc.is_in(found, expected.combine_chunks()))),
    }
    named = [f"{what} {_some(uris)}" for what, uris in sets.items() if len(uris)]
    yield from named or ["has its rows in another order"]


def _some(uris: pa.Array | pa.ChunkedArray) -> str:
    shown = ", ".join(uris.slice(0, _SHOWN).to_pylist())
    return shown + (f" and {len(uris) - _SHOWN:,} more" if len(uris) > _SHOWN else "")
