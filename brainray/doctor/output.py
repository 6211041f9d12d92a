"""Checks an output: what it holds, whether another run holds it, and whether a run can write and lock it.

Imports no Ray. The probes are small hidden files and are removed again; nothing else in the output may change.
"""

import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from brainray import storage
from brainray.errors import BadRequest, BrainrayError, OutputHeld, StorageError
from brainray.inputs.archives.index import FOLDER as ARCHIVE_INDEXES
from brainray.machine.hardware import Disk, read_disk
from brainray.models.bundle import DESCRIPTION, load_bundle
from brainray.scoring.pseudonyms.key import FIELD as PSEUDONYMS
from brainray.scoring.run_folder import MANIFEST, SCHEMA_VERSION, STATUS, is_published, read_run
from brainray.storage.lease import refuse_if_held

from .checks import Finding, finding_of_error, guarded, ok, size_text, warning, wrong
from .inputs import check_store

_FEW_BYTES, _TOO_FEW_BYTES = (
    2e9,
    0.2e9,
)  # free space to warn of, to report as wrong: at 0.2 kB an image, ten million images and one million
_FEW_FILES = 100
_RECENT_S = 120  # a run that wrote its status within this time is most likely alive
_IN_MEMORY = ("tmpfs", "ramfs")
# File systems that show a bucket as a folder. A rename there is a copy and a deletion, so a lease is not safe.
_BUCKETS_AS_FOLDERS = ("s3fs", "mountpoint", "goofys", "gcsfuse", "rclone", "blobfuse", "geesefs")
_OTHER_OUTPUT = "give another --output"


def check_output_option(
    text: str, *, inputs: Sequence[str], model: str | None, training: bool, with_store: bool
) -> Iterator[Finding]:
    """Check a value of --output. `inputs` and `model` are normalised.

    `training`: the output is for a model, not for a run. `with_store`: also report on its object store.
    """
    uri = storage.normalise(text)
    name = f"--output {uri}"
    if uri.startswith("s3://"):
        yield from check_store(uri, report=with_store)
        found = list(check_bucket(uri))
        yield from found
        if found[0].status == "wrong":  # the bucket cannot be listed
            return
    else:
        yield from guarded(f"{name} write", lambda: check_disk(uri))
    if training:
        yield from guarded(name, lambda: check_training_output(uri))
    else:
        yield from guarded(name, lambda: check_state(uri, inputs=inputs, model=model))


def check_state(uri: str, *, inputs: Sequence[str], model: str | None) -> Iterator[Finding]:
    """Check whether `score` accepts the output. Empty `inputs` and a `model` of None are not compared."""
    name = f"--output {uri}"
    if storage.exists(uri) and not storage.is_folder(uri):
        yield wrong(name, "is a file", "give a folder that is new or holds an earlier run")
        return
    refuse_if_held(uri)
    run = read_run(uri)
    if run is None:
        others = sorted(set(storage.list_names(uri)) - {MANIFEST, ARCHIVE_INDEXES})
        if others:
            yield wrong(name, f"holds other files and no run: {', '.join(others[:3])}", "give a new or an empty folder")
        else:
            yield ok(name, "free for a new run")
        return
    yield _assess_run(name, run, inputs, model, published=is_published(uri))
    yield from _check_status(f"{name} status", uri)


def _assess_run(
    name: str, run: dict[str, object], inputs: Sequence[str], model: str | None, *, published: bool
) -> Finding:
    version, theirs = run.get("schema_version"), run.get("fingerprint")
    if version != SCHEMA_VERSION:
        return wrong(name, f"holds a run of format {version}, not {SCHEMA_VERSION}", _OTHER_OUTPUT)
    with suppress(BadRequest):  # reported by the check of --model
        ours = load_bundle(model).fingerprint if model else theirs
        if ours != theirs:
            return wrong(
                name,
                f"holds a run of model {theirs}, and --model is {ours}",
                f"{_OTHER_OUTPUT}, or --rescore to score everything anew and replace it",
            )
    before = run.get("inputs") if run.get(PSEUDONYMS) is None else None  # else names of them nobody knows here
    left_out = sorted(set(before if isinstance(before, list) else ()) - set(inputs)) if inputs else []
    if left_out:
        advice = f"give those inputs as well, or {_OTHER_OUTPUT.removeprefix('give ')}"
        return wrong(name, f"holds a run of --input {', '.join(left_out)} too, whose rows would be lost", advice)
    return ok(name, f"holds a run of model {theirs}, {'published' if published else 'not finished'}")


def _check_status(name: str, uri: str) -> Iterator[Finding]:
    """Warn of a run on another machine that may be alive: a recent status shows it, the lease does not."""
    with suppress(StorageError, KeyError, ValueError, TypeError):
        status = storage.read_json(storage.join(uri, STATUS))
        age_s = (datetime.now(UTC) - datetime.fromisoformat(status["last_progress"])).total_seconds()
        if status["phase"] != "done" and age_s < _RECENT_S:
            holder = status["holder"]
            found = f"{status['phase']} {age_s:.0f} s ago, by process {holder['pid']} on {holder['host']}"
            yield warning(name, found, f"a run seems to be under way: wait for it to end, or {_OTHER_OUTPUT}")


def check_training_output(uri: str) -> Iterator[Finding]:
    """Check whether `train` accepts the output. Raises `OutputHeld` where another command holds it."""
    name = f"--output {uri}"
    refuse_if_held(uri)
    if storage.exists(storage.join(uri, DESCRIPTION)):
        yield ok(name, "holds a trained model; `train` does not train it again")
    else:
        yield ok(name, "holds no finished model")


def check_disk(uri: str, *, read: Callable[[str], Disk] = read_disk) -> Iterator[Finding]:
    """Check a local output: whether files can be made, whether a lease excludes others, and how much space is free."""
    folder = nearest_folder(uri)
    check = f"--output {uri} write"
    if not storage.is_folder(folder):
        yield wrong(check, f"{folder} is a file", "give a folder that is new or holds an earlier run")
        return
    try:
        exclusive = _try_lease(folder)
    except StorageError as exc:
        reason = str(exc).rpartition(": ")[2]
        yield wrong(
            check, f"{folder} cannot be written to ({reason})", f"let this user write there, or {_OTHER_OUTPUT}"
        )
        return
    disk = read(folder)
    found = f"{folder} can be written to: {disk.kind or 'unknown file system'}, {size_text(disk.free_bytes)} free"
    if not exclusive:
        found = f"{folder} ({disk.kind}) lets two runs believe that each alone holds the output"
        yield wrong(check, found, "give a folder on a local disk, NFS or a cluster file system, or s3://")
    elif any(name in disk.kind for name in _BUCKETS_AS_FOLDERS):
        yield warning(check, f"{found}: a bucket shown as a folder", "give the bucket itself: s3://bucket/folder")
    elif disk.kind in _IN_MEMORY:
        yield warning(check, f"{found}: in memory, lost when this machine starts anew", "give a folder on a disk")
    elif disk.free_files is not None and disk.free_files < _FEW_FILES:
        yield wrong(check, f"{found}, room for {disk.free_files} more files (inodes)", f"free some, or {_OTHER_OUTPUT}")
    elif disk.free_bytes < _TOO_FEW_BYTES:
        yield wrong(check, found, f"free some room, or {_OTHER_OUTPUT}")
    elif disk.free_bytes < _FEW_BYTES:
        yield warning(check, found, "a million images take about 0.2 GB of rows: see that there is enough")
    else:
        yield ok(check, found)


def nearest_folder(uri: str) -> str:
    """Return the output, or the nearest folder above it that exists."""
    while not storage.exists(uri) and os.path.dirname(uri) != uri:
        uri = os.path.dirname(uri)
    return uri


def _try_lease(folder: str) -> bool:
    """Hold and revoke a lease in a new hidden folder; returns whether it excludes a second and a revoked writer."""
    probe_folder = storage.join(folder, f".brainray-doctor-{secrets.token_hex(8)}")
    staging, file = storage.join(probe_folder, "lease"), storage.join(probe_folder, "file")
    writer = storage.Writer(staging=staging)
    try:
        first, second = (storage.claim(staging, b"{}") for _ in range(2))
        writer.write_bytes(file, b"as a part is written")
        storage.revoke(staging)
        try:
            writer.write_bytes(file, b"too late")
        except OutputHeld:
            return first and not second and storage.read_bytes(file) == b"as a part is written"
        return False
    finally:
        with suppress(StorageError):
            storage.delete_tree(probe_folder)


def check_bucket(uri: str) -> Iterator[Finding]:
    """Check an output in a bucket by using each permission that a run needs."""
    name = f"--output {uri}"
    probe = storage.join(uri, f".brainray-doctor-{secrets.token_hex(8)}")
    listed = yield from _try_permission(f"{name} list", "s3:ListBucket", lambda: storage.list_names(uri), uri)
    written = yield from _try_permission(f"{name} put", "s3:PutObject", lambda: storage.write_bytes(probe, b"x"), probe)
    if written or listed:  # else a missing object cannot be distinguished from a forbidden one
        yield from _try_permission(f"{name} get", "s3:GetObject", lambda: _read_probe(probe, is_written=written), probe)
    deleted = yield from _try_permission(f"{name} delete", "s3:DeleteObject", lambda: storage.delete(probe), probe)
    if written and deleted:
        yield from guarded(f"{name} conditional put", lambda: _check_conditions(f"{name} conditional put", uri))


def _try_permission(name: str, action: str, step: Callable[[], object], about: str) -> Generator[Finding, None, bool]:
    began_s = time.perf_counter()
    try:
        step()
    except BrainrayError as exc:
        yield finding_of_error(name, exc, about=about, remedy=f"see whether the credentials have {action}")
        return False
    yield ok(name, f"allowed, {1000 * (time.perf_counter() - began_s):.0f} ms")
    return True


def _read_probe(probe: str, *, is_written: bool) -> None:
    try:
        storage.read_bytes(probe)
    except StorageError as exc:
        if is_written or exc.reason != "not_found":
            raise


def _check_conditions(name: str, uri: str) -> Iterator[Finding]:
    """Check that the store honours conditional writes, on which leases rest."""
    missing = storage.unsupported_conditions(uri)
    if not missing:
        yield ok(name, "If-None-Match and If-Match are honoured")
        return
    yield warning(
        name,
        f"the store ignores {' and '.join(missing)}: two runs that start within seconds may both hold the output",
        "never start two runs on one output at the same time, or use a store with conditional writes (AWS, MinIO)",
    )
