"""A run on disk: which files belong to it, whose it is, and whether it holds what it says. Knows no Ray and no torch.

Order of writing: manifest, run.json, parts, summary, `_SUCCESS`. `_SUCCESS` goes first when a run is extended.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from brainray import storage
from brainray.config import ScoreOptions
from brainray.errors import BadRequest, OtherModel, VerificationError, as_bad_request
from brainray.inputs.archives.index import FOLDER as CONTAINERS
from brainray.inputs.label_file import LabelFile
from brainray.models.bundle import Bundle
from brainray.storage import Writer
from brainray.storage.scratch import scratch_folder

from .parts import KeptTypes, part_uri, present_shards
from .shard_task import Target
from .verify import Verification, verify_parts

SCHEMA_VERSION = 4
RUN = "run.json"
MANIFEST = "manifest"
SUCCESS = "_SUCCESS"
STATUS = "status.json"
_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """What is to be scored, by which model, and where to."""

    inputs: tuple[str, ...]
    output: str  # normalised
    bundle: Bundle
    label_file: LabelFile | None
    options: ScoreOptions
    kept: KeptTypes = ()  # of `options.keep_columns`

    def target(self, run_uri: str, writer: Writer) -> Target:
        """The run as a worker sees it."""
        return Target(
            run_uri=run_uri,
            fingerprint=self.bundle.fingerprint,
            classes=self.bundle.classes,
            review_below=self.bundle.calibration.review_below,
            kept=self.kept,
            writer=writer,
            retry_unread=self.options.retry_unread,
        )


@dataclass(frozen=True, kw_only=True)
class OutputState:
    """What lies in an output before a run touches it."""

    run: dict[str, Any] | None  # run.json
    published: bool
    present: frozenset[str]  # shards with a part file


def read_run(uri: str) -> dict[str, Any] | None:
    """The run.json of an output; None where there is no run."""
    run_uri = storage.join(uri, RUN)
    return storage.read_json(run_uri) if storage.exists(run_uri) else None


def is_published(uri: str) -> bool:
    return storage.exists(storage.join(uri, SUCCESS))


def inspect_output(uri: str) -> OutputState:
    return OutputState(run=read_run(uri), published=is_published(uri), present=frozenset(present_shards(uri)))


def check_output(request: ScoreRequest) -> None:
    """Refuse an output that is a file, somebody else's folder, another model's run, or a run of other inputs."""
    uri = request.output
    with as_bad_request("--output"):  # a bucket that is not there, a wrong region, no credentials: first of all
        exists = storage.exists(uri)
    if exists and not storage.is_folder(uri):
        raise BadRequest(f"--output {uri} is a file; give a folder that is new or holds an earlier run")
    before = read_run(uri)
    if before is None:
        if set(storage.list_names(uri)) - {
            MANIFEST,
            CONTAINERS,
        }:  # which a run that was killed in its first second leaves
            raise BadRequest(f"--output {uri} holds other files and no run; give a new or an empty folder")
        return
    version = before.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BadRequest(f"--output {uri} holds a run of format {version}, not {SCHEMA_VERSION}; give another output")
    left_out = set(before.get("inputs", ())) - {storage.normalise(text) for text in request.inputs}
    if left_out:
        raise BadRequest(
            f"--output {uri} holds a run of --input {', '.join(sorted(left_out))} too, whose rows would be lost; "
            "give those inputs as well, or another output"
        )
    if not request.options.rescore:
        _check_model(request, before)


def _check_model(request: ScoreRequest, before: dict[str, Any]) -> None:
    uri, bundle = request.output, request.bundle
    theirs = (before.get("fingerprint"), before.get("image"), before.get("classes"))
    if theirs != (bundle.fingerprint, bundle.image.to_json(), list(bundle.classes)):
        raise OtherModel(
            f"--output {uri} holds a run of model {theirs[0]}, and this model is {bundle.fingerprint}; "
            "give another output, or --rescore to score everything anew and replace it when that is complete"
        )
    precision = (before.get("options") or {}).get("precision")
    if precision != request.options.precision:
        raise BadRequest(
            f"--output {uri} holds a run with --precision {precision}, not {request.options.precision}; "
            "give the same, another output, or --rescore"
        )
    kept = tuple((name, kind) for name, kind in before.get("kept", ()))
    if kept != request.kept:
        then, now = (", ".join(f"{name} ({kind})" for name, kind in one) or "none" for one in (kept, request.kept))
        raise BadRequest(
            f"--output {uri} holds a run whose --keep-columns are {then}, not {now}; "
            "give the same, another output, or --rescore"
        )


def remove_leftovers(uri: str, *, manifest: Iterable[str], stale: Iterable[str], writer: Writer) -> None:
    """Remove manifest files that run.json does not name, and the parts of shards that are no more."""
    for name in set(storage.list_names(storage.join(uri, MANIFEST))) - set(manifest):
        writer.delete(storage.join(uri, MANIFEST, name))
    for shard_id in stale:
        writer.delete(part_uri(uri, shard_id))


def delete_run(uri: str, writer: Writer) -> None:
    """Remove a run and its folder. One that is cut short leaves nothing that looks like a run."""
    writer.delete_tree(uri, first=(SUCCESS, RUN))


def publish(uri: str, account: Verification, fingerprint: str, writer: Writer) -> None:
    """Say that the run is whole: written last."""
    success = {"rows": account.rows, "failed": account.failed, "fingerprint": fingerprint}
    writer.write_json(storage.join(uri, SUCCESS), success)


def check_is_run(uri: str) -> dict[str, Any]:
    """The run.json of a folder that must hold a run; else `BadRequest`."""
    run = read_run(uri)
    if run is None:
        raise BadRequest(f"{uri} is no run: it has no {RUN}, give the folder that `brainray score --output` wrote")
    return run


def verify_run(uri: str) -> Verification:
    """Read every row of a run, compare with its manifest and with the checksum of every page; changes nothing.

    Raises `AccountingError` that names what is wrong.
    """
    account = verification_of(uri)
    if account.wrong:
        parts = " ".join(part_uri(uri, shard_id) for shard_id in account.broken)
        raise VerificationError(
            f"{uri}: {account}; remove {parts} and run the same `score` command, which scores them anew"
        )
    return account


def verification_of(uri: str) -> Verification:
    """The account of a run as it lies there."""
    run = check_is_run(uri)
    with scratch_folder() as scratch:
        files = copy_manifest(uri, run["manifest"], scratch)
        return verify_parts(uri, manifest_files=files, fingerprint=run["fingerprint"])


def copy_manifest(run_uri: str, names: Sequence[str], folder: str) -> tuple[str, ...]:
    """Local copies of the manifest files of a run, in their order."""

    def copy(name: str) -> str:
        storage.write_bytes(f"{folder}/{name}", storage.read_bytes(storage.join(run_uri, MANIFEST, name)))
        return f"{folder}/{name}"

    with ThreadPoolExecutor(_THREADS) as pool:
        return tuple(pool.map(copy, names))
