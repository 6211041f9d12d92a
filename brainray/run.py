"""A run on disk: what belongs to it, what is finished, and when it may be called done. Knows no Ray and no torch.

Order of writing: run.json, manifest, parts, summary, `_SUCCESS`. `_SUCCESS` goes first when a run is extended.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from . import __version__, listing, storage
from .bundle import Bundle
from .config import ScoreOptions
from .errors import BadRequest, OtherModel
from .listing import Lister, Listing, Shard
from .results import Account, check_accounts, finished_shards, part_uri
from .truth import Truth

SCHEMA_VERSION = 1
RUN = "run.json"
MANIFEST = "manifest"
SUCCESS = "_SUCCESS"
STATUS = "status.json"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be scored, by which model, and where to."""

    inputs: tuple[str, ...]
    output: str  # normalised
    bundle: Bundle
    truth: Truth | None
    options: ScoreOptions


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will hold and what of it is still to be done."""

    uri: str
    listing: Listing
    shards: tuple[Shard, ...]
    finished: frozenset[str]
    published: bool

    @property
    def todo(self) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.shard_id not in self.finished)

    @property
    def done_images(self) -> int:
        return sum(shard.images for shard in self.shards if shard.shard_id in self.finished)

    @property
    def complete(self) -> bool:
        return self.published and not self.todo


def check_output(request: Request) -> None:
    """Refuse an output that is a file, somebody else's folder, another model's run, or a run of other inputs."""
    uri, bundle = request.output, request.bundle
    if storage.exists(uri) and not storage.is_folder(uri):
        raise BadRequest(f"--output {uri} is a file; give a folder that is new or holds an earlier run")
    run_uri = storage.join(uri, RUN)
    if not storage.exists(run_uri):
        if storage.list_names(uri):
            raise BadRequest(f"--output {uri} holds other files and no run; give a new or an empty folder")
        return
    before = storage.read_json(run_uri)
    if before.get("fingerprint") != bundle.fingerprint:
        raise OtherModel(
            f"--output {uri} holds a run of model {before.get('fingerprint')}, and this model is {bundle.fingerprint}; "
            "give another output"
        )
    left_out = set(before.get("inputs", ())) - {storage.normalise(text) for text in request.inputs}
    if left_out:
        raise BadRequest(
            f"--output {uri} holds a run of --input {', '.join(sorted(left_out))} too, whose rows would be lost; "
            "give those inputs as well, or another output"
        )


def list_inputs(request: Request, path: str, *, progress: Callable[[int], None] | None = None) -> Listing:
    """List all images into the local file `path`. Raises `BadRequest` for nothing, or labels that do not fit."""
    roots = listing.distinct_inputs(request.inputs)
    lister = Lister(
        roots,
        classes=request.bundle.classes,
        output=request.output,
        truth=request.truth,
        group_by=request.options.group_by,
    )
    found = listing.scan(lister, path, progress=progress)
    if found.images == 0:
        passed = ", ".join(f"{count} {reason}" for reason, count in found.skipped.items())
        raise BadRequest(
            f"--input {', '.join(roots)}: no image files found"
            + (f" (passed over: {passed})" if passed else "; the folder is empty")
        )
    if request.truth is not None:
        request.truth.check_all_used_once()
    return found


def open_run(request: Request, *, dry: bool = False, progress: Callable[[int], None] | None = None) -> Plan:
    """List the inputs, compare with what the output holds, and write run.json and manifest, unless `dry`.

    Nothing is written before everything that can be wrong with the request has been looked at.
    """
    output = request.output
    check_output(request)
    with tempfile.TemporaryDirectory(prefix="brainray-") as scratch:
        found = list_inputs(request, f"{scratch}/listing.parquet", progress=progress)
        size = listing.shard_size_for(found.images, request.options.shard_size)
        shards = tuple(listing.write_manifest(found, f"{scratch}/{MANIFEST}", shard_size=size))
        plan = Plan(
            uri=output,
            listing=found,
            shards=shards,
            finished=frozenset(finished_shards(output)),
            published=_published(output, shards),
        )
        if not dry and not plan.complete:
            _write_plan(plan, request, scratch)
    home = storage.join(output, MANIFEST)
    moved = (replace(s, manifest_uri=storage.join(home, storage.name_of(s.manifest_uri))) for s in shards)
    return replace(plan, shards=tuple(moved))


def _published(output: str, shards: Sequence[Shard]) -> bool:
    """Whether `_SUCCESS` stands for just these shards."""
    marker = storage.join(output, SUCCESS)
    if not storage.exists(marker):
        return False
    return finished_shards(output) == {shard.shard_id for shard in shards}


def _write_plan(plan: Plan, request: Request, scratch: str) -> None:
    storage.delete(storage.join(plan.uri, SUCCESS))
    storage.write_json(storage.join(plan.uri, RUN), describe(plan, request))
    names = storage.list_names(f"{scratch}/{MANIFEST}")
    home = storage.join(plan.uri, MANIFEST)
    for name in names:
        storage.write_bytes(storage.join(home, name), storage.read_bytes(f"{scratch}/{MANIFEST}/{name}"))
    for name in set(storage.list_names(home)) - set(names):
        storage.delete(storage.join(home, name))


def describe(plan: Plan, request: Request) -> dict[str, Any]:
    """The content of run.json: all that a reader or a later run needs to know."""
    bundle, options = request.bundle, request.options
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": bundle.fingerprint,
        "model": bundle.uri,
        "classes": list(bundle.classes),
        "image": bundle.image.to_json(),
        "inputs": [storage.normalise(uri) for uri in request.inputs],
        "images": plan.listing.images,
        "skipped": plan.listing.skipped,
        "group_by": options.group_by,
        "options": {"precision": options.precision, "batch_size": options.batch_size},
        "reference": bundle.reference,
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    names = ("ray", "torch", "torchvision", "numpy", "pillow", "pyarrow", "scikit-learn")
    return {"brainray": __version__} | {name: metadata.version(name) for name in names}


def close_run(plan: Plan, bundle: Bundle) -> Account:
    """Drop parts of shards that are no more, and prove that every listed image has its row."""
    known = {shard.shard_id for shard in plan.shards}
    for stale in finished_shards(plan.uri) - known:
        storage.delete(part_uri(plan.uri, stale))
    return check_accounts(
        plan.uri,
        fingerprint=bundle.fingerprint,
        expected=((shard.shard_id, shard.images) for shard in plan.shards),
    )


def publish(plan: Plan, bundle: Bundle, account: Account) -> None:
    """Say that the run is whole: written last."""
    success = {"rows": account.rows, "failed": account.failed, "fingerprint": bundle.fingerprint}
    storage.write_json(storage.join(plan.uri, SUCCESS), success)
