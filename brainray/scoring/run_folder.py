"""The folder of a run: its files, its state, whether a request fits it, publishing, deleting and verifying it.

Order of writing: manifest, run.json, parts, summary, `_SUCCESS`; when a run is extended, `_SUCCESS` is deleted first.
Must not import Ray or torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from brainray import storage
from brainray.config import ScoreOptions
from brainray.errors import BadRequest, OtherModel, VerificationError
from brainray.imaging.decoding import changes_since
from brainray.inputs.archives.index import FOLDER as ARCHIVE_INDEXES
from brainray.inputs.labels.group_file import GroupFile
from brainray.inputs.labels.label_file import LabelFile
from brainray.models.bundle import Bundle, read_file
from brainray.models.reference import FILE as BUNDLE_REFERENCE
from brainray.storage import Writer
from brainray.storage.scratch import scratch_folder

from .feature_sample import hash_limit
from .parts import part_uri, present_shards
from .prediction_schema import LATER, UID_COLUMNS, KeptTypes
from .pseudonyms.key import FIELD, OPTION, Pseudonyms
from .pseudonyms.names import KeyedNames, RealNames
from .shard_task import Target
from .uids import UidRule, described
from .verify import Verification, verify_parts

SCHEMA_VERSION = 4
RUN = "run.json"
MANIFEST = "manifest"
SUMMARY = "summary"
REFERENCE = "reference.parquet"  # a copy of that of the bundle, which a summary compares the archive with
SUCCESS = "_SUCCESS"
STATUS = "status.json"
_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """A request to score inputs with a model into an output."""

    inputs: tuple[str, ...]
    output: str  # normalised
    bundle: Bundle
    label_file: LabelFile | None
    group_file: GroupFile | None = None
    options: ScoreOptions
    kept: KeptTypes = ()  # types of `options.keep_columns`
    uids: UidRule | None = None  # what rows say of the UIDs of a medical image
    pseudonyms: Pseudonyms | None = None  # what stands in the run for the names of the input

    @property
    def uids_name(self) -> str | None:
        """The name of the rule for UIDs in run.json."""
        return self.uids.name if self.uids else None

    @property
    def names(self) -> KeyedNames | None:
        """The names behind pseudonyms, which are kept before the run has any of them."""
        return KeyedNames(self.pseudonyms.folder, self.pseudonyms.key) if self.pseudonyms else None

    @property
    def roots(self) -> tuple[str, ...]:
        """The inputs as they are read, sorted."""
        return tuple(sorted(storage.normalise(uri) for uri in self.inputs))

    @property
    def run_inputs(self) -> list[str]:
        """The inputs as run.json has them, sorted."""
        return sorted(map(self.pseudonyms.of_input, self.roots)) if self.pseudonyms else list(self.roots)

    def told(self, text: str) -> str:
        """A text that may hold names of the input, as run.json has it."""
        return self.pseudonyms.of_text(text) if self.pseudonyms else text

    def target(self, run_uri: str, writer: Writer, *, run: Mapping[str, Any] | None) -> Target:
        """The part of the request that workers need, for the run at `run_uri`, whose run.json is `run`."""
        return Target(
            run_uri=run_uri,
            fingerprint=self.bundle.fingerprint,
            classes=self.bundle.classes,
            review_below=self.bundle.calibration.review_below,
            kept=self.kept,
            later=(*later_columns(run), *(UID_COLUMNS if self.uids else ())),
            uids=self.uids,
            names=RealNames(self.pseudonyms.folder) if self.pseudonyms else None,
            writer=writer,
            retry_unread=self.options.retry_unread,
            all_series=self.options.all_series,
            features_below=hash_limit((run or {}).get("images") or 0),
        )


@dataclass(frozen=True, kw_only=True)
class OutputState:
    """The state of an output before a run changes it."""

    run: dict[str, Any] | None  # run.json; None where there is no run
    published: bool  # whether there is a _SUCCESS
    present: frozenset[str]  # shards with a part


NO_RUN = OutputState(run=None, published=False, present=frozenset())


def read_run(uri: str) -> dict[str, Any] | None:
    """The run.json of an output; None where there is no run."""
    run_uri = storage.join(uri, RUN)
    return storage.read_json(run_uri) if storage.exists(run_uri) else None


def later_columns(run: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The columns of `LATER` that the rows of a run have; None: of a new run, which has all."""
    if run is None:
        return LATER
    return tuple(run.get("later_columns") or (("seen",) if run.get("marks_seen") else ()))


def row_columns(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that rows of this run have and those of others may lack: of `LATER`, and of UIDs."""
    return (*later_columns(run), *(UID_COLUMNS if run.get("uids") else ()))


def is_published(uri: str) -> bool:
    """Whether the run is complete and verified: it has a `_SUCCESS`."""
    return storage.exists(storage.join(uri, SUCCESS))


def inspect_output(uri: str) -> OutputState:
    """Read the state of an output."""
    return OutputState(run=read_run(uri), published=is_published(uri), present=frozenset(present_shards(uri)))


def check_output(request: ScoreRequest) -> None:
    """Raise `BadRequest` for an output that is a file or below one, other files, or a run that does not fit.

    That is a run of another format, of more inputs, or of another model (then `OtherModel`) without --rescore.
    """
    uri = request.output
    storage.check_is_folder("--output", uri, give="a folder that is new or holds an earlier run")
    before = read_run(uri)
    if before is None:
        # A run that is killed before it writes run.json leaves these two.
        if set(storage.list_names(uri)) - {MANIFEST, ARCHIVE_INDEXES}:
            raise BadRequest(f"--output {uri} holds other files and no run; give a new or an empty folder")
        return
    version = before.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BadRequest(f"--output {uri} holds a run of format {version}, not {SCHEMA_VERSION}; give another output")
    _check_pseudonyms(request, before)
    left_out = set(before.get("inputs", ())) - set(request.run_inputs)
    if left_out:
        texts = request.names.texts() if request.names else {}
        shown = sorted(texts.get(name, name) for name in left_out)
        raise BadRequest(
            f"--output {uri} holds a run of --input {', '.join(shown)} too, whose rows would be lost; "
            "give those inputs as well, or another output"
        )
    if not request.options.rescore:
        _check_model(request, before)


def _check_pseudonyms(request: ScoreRequest, before: Mapping[str, Any]) -> None:
    """Raise `BadRequest` where the run has other pseudonyms than this request gives, or where one of them has none.

    Not with --rescore either: labels, picks and what is kept of the generation before name images, too.
    """
    uri, wanted, pseudonyms = request.output, before.get(FIELD), request.pseudonyms
    if pseudonyms is not None and wanted is None:
        raise BadRequest(f"--output {uri} holds a run with real names; give another output, or leave {OPTION} out")
    if pseudonyms is None and wanted is not None:
        raise BadRequest(
            f"--output {uri} holds a run with pseudonyms; give its folder with {OPTION}, or another output"
        )
    if pseudonyms is not None and pseudonyms.fingerprint != wanted:
        raise BadRequest(
            f"{OPTION} {pseudonyms.folder} is not the folder of --output {uri}, whose key is {wanted}; give that, "
            "restore it, or give another output"
        )


def has_equal_rows(request: ScoreRequest, run: dict[str, Any]) -> bool:
    """Whether a request would give the rows of a run that was begun: of model, precision, columns, UIDs, decoding."""
    try:
        _check_model(request, run)
    except (OtherModel, BadRequest):
        return False
    return not changes_since(run.get("versions") or {})


def _check_model(request: ScoreRequest, before: dict[str, Any]) -> None:
    """Raise `BadRequest` where rows of this request would differ in model, precision or columns from those present."""
    uri, bundle = request.output, request.bundle
    present = (before.get("fingerprint"), before.get("image"), before.get("classes"))
    if present != (bundle.fingerprint, bundle.image.to_json(), list(bundle.classes)):
        raise OtherModel(
            f"--output {uri} holds a run of model {present[0]}, and this model is {bundle.fingerprint}; "
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
    uids = before.get("uids")
    if uids != request.uids_name:
        raise BadRequest(
            f"--output {uri} holds a run with {described(uids)}, and this one has {described(request.uids_name)}; "
            "give the same, another output, or --rescore"
        )


def remove_leftovers(uri: str, *, manifest: Iterable[str], stale: Iterable[str], writer: Writer) -> None:
    """Delete manifest files other than `manifest`, and the parts of the shards `stale`."""
    for name in set(storage.list_names(storage.join(uri, MANIFEST))) - set(manifest):
        writer.delete(storage.join(uri, MANIFEST, name))
    for shard_id in stale:
        writer.delete(part_uri(uri, shard_id))


def write_manifest(uri: str, sources: Sequence[str], writer: Writer) -> list[str]:
    """Copy local manifest files into a run, next to those that its run.json names; gives their names."""
    folder = storage.join(uri, MANIFEST)
    present = set(storage.list_names(folder))
    names = [storage.name_of(source) for source in sources]
    for name, source in zip(names, sources, strict=True):
        if name not in present:  # a file of this name has this content
            writer.write_bytes(storage.join(folder, name), storage.read_bytes(source))
    return names


def write_reference(uri: str, bundle: Bundle, writer: Writer) -> None:
    """Copy the reference of a bundle into a run; without one, delete that of an earlier model."""
    content = read_file(bundle, BUNDLE_REFERENCE)
    if content is None:
        writer.delete(storage.join(uri, REFERENCE))
    else:
        writer.write_bytes(storage.join(uri, REFERENCE), content)


def copy_reference(source: str, uri: str, writer: Writer) -> None:
    """Give the reference of a new generation to the run that it replaces."""
    if storage.exists(storage.join(source, REFERENCE)):
        writer.copy(storage.join(source, REFERENCE), storage.join(uri, REFERENCE))
    else:
        writer.delete(storage.join(uri, REFERENCE))


def delete_run(uri: str, writer: Writer) -> None:
    """Delete a run and its folder. If it is interrupted, the rest does not count as a run."""
    writer.delete_tree(uri, first=(SUCCESS, RUN))


def publish(uri: str, verification: Verification, fingerprint: str, writer: Writer) -> None:
    """Write `_SUCCESS`, which marks the run as complete and verified."""
    success = {"rows": verification.rows, "failed": verification.failed, "fingerprint": fingerprint}
    writer.write_json(storage.join(uri, SUCCESS), success)


def check_is_run(uri: str) -> dict[str, Any]:
    """The run.json of a run. Raises `BadRequest` for a folder without one."""
    run = read_run(uri)
    if run is None:
        raise BadRequest(f"{uri} is no run: it has no {RUN}, give the folder that `brainray score --output` wrote")
    return run


def verify_run(uri: str) -> Verification:
    """Read every row of a run and compare it with the manifest and with the checksums of pages; changes nothing.

    Raises `VerificationError` that names the problems, and `BadRequest` for a folder without a run.
    """
    verification = verification_of(uri)
    if verification.problems:
        parts = " ".join(part_uri(uri, shard_id) for shard_id in verification.broken_shards)
        raise VerificationError(
            f"{uri}: {verification}; remove {parts} and run the same `score` command, which scores them anew"
        )
    return verification


def verification_of(uri: str) -> Verification:
    """The result of verifying a run, with its problems; changes nothing."""
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
