"""What a run will hold, and what of it is still to be done: the listing compared with what lies there.

Manifest files are named by their content and run.json names them: writing it switches to the new ones at once.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from brainray import storage
from brainray.config import ScoreOptions
from brainray.errors import BadRequest, StorageError, VerificationError
from brainray.inputs import listing
from brainray.inputs.archives.index import FOLDER as CONTAINERS
from brainray.inputs.archives.index import ArchiveIndexes, keep
from brainray.inputs.listing import Lister, Listing
from brainray.storage import Writer
from brainray.versions import package_versions

from . import manifest
from .manifest import Changes, Shard
from .parts import part_uri, read_part_info
from .run_folder import (
    MANIFEST,
    RUN,
    SCHEMA_VERSION,
    SUCCESS,
    OutputState,
    ScoreRequest,
    copy_manifest,
    inspect_output,
    read_run,
    remove_leftovers,
)
from .shard_task import Target, open_shard
from .verify import Verification, verify_parts

_THREADS = 8
# What of run.json, if it differs, makes a run worth writing again. The rest says how it was made.
_SAYS = ("inputs", "images", "gone", "skipped", "group_by")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will hold and what of it is still to be done."""

    uri: str
    listing: Listing
    changes: Changes
    shards: tuple[Shard, ...]
    sources: tuple[str, ...]  # local copies of the manifest files; their names are those of the run
    indexes: tuple[str, ...]  # local copies of the indexes of containers
    pending: Mapping[str, int]  # shard id -> images to be scored, for each shard whose part is to be written
    stale: frozenset[str]  # shards that are no more
    before: OutputState
    described: dict[str, Any]  # run.json as it will be

    @property
    def todo(self) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.shard_id in self.pending)

    @property
    def images(self) -> int:
        return sum(shard.images for shard in self.shards)

    @property
    def todo_images(self) -> int:
        return sum(self.pending.values())

    @property
    def complete(self) -> bool:
        """Whether nothing needs to be scored or written."""
        before = self.before.run or {}
        said = all(before.get(name) == self.described[name] for name in _SAYS)
        return self.before.published and said and not (self.changes or self.pending or self.stale)


def list_inputs(
    request: ScoreRequest,
    path: str,
    indexes: ArchiveIndexes,
    *,
    extending: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Listing:
    """List all images into the local file `path`. Raises `BadRequest` for nothing, or labels that do not fit.

    When `extending` a run, labels may name images that are gone.
    """
    if request.label_file is not None:
        request.label_file.begin()
    roots = listing.distinct_inputs(request.inputs)
    lister = Lister(
        roots,
        indexes,
        classes=request.bundle.classes,
        output=request.output,
        label_file=request.label_file,
        group_by=request.options.group_by,
        include=request.options.include,
        exclude=request.options.exclude,
        keep=request.options.keep_columns,
    )
    found = listing.scan(lister, path, progress=progress)
    if lister.may_repeat:
        _check_distinct(path, roots)
    if found.images == 0:
        passed = ", ".join(f"{count} {reason}" for reason, count in found.skipped.items())
        raise BadRequest(
            f"--input {', '.join(roots)}: no image files found"
            + (f" (passed over: {passed})" if passed else "; the folder is empty")
        )
    if request.label_file is not None:
        request.label_file.check_all_used_once(some_may_be_gone=extending)
    return found


def _check_distinct(path: str, roots: Sequence[str]) -> None:
    repeated = manifest.repeated_uris([path])
    if repeated:
        raise BadRequest(
            f"--input {', '.join(roots)}: images are listed more than once ({', '.join(repeated)}); list each once"
        )


def plan_run(
    request: ScoreRequest,
    scratch: str,
    *,
    uri: str | None = None,
    seed: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """List the inputs and compare with what the run at `uri` (the output) holds. Reads only; `scratch` is local.

    A run that is not begun yet takes over the shards of the run `seed`, without the images that are gone.
    """
    uri = uri or request.output
    before = inspect_output(uri)
    with ArchiveIndexes(f"{scratch}/{CONTAINERS}", kept=storage.join(request.output, CONTAINERS)) as indexes:
        found = list_inputs(
            request, f"{scratch}/listing.parquet", indexes, extending=bool(before.run or seed), progress=progress
        )
    base = before.run or (read_run(seed) if seed else None)
    old = copy_manifest(uri if before.run else seed or uri, base["manifest"], f"{scratch}/old") if base else ()
    changes, shards, sources = _merge(old, found, request.options, scratch, forget=before.run is None)
    trusted = {shard.shard_id: shard.digest for shard in manifest.load_shards(old)} if before.published else {}
    target = request.target(uri, Writer())
    return Plan(
        uri=uri,
        listing=found,
        changes=changes,
        shards=shards,
        sources=sources,
        indexes=indexes.paths,
        pending=_pending(shards, target, trusted, before.present),
        stale=before.present - {shard.shard_id for shard in shards},
        before=before,
        described=_describe(request, found, shards, sources),
    )


def _merge(
    old: tuple[str, ...], found: Listing, options: ScoreOptions, scratch: str, *, forget: bool
) -> tuple[Changes, tuple[Shard, ...], tuple[str, ...]]:
    folder = f"{scratch}/{MANIFEST}"

    def size(images: int) -> int:
        return listing.shard_size_for(images, options.shard_size)

    if old:
        forget = forget or options.forget_missing
        changes, shards = manifest.write_updated(old, found, folder, forget=forget, shard_size=size)
        if not changes:
            return changes, manifest.load_shards(old), old
    else:
        changes = Changes(new=found.images)
        shards = manifest.write_first(found, folder, shard_size=size(found.images))
    return changes, shards, tuple(dict.fromkeys(shard.manifest_uri for shard in shards))


def _pending(
    shards: Sequence[Shard], target: Target, trusted: Mapping[str, str], present: frozenset[str]
) -> dict[str, int]:
    """Images to be scored of each shard that has no up-to-date part. `trusted` digests are known to have theirs."""

    def images(shard: Shard) -> int | None:
        if shard.shard_id not in present:
            return shard.images
        if trusted.get(shard.shard_id) == shard.digest and not target.retry_unread:
            return None
        try:
            info = read_part_info(part_uri(target.run_uri, shard.shard_id))
        except StorageError:
            return shard.images
        is_current = (info.model, info.digest) == (target.fingerprint, shard.digest)
        if is_current and not (target.retry_unread and info.unread):
            return None
        return int((open_shard(shard, target).kept_N < 0).sum())

    with ThreadPoolExecutor(_THREADS) as pool:
        counts = zip(shards, pool.map(images, shards), strict=True)
        return {shard.shard_id: count for shard, count in counts if count is not None}


def _describe(request: ScoreRequest, found: Listing, shards: Sequence[Shard], sources: Sequence[str]) -> dict[str, Any]:
    """The content of run.json: all that a reader or a later run needs to know."""
    bundle, options = request.bundle, request.options
    images = sum(shard.images for shard in shards)
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": bundle.fingerprint,
        "model": bundle.uri,
        "classes": list(bundle.classes),
        "image": bundle.image.to_json(),
        "inputs": sorted(storage.normalise(uri) for uri in request.inputs),
        "images": images,
        "gone": images - found.images,
        "skipped": found.skipped,
        "group_by": options.group_by,
        "kept": [list(column) for column in request.kept],
        "options": {"precision": options.precision, "batch_size": options.batch_size},
        "reference": bundle.reference,
        "versions": package_versions(),
        "manifest": [storage.name_of(path) for path in sources],
    }


def begin_run(plan: Plan, writer: Writer) -> Plan:
    """Write what a plan says of the run, and give the plan whose shards lie there. Finished parts are not touched."""
    home = storage.join(plan.uri, MANIFEST)
    names = [storage.name_of(source) for source in plan.sources]
    writer.delete(storage.join(plan.uri, SUCCESS))
    there = set(storage.list_names(home))
    for name, source in zip(names, plan.sources, strict=True):
        if name not in there:  # named by its content
            writer.write_bytes(storage.join(home, name), storage.read_bytes(source))
    keep(plan.indexes, storage.join(plan.uri, CONTAINERS), writer)
    writer.write_json(storage.join(plan.uri, RUN), plan.described)
    remove_leftovers(plan.uri, manifest=names, stale=plan.stale, writer=writer)
    moved = (replace(s, manifest_uri=storage.join(home, storage.name_of(s.manifest_uri))) for s in plan.shards)
    return replace(plan, shards=tuple(moved))


def verify_and_close(plan: Plan, writer: Writer) -> Verification:
    """Prove that every image has its row, once. Else raises `AccountingError` and drops the parts that are wrong."""
    account = verify_parts(
        plan.uri,
        manifest_files=plan.sources,
        fingerprint=plan.described["fingerprint"],
        deep=lambda shard: shard.shard_id in plan.pending,
    )
    if account.wrong:
        for shard_id in account.broken:
            writer.delete(part_uri(plan.uri, shard_id))
        raise VerificationError(
            f"{plan.uri}: rows do not add up, so nothing was published: {account}; run the same command again, "
            "which scores just these anew"
        )
    return account
