"""Verifies a run: every image of the manifest has exactly one row, in a readable part of this model.

This holds because the URIs of the manifest are unique and each part has the URIs of its shard, in their order. Must not
repair or delete anything.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import StorageError
from brainray.machine.ahead import map_ahead

from .manifest import Shard, load_shards, read_shard, repeated_uris
from .parts import part_info, part_uri, present_shards

_THREADS = 4
_SHOWN = 5  # problems and URIs named in a message


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The number of rows of a run, and the problems of its parts."""

    rows: int = 0
    failed: int = 0  # rows without a prediction
    problems: tuple[str, ...] = ()  # one clause each, naming the part and the images
    broken_shards: tuple[str, ...] = ()  # ids of shards whose part must be written again

    def __str__(self) -> str:
        more = f" and {len(self.problems) - _SHOWN} more" if len(self.problems) > _SHOWN else ""
        return "; ".join(self.problems[:_SHOWN]) + more


@dataclass(frozen=True)
class _PartCheck:
    """The rows and the problems of one part."""

    rows: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)


def verify_parts(
    run_uri: str,
    *,
    manifest_files: Sequence[str],
    fingerprint: str,
    deep: Callable[[Shard], bool] = lambda _: True,
) -> Verification:
    """Compare the parts of a run with its manifest, whose files are given as local copies.

    Of shards for which `deep` is true, all columns are read and compared with their checksums, which finds parts that
    were damaged after they were written; of others only the URIs.
    """
    rows = failed = 0
    shards = load_shards(manifest_files)
    problems = [f"{uri} is listed more than once" for uri in repeated_uris(manifest_files)]
    broken: list[str] = []
    checked = map_ahead(
        lambda shard: _check_part(run_uri, shard, fingerprint, deep=deep(shard)), shards, threads=_THREADS
    )
    for shard, check in zip(shards, checked, strict=True):
        rows, failed = rows + check.rows, failed + check.failed
        if check.problems:
            problems += check.problems
            broken.append(shard.shard_id)
    unknown = present_shards(run_uri) - {shard.shard_id for shard in shards}
    problems += [f"part-{shard_id}.parquet belongs to no shard" for shard_id in sorted(unknown)]
    return Verification(rows=rows, failed=failed, problems=tuple(problems), broken_shards=(*broken, *sorted(unknown)))


def _check_part(run_uri: str, shard: Shard, fingerprint: str, *, deep: bool) -> _PartCheck:
    """Compare a part with its shard. A missing or unreadable part is a problem, not an exception."""
    uri, name = part_uri(run_uri, shard.shard_id), f"part-{shard.shard_id}.parquet"
    expected = read_shard(shard, ["uri"])["uri"]
    try:
        with storage.open_parquet(uri, checksums=True) as file:
            info = part_info(uri, file)
            found = file.read(columns=None if deep else ["uri"], use_threads=False)["uri"]
    except StorageError as exc:
        defect = "is missing" if exc.reason == "not_found" else f"is damaged ({exc})"
        return _PartCheck(problems=[f"{name} {defect}, with the rows of {_some(expected)}"])
    problems = []
    if info.model != fingerprint:
        problems.append(f"{name} is of model {info.model}, not {fingerprint}")
    if info.digest != shard.digest or info.shard_id != shard.shard_id:
        problems.append(f"{name} was written for other rows of the manifest")
    if not found.equals(expected):
        problems += [f"{name} {difference}" for difference in _differences(found, expected)]
    return _PartCheck(rows=len(found), failed=info.failed, problems=problems)


def _differences(found: pa.ChunkedArray, expected: pa.ChunkedArray) -> Iterator[str]:
    """Clauses that name how the URIs of a part differ from those of its shard."""
    counts = found.value_counts()
    sets = {
        "lacks": expected.filter(pc.invert(pc.is_in(expected, found.combine_chunks()))),
        "has more than one row for": counts.field("values").filter(pc.greater(counts.field("counts"), 1)),
        "has rows of another shard:": found.filter(pc.invert(pc.is_in(found, expected.combine_chunks()))),
    }
    clauses = [f"{verb} {_some(uris)}" for verb, uris in sets.items() if len(uris)]
    yield from clauses or ["has its rows in another order"]


def _some(uris: pa.Array | pa.ChunkedArray) -> str:
    """The first URIs as text, and the number of others."""
    shown = ", ".join(uris.slice(0, _SHOWN).to_pylist())
    return shown + (f" and {len(uris) - _SHOWN:,} more" if len(uris) > _SHOWN else "")
