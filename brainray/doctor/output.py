"""Checks of where results go: whose it is, and whether it can be written as a run needs it. Knows no Ray.

What is written is small and hidden, and removed again.
"""

import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from brainray import storage
from brainray.errors import BadRequest, BrainrayError, OutputHeld, StorageError
from brainray.hardware import Disk, read_disk
from brainray.inputs.archives.index import FOLDER as CONTAINERS
from brainray.models.bundle import DESCRIPTION, load_bundle
from brainray.scoring.run_folder import MANIFEST, SCHEMA_VERSION, STATUS, is_published, read_run
from brainray.storage.lease import refuse_if_held

from .checks import Finding, attempted, finding_of_error, ok, size_text, warning, wrong
from .inputs import check_service

_FEW_BYTES, _TOO_FEW_BYTES = 2e9, 0.2e9  # 0.2 kB an image, measured: of ten million, and of one
_FEW_FILES = 100
_STIRRED_S = 120  # ago: a run that wrote its status then is most likely alive
_IN_MEMORY = ("tmpfs", "ramfs")
# Buckets shown as folders: there a rename is a copy and a deletion, which is no way to keep a lease.
_BUCKETS_AS_FOLDERS = ("s3fs", "mountpoint", "goofys", "gcsfuse", "rclone", "blobfuse", "geesefs")
_OTHER_OUTPUT = "give another --output"


def look_at_output(
    text: str, *, inputs: Sequence[str], model: str | None, training: bool, with_store: bool
) -> Iterator[Finding]:
    """`inputs` and `model` are normalised. `training`: it is for a model, not for a run."""
    uri = storage.normalise(text)
    name = f"--output {uri}"
    if uri.startswith("s3://"):
        yield from check_service(uri, told=with_store)
        found = list(check_bucket(uri))
        yield from found
        if found[0].status == "wrong":  # it cannot be listed
            return
    else:
        yield from attempted(f"{name} write", lambda: check_disk(uri))
    if training:
        yield from attempted(name, lambda: check_training_output(uri))
    else:
        yield from attempted(name, lambda: check_state(uri, inputs=inputs, model=model))


def check_state(uri: str, *, inputs: Sequence[str], model: str | None) -> Iterator[Finding]:
    """Whether `score` would take the output. No `inputs`, no `model`: they are not known."""
    name = f"--output {uri}"
    if storage.exists(uri) and not storage.is_folder(uri):
        yield wrong(name, "is a file", "give a folder that is new or holds an earlier run")
        return
    refuse_if_held(uri)
    run = read_run(uri)
    if run is None:
        others = sorted(set(storage.list_names(uri)) - {MANIFEST, CONTAINERS})
        if others:
            yield wrong(name, f"holds other files and no run: {', '.join(others[:3])}", "give a new or an empty folder")
        else:
            yield ok(name, "free for a new run")
        return
    yield _judge_run(name, run, inputs, model, published=is_published(uri))
    yield from _judge_status(f"{name} status", uri)


def _judge_run(
    name: str, run: dict[str, object], inputs: Sequence[str], model: str | None, *, published: bool
) -> Finding:
    version, theirs = run.get("schema_version"), run.get("fingerprint")
    if version != SCHEMA_VERSION:
        return wrong(name, f"holds a run of format {version}, not {SCHEMA_VERSION}", _OTHER_OUTPUT)
    with suppress(BadRequest):  # which the check of the model tells
        ours = load_bundle(model).fingerprint if model else theirs
        if ours != theirs:
            return wrong(
                name,
                f"holds a run of model {theirs}, and --model is {ours}",
                f"{_OTHER_OUTPUT}, or --rescore to score everything anew and replace it",
            )
    before = run.get("inputs")
    left_out = sorted(set(before if isinstance(before, list) else ()) - set(inputs)) if inputs else []
    if left_out:
        advice = f"give those inputs as well, or {_OTHER_OUTPUT.removeprefix('give ')}"
        return wrong(name, f"holds a run of --input {', '.join(left_out)} too, whose rows would be lost", advice)
    return ok(name, f"holds a run of model {theirs}, {'published' if published else 'not finished'}")


def _judge_status(name: str, uri: str) -> Iterator[Finding]:
    """A run on another machine may live: its lease does not tell, but its status does, as long as it is fresh."""
    with suppress(StorageError, KeyError, ValueError, TypeError):
        status = storage.read_json(storage.join(uri, STATUS))
        age_s = (datetime.now(UTC) - datetime.fromisoformat(status["last_progress"])).total_seconds()
        if status["phase"] != "done" and age_s < _STIRRED_S:
            holder = status["holder"]
            found = f"{status['phase']} {age_s:.0f} s ago, by process {holder['pid']} on {holder['host']}"
            yield warning(name, found, f"a run seems to be under way: wait for it to end, or {_OTHER_OUTPUT}")


def check_training_output(uri: str) -> Iterator[Finding]:
    name = f"--output {uri}"
    refuse_if_held(uri)
    if storage.exists(storage.join(uri, DESCRIPTION)):
        yield ok(name, "holds a trained model; `train` does not train it again")
    else:
        yield ok(name, "holds no finished model")


def check_disk(uri: str, *, look: Callable[[str], Disk] = read_disk) -> Iterator[Finding]:
    """A local output: whether files can be made in it, whether a lease can be held, and what room there is."""
    folder = nearest_folder(uri)
    check = f"--output {uri} write"
    if not storage.is_folder(folder):
        yield wrong(check, f"{folder} is a file", "give a folder that is new or holds an earlier run")
        return
    try:
        exclusive = _try_lease(folder)
    except StorageError as exc:
        why = str(exc).rpartition(": ")[2]
        yield wrong(check, f"{folder} cannot be written to ({why})", f"let this user write there, or {_OTHER_OUTPUT}")
        return
    disk = look(folder)
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
    """The output, or where it would be made: the first above it that is there."""
    while not storage.exists(uri) and os.path.dirname(uri) != uri:
        uri = os.path.dirname(uri)
    return uri


def _try_lease(folder: str) -> bool:
    """Do in a folder of its own what a run does in its output; whether one who is shut out stays out."""
    place = storage.join(folder, f".brainray-doctor-{secrets.token_hex(8)}")
    staging, file = storage.join(place, "lease"), storage.join(place, "file")
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
            storage.delete_tree(place)


def check_bucket(uri: str) -> Iterator[Finding]:
    """An output in a bucket: every permission that a run needs is used, each on its own."""
    name = f"--output {uri}"
    probe = storage.join(uri, f".brainray-doctor-{secrets.token_hex(8)}")
    listed = yield from _step(f"{name} list", "s3:ListBucket", lambda: storage.list_names(uri), uri)
    written = yield from _step(f"{name} put", "s3:PutObject", lambda: storage.write_bytes(probe, b"x"), probe)
    if written or listed:  # else what is not there cannot be told from what is forbidden
        yield from _step(f"{name} get", "s3:GetObject", lambda: _get(probe, there=written), probe)
    deleted = yield from _step(f"{name} delete", "s3:DeleteObject", lambda: storage.delete(probe), probe)
    if written and deleted:
        yield from attempted(f"{name} conditional put", lambda: _conditions(f"{name} conditional put", uri))


def _step(name: str, action: str, step: Callable[[], object], about: str) -> Generator[Finding, None, bool]:
    began_s = time.perf_counter()
    try:
        step()
    except BrainrayError as exc:
        yield finding_of_error(name, exc, about=about, remedy=f"see whether the credentials have {action}")
        return False
    yield ok(name, f"allowed, {1000 * (time.perf_counter() - began_s):.0f} ms")
    return True


def _get(probe: str, *, there: bool) -> None:
    try:
        storage.read_bytes(probe)
    except StorageError as exc:
        if there or exc.reason != "not_found":
            raise


def _conditions(name: str, uri: str) -> Iterator[Finding]:
    missing = storage.unsupported_conditions(uri)
    if not missing:
        yield ok(name, "If-None-Match and If-Match are honoured")
        return
    yield warning(
        name,
        f"the store ignores {' and '.join(missing)}: two runs that start within seconds may both hold the output",
        "never start two runs on one output at the same time, or use a store with conditional writes (AWS, MinIO)",
    )
