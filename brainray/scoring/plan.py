"""Plans a run: compares the listing of the inputs with the output, and finds the shards that are still to be scored.

Planning only reads; `begin_run` writes the plan. run.json names the manifest files, which are named by their content,
so writing run.json switches to the new manifest atomically. Must not decode images or score.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from brainray import storage
from brainray.errors import BadRequest, StorageError, VerificationError
from brainray.imaging.decoding import oldest_decoding
from brainray.inputs import listing
from brainray.inputs.archives import kind_of, split_refusal
from brainray.inputs.archives.index import FOLDER as ARCHIVE_INDEXES
from brainray.inputs.archives.index import ArchiveIndexes, keep
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.frames.listing import listed_with_frames
from brainray.inputs.image_files import GroupLevels
from brainray.inputs.listing import Lister, Listing
from brainray.inputs.lists.file_lists import open_file_list
from brainray.inputs.repeats import each_once
from brainray.inputs.shard_slices import shard_size_for
from brainray.inputs.tables.text_stream import advice_on
from brainray.machine.ahead import map_ahead
from brainray.models.bundle import model_card
from brainray.models.reference import appearance_of
from brainray.models.versions import package_versions
from brainray.storage import Writer

from . import manifest
from .emptied import with_emptied
from .known_frames import as_known
from .labelling.given_labels import given_for, has_given
from .manifest import Changes, Shard, read_shard
from .parts import part_uri, read_part_info
from .pseudonyms.key import FIELD, is_local
from .pseudonyms.listing import ListedNames, pseudonymised
from .run_folder import (
    MANIFEST,
    NO_RUN,
    RUN,
    SCHEMA_VERSION,
    SUCCESS,
    OutputState,
    ScoreRequest,
    copy_manifest,
    inspect_output,
    later_columns,
    read_run,
    remove_leftovers,
    write_manifest,
)
from .series.key import CHECK, begin_key
from .series.labels import check_series_labels
from .series.rows import FOLDER as OF_FOLDER
from .shard_task import Target, open_shard
from .verify import Verification, verify_parts

_THREADS = 8
# Fields of run.json that must be equal for a run to count as up to date.
_COMPARED_FIELDS = ("inputs", "images", "gone", "skipped", "group_by", "series_by")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The shards of a run, and those of them that are still to be scored or written."""

    uri: str
    listing: Listing
    changes: Changes
    shards: tuple[Shard, ...]
    sources: tuple[str, ...]  # local copies of the manifest files, with their names in the run
    indexes: tuple[str, ...]  # local copies of the indexes of archives
    pending: Mapping[str, int]  # for each shard whose part is to be written: its images to be scored, may be 0
    stale: frozenset[str]  # shards that exist in the output and no longer in the manifest
    before: OutputState  # the output before this run
    replaces_given: bool  # whether there are given labels, which end with this run because it has a label file
    foreseen: Mapping[str, int] = field(default_factory=dict)  # pending images that will not be read, by reason
    run_json: dict[str, Any]  # the future content of run.json
    names: ListedNames | None = None  # of the listing, where the run has pseudonyms

    @property
    def todo(self) -> tuple[Shard, ...]:
        """The shards whose part is to be written."""
        return tuple(shard for shard in self.shards if shard.shard_id in self.pending)

    @property
    def images(self) -> int:
        """The number of images of the run, gone ones included."""
        return sum(shard.images for shard in self.shards)

    @property
    def todo_images(self) -> int:
        """The number of images to be scored."""
        return sum(self.pending.values())

    @property
    def complete(self) -> bool:
        """Whether the output is up to date: nothing needs to be scored or written."""
        before = self.before.run or {}
        equal = all(before.get(name) == self.run_json[name] for name in _COMPARED_FIELDS)
        return (
            self.before.published and equal and not (self.changes or self.pending or self.stale or self.replaces_given)
        )


def plan_run(
    request: ScoreRequest,
    scratch: str,
    *,
    uri: str | None = None,
    seed: str | None = None,
    anew: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """List the inputs and compare them with the run at `uri`, by default the output. `scratch` is a local folder.

    A new run takes over the shards of the run `seed`, without the images that are gone. `anew`: what is at `uri` will
    be deleted. Raises `BadRequest` for inputs without images, and where rows would be dropped that an empty input had.
    """
    uri = uri or request.output
    before = NO_RUN if anew else inspect_output(uri)
    now = read_run(request.output)
    if now is not None and now.get("classes") != list(request.bundle.classes):
        check_series_labels(request.output, request.bundle.classes)  # not where the switch to this model has begun
    # A run that is scored anew has pages from its beginning, also when it is gone on with.
    drops = uri != request.output or request.options.forget_missing
    wholes_stay = before.run is not None and not drops
    kept = _indexes_of(request, request.output)
    with ArchiveIndexes(f"{scratch}/{ARCHIVE_INDEXES}", kept=kept, wholes_stay=wholes_stay) as indexes:
        found = _list_inputs(
            request, f"{scratch}/listing.parquet", indexes, extending=bool(before.run or seed), progress=progress
        )
    base = before.run or (read_run(seed) if seed else None)
    old = copy_manifest(uri if before.run else seed or uri, base["manifest"], f"{scratch}/old") if base else ()
    told = request.pseudonyms.of_file if request.pseudonyms else str
    found = as_known(old, found, told=told, wholes_stay=wholes_stay, volumes=request.options.volumes)
    found, names = _pseudonymised(request, found)
    series_by = _series_by(request) or (base or {}).get("series_by")
    known = manifest.load_shards(old) if names is not None or before.published else ()
    if names is not None:
        names.check(known, () if series_by in (None, OF_FOLDER) else (series_by,))
    forget = before.run is None or drops
    changes, shards, sources = _merge(old, found, request.options.shard_size, scratch, forget=forget)
    if changes.forgotten or sum(shard.images for shard in shards) > found.images:
        found = with_emptied(request, found, old, drops=drops)
    verified = {shard.shard_id: shard.digest for shard in known} if before.published else {}
    target = request.target(uri, Writer(), run=before.run)
    return Plan(
        uri=uri,
        listing=found,
        changes=changes,
        shards=shards,
        sources=sources,
        indexes=indexes.paths,
        pending=_count_pending(shards, target, verified, before.present),
        stale=before.present - {shard.shard_id for shard in shards},
        before=before,
        replaces_given=request.label_file is not None and has_given(uri),
        run_json=_run_json(request, found, shards, sources, before.run) | {"series_by": series_by},
        names=names,
    )


def with_foreseen(plan: Plan, request: ScoreRequest) -> Plan:
    """The plan with the number of pending images of which the listing tells already that they will not be scored.

    Reads the manifest of the pending shards. Objects that a list names are not looked up, so nothing is known of them.
    """
    target = request.target(plan.uri, Writer(), run=plan.run_json)
    counts: Counter[str] = Counter()
    for shard in plan.todo:
        if pending := plan.pending[shard.shard_id]:
            rows = read_shard(shard) if pending == shard.images else open_shard(shard, target).pending
            counts.update(_foreseen_reasons(rows))
    return replace(plan, foreseen=dict(sorted(counts.items())))


def _foreseen_reasons(rows: pa.Table) -> Iterator[str]:
    """The reason of each image that is gone, refused, or a file of a list that was not there when it was listed."""
    columns = (rows[name].to_pylist() for name in ("uri", "gone", "refused", "size_bytes", "container"))
    for uri, gone, refused, size_bytes, archive in zip(*columns, strict=True):
        is_missing = size_bytes is None and archive is None and is_local(uri)
        if refused is not None and not gone:
            yield split_refusal(refused).reason
        elif gone or is_missing:
            yield "not_found"


def begin_run(plan: Plan, writer: Writer, *, like: str | None = None) -> Plan:
    """Write manifest and run.json; return the plan with the shards of the written manifest. Finished parts stay.

    `like` is a run whose names of series this one takes over, the generation before.
    """
    folder = storage.join(plan.uri, MANIFEST)
    plan.run_json[CHECK] = begin_key(plan.uri, plan.before.run, writer, like=like)
    if plan.names is not None:
        plan.names.keep(plan.shards)  # first, for without them nobody finds the images of a manifest again
    writer.delete(storage.join(plan.uri, SUCCESS))
    names = write_manifest(plan.uri, plan.sources, writer)
    if plan.names is not None:
        plan.names.keep_indexes(plan.indexes)
        writer.delete_tree(storage.join(plan.uri, ARCHIVE_INDEXES))  # of a run with names that was killed early
    else:
        keep(plan.indexes, storage.join(plan.uri, ARCHIVE_INDEXES), writer)
    writer.write_json(storage.join(plan.uri, RUN), plan.run_json)
    remove_leftovers(plan.uri, manifest=names, stale=plan.stale, writer=writer)
    moved = (replace(s, manifest_uri=storage.join(folder, storage.name_of(s.manifest_uri))) for s in plan.shards)
    return replace(plan, shards=tuple(moved))


def verify_and_close(plan: Plan, writer: Writer) -> Verification:
    """Verify that every image has one row. Otherwise delete the broken parts and raise `VerificationError`."""
    verification = verify_parts(
        plan.uri,
        manifest_files=plan.sources,
        fingerprint=plan.run_json["fingerprint"],
        deep=lambda shard: shard.shard_id in plan.pending,
    )
    if verification.problems:
        for shard_id in verification.broken_shards:
            writer.delete(part_uri(plan.uri, shard_id))
        raise VerificationError(
            f"{plan.uri}: rows do not add up, so nothing was published: {verification}; run the same command again, "
            "which scores just these anew"
        )
    return verification


def _given_to(request: ScoreRequest) -> pa.Table:
    return given_for(request.output, request.bundle.classes)


def _indexes_of(request: ScoreRequest, output: str) -> str:
    """The folder that keeps the indexes of archives."""
    return request.pseudonyms.indexes(output) if request.pseudonyms else storage.join(output, ARCHIVE_INDEXES)


def _pseudonymised(request: ScoreRequest, found: Listing) -> tuple[Listing, ListedNames | None]:
    """The listing as the run has it, and its names if these are kept apart."""
    if request.pseudonyms is None:
        return found, None
    levels = 1 if request.group_file else len(GroupLevels(request.options.group_by).names)
    given = None if request.label_file else _given_to(request)
    indexes = _indexes_of(request, request.output)
    return pseudonymised(found, request.pseudonyms, levels=levels, given=given, indexes=indexes)


def _series_by(request: ScoreRequest) -> str | None:
    by = request.options.series_by
    return by if by in (None, OF_FOLDER) else request.told(by)


def _list_inputs(
    request: ScoreRequest,
    path: str,
    indexes: ArchiveIndexes,
    *,
    extending: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Listing:
    """List all images into the local file `path`.

    Raises `BadRequest` where there are no images, one is listed twice, or labels name unknown images; when `extending`
    a run, labels may name images that are gone, and with `labels_may_miss` any.
    """
    if request.label_file is not None:
        request.label_file.begin()
    if request.group_file is not None:
        request.group_file.rows.begin()
    chosen = bool(request.options.include)
    roots = distinct_inputs(request.inputs, output=request.output, all_wanted=chosen)
    lister = Lister(
        roots,
        indexes,
        classes=request.bundle.classes,
        output=request.output,
        label_file=request.label_file,
        given_labels=None if request.label_file or request.pseudonyms else _given_to(request),
        group_file=request.group_file,
        group_by=request.options.group_by,
        include=request.options.include,
        exclude=request.options.exclude,
        any_suffix=request.options.any_suffix,
        keep=request.options.keep_columns,
        most_bytes=request.options.max_file_bytes,
        retry_unread=request.options.retry_unread,
        volumes=request.options.volumes,
        most_unread=request.options.max_unread,
    )
    found = listing.scan(lister, path, progress=progress)
    if lister.may_repeat:
        _check_no_repeats(path, roots, in_lists=lister.has_lists)
    else:
        found = each_once(found)
    if found.images == 0:
        raise BadRequest(_nothing_found(roots, found))
    if request.label_file is not None:
        request.label_file.check_all_used_once(
            some_may_be_gone=extending,
            may_miss=request.options.labels_may_miss,
            listed=found.batches(),
            remedy="; correct them, or give --labels-may-miss where the file has more than the input",
        )
    if request.group_file is not None:
        request.group_file.check_listing(found.batches(), images=found.images, extending=extending)
    return found


def _nothing_found(roots: Sequence[str], found: Listing) -> str:
    skipped = ", ".join(f"{count} {reason}" for reason, count in found.skipped.items())
    if skipped:
        why = f" (passed over: {skipped})"
    else:
        empty = [_empty(uri) for uri in roots]
        why = f"; {empty[0]} is empty" if len(empty) == 1 else f"; all are empty: {', '.join(empty)}"
    # A manifest of an inventory may name no object.
    meant = [advice for uri in roots if (advice := advice_on(uri)) is not None and open_file_list(uri) is None]
    why += f"; this is {meant[0]}" if meant else ""
    notes = "".join(f"; {note.removeprefix(f'--input {roots[0]}: ')}" for note in found.notes)
    return f"--input {', '.join(roots)}: no image files found{why}{notes}"


def _empty(uri: str) -> str:
    """What an input is that holds nothing at all."""
    kind = kind_of(uri)
    if storage.is_folder(uri):
        return "the folder"
    return f"the {kind}" if kind in ("tar", "compressed tar", "zip") else "the list of images"


def _check_no_repeats(path: str, roots: Sequence[str], *, in_lists: bool) -> None:
    """Raise `BadRequest` for URIs that a listing contains twice, or, from lists, as a file and as its frames."""
    repeated = manifest.repeated_uris([path])
    if in_lists and not repeated:
        repeated = [f"{uri} and its frames, slices or pages" for uri in listed_with_frames(path)]
    if repeated:
        raise BadRequest(
            f"--input {', '.join(roots)}: images are listed more than once ({', '.join(repeated)}); list each once"
        )


def _merge(
    old: tuple[str, ...], found: Listing, wanted: int | None, scratch: str, *, forget: bool
) -> tuple[Changes, tuple[Shard, ...], tuple[str, ...]]:
    """The changes, the shards and the files of the manifest after this listing; the files of `old` if unchanged."""
    folder = f"{scratch}/{MANIFEST}"

    def shard_size(images: int) -> int:
        return shard_size_for(images, wanted)

    if old:
        changes, shards = manifest.write_updated(old, found, folder, forget=forget, shard_size=shard_size)
        if not changes:
            return changes, manifest.load_shards(old), old
    else:
        changes = Changes(new=found.images)
        shards = manifest.write_first(found, folder, shard_size=shard_size(found.images))
    return changes, shards, tuple(dict.fromkeys(shard.manifest_uri for shard in shards))


def _count_pending(
    shards: Sequence[Shard], target: Target, verified: Mapping[str, str], present: frozenset[str]
) -> dict[str, int]:
    """The images to be scored of each shard without an up-to-date part.

    Parts of shards in `verified` (id -> digest) were checked when the run was published, and are not read again.
    """

    def pending_images(shard: Shard) -> int | None:
        if shard.shard_id not in present:
            return shard.images
        is_verified = verified.get(shard.shard_id) == shard.digest
        return (
            None if is_verified and not (target.retry_unread or target.all_series) else _pending_images(shard, target)
        )

    counts = zip(shards, map_ahead(pending_images, shards, threads=_THREADS), strict=True)
    return {shard.shard_id: images for shard, images in counts if images is not None}


def _pending_images(shard: Shard, target: Target) -> int | None:
    """The number of images to be scored of a shard that has a part; None where the part is up to date."""
    try:
        info = read_part_info(part_uri(target.run_uri, shard.shard_id))
    except StorageError:
        return shard.images
    is_current = (info.model, info.digest) == (target.fingerprint, shard.digest)
    again = (target.retry_unread and info.failed) or (target.all_series and info.excluded)
    if is_current and not again:
        return None
    pending = int((open_shard(shard, target).kept_N < 0).sum())
    return None if is_current and not pending else pending


def _groups_json(request: ScoreRequest, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of run.json that tell what the groups are; `group_by` is null for a run without groups."""
    if request.group_file is not None:
        return {"group_by": f"--groups {request.told(request.group_file.uri)}", "group_levels": ["group"]}
    by = request.options.group_by
    levels = GroupLevels(by)
    missing = [name for name in levels.scans if name not in later_columns(before)]
    if missing:
        raise BadRequest(
            f"--group-by {missing[0]}: an earlier version began the run at {request.output}, and its rows have no such "
            "column; give a new --output"
        )
    if by is not None and request.pseudonyms:
        told = request.pseudonyms.of_group_by
        by = tuple(map(told, by)) if isinstance(by, tuple) else told(by)
    return {"group_by": list(by) if isinstance(by, tuple) else by, "group_levels": list(levels.names)}


def _run_json(
    request: ScoreRequest,
    found: Listing,
    shards: Sequence[Shard],
    sources: Sequence[str],
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of run.json: what readers of the run and later runs need."""
    bundle, options = request.bundle, request.options
    images = sum(shard.images for shard in shards)
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": bundle.fingerprint,
        "model": bundle.uri,
        "classes": list(bundle.classes),
        "image": bundle.image.to_json(),
        "inputs": request.run_inputs,
        "images": images,
        "gone": images - found.images,
        "skipped": found.skipped,
        **_groups_json(request, before),
        "kept": [list(column) for column in request.kept],
        "uids": request.uids_name,
        "later_columns": list(later_columns(before)),
        "options": {"precision": options.precision, "batch_size": options.batch_size},
        "reference": bundle.reference,
        "reference_images": appearance_of(bundle),
        "card": model_card(bundle),
        "versions": package_versions() | (oldest_decoding(before.get("versions") or {}) if before else {}),
        "manifest": [storage.name_of(path) for path in sources],
        FIELD: request.pseudonyms.fingerprint if request.pseudonyms else None,
    }
