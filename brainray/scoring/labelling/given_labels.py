"""Labels that a run gets after the fact, from `brainray report --labels`: answers of people, or any label file.

They are kept in `labels.parquet` of the run, so that a later `score`, which lists the inputs again, does not lose them.
An image that the file does not name keeps its label, and every image its prediction. Must not import Ray or torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import BadRequest, VerificationError
from brainray.inputs import archives
from brainray.inputs.frames import frame_uri
from brainray.inputs.frames.listing import files_of_frames, is_frame
from brainray.inputs.labels.label_file import LabelFile
from brainray.inputs.listed_image import LISTED_SCHEMA, UriIndex, tables_in
from brainray.machine.ahead import map_ahead
from brainray.scoring.manifest import Shard, load_shards, rewrite
from brainray.scoring.parts import part_uri, present_shards, read_part_info
from brainray.scoring.run_folder import (
    MANIFEST,
    RUN,
    SCHEMA_VERSION,
    SUCCESS,
    check_is_run,
    copy_manifest,
    is_published,
    remove_leftovers,
    row_columns,
    write_manifest,
)
from brainray.scoring.shard_task import Target, commit_unscored, open_shard
from brainray.scoring.verify import Verification, verify_parts
from brainray.storage import Writer
from brainray.storage.scratch import scratch_folder

from .answered_content import places_of_other_content
from .judged_wrong import FILE as JUDGED
from .judged_wrong import judged_now, read_judged, write_judged

GIVEN = "labels.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("listed", pa.string()),  # the label by the listing, which counts again where this one is taken back
    ]
)
_SIZES = ("size_bytes", "stored_bytes")
_PLACED = ("uri", "container", "offset", *_SIZES)  # columns of the manifest
_THREADS = 8
_Names = tuple[pa.Array, pa.Array, pa.Array, pa.Array]  # URIs, paths below the input, file names, files of frames
_Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Relabelling:
    """What a label file changes in a run; counts are images."""

    named: int = 0  # that get a label by the file
    new: int = 0  # of these, without a label before
    changed: int = 0  # of these, with another label before
    taken_back: int = 0  # whose given label no longer counts
    judged_wrong: int = 0  # whose prediction is wrong by the file, which names no class
    kept: int = 0  # that the file does not name, and that have a label
    without_image: int = 0  # rows of the file that name no image of the run
    other_content: int = 0  # for which the answer is left out, as it was given to other bytes, or to another prediction
    verification: Verification | None = None  # to be published; None where nothing is changed or the run is unfinished


def has_given(run_uri: str) -> bool:
    """Whether a run holds given labels."""
    return storage.exists(storage.join(run_uri, GIVEN))


def read_given(run_uri: str) -> pa.Table:
    """The labels that a run was given, by URI; no rows where it was given none.

    In one chunk: to take a few rows of several chunks costs more.
    """
    if not has_given(run_uri):
        return _SCHEMA.empty_table()
    table = storage.read_parquet(storage.join(run_uri, GIVEN))
    return table.select(_SCHEMA.names).cast(_SCHEMA).combine_chunks()


def count_given(run_uri: str) -> int:
    """The number of labels that a run was given, those of forgotten images included."""
    uri = storage.join(run_uri, GIVEN)
    if not storage.exists(uri):
        return 0
    with storage.open_parquet(uri) as file:
        return int(file.metadata.num_rows)


def forget_given(run_uri: str, writer: Writer) -> None:
    """Delete the labels that a run was given: `score --labels` replaces all labels."""
    writer.delete(storage.join(run_uri, GIVEN))
    writer.delete(storage.join(run_uri, JUDGED))


def given_for(run_uri: str, classes: Sequence[str]) -> pa.Table:
    """The labels that a run was given. Raises `BadRequest` where one is no class of the model that scores it now."""
    given = read_given(run_uri)
    unknown = given.filter(pc.invert(pc.is_in(given["label"], pa.array(classes, pa.string()))))["label"].unique()
    if len(unknown):
        raise BadRequest(
            f"{storage.join(run_uri, GIVEN)}: {', '.join(map(repr, unknown.to_pylist()[:5]))} is no class of the "
            f"model, which knows {', '.join(classes)}; give all labels by --labels, or remove that file"
        )
    return given


def give_labels(run_uri: str, label_file: LabelFile, writer: Writer, *, may_miss: bool = False) -> Relabelling:
    """Label the images of a run by a file; the caller builds the summary and publishes.

    Repeating it changes nothing, and completes what was interrupted. Raises `BadRequest` as `score --labels` does: for
    rows that fit several images, or none unless `may_miss`; and `VerificationError` for a damaged part.
    """
    run = check_is_run(run_uri)
    if run.get("schema_version") != SCHEMA_VERSION:
        version = run.get("schema_version")
        raise BadRequest(f"{run_uri} is a run of format {version}, not {SCHEMA_VERSION}; its labels cannot be changed")
    with scratch_folder() as scratch:
        old = copy_manifest(run_uri, run["manifest"], f"{scratch}/old")
        numbered = label_file.numbered()
        row_N = _matched(old, run, numbered, may_miss=may_miss)
        others = places_of_other_content(run_uri, old, row_N, label_file)
        row_N[others] = -1
        counts = Relabelling(without_image=numbered.without_image, other_content=len(others))
        said = _said(row_N, label_file, run["classes"])
        given_before, judged_before = read_given(run_uri), read_judged(run_uri)
        labeller = _Labeller(said, run["classes"], given_before, counts, judged_before=len(judged_before) > 0)
        shards = rewrite(old, f"{scratch}/{MANIFEST}", labeller)
        before = {shard.shard_id: shard.digest for shard in load_shards(old)}
        changes = any(before[shard.shard_id] != shard.digest for shard in shards)
        given, was_published = labeller.given(), is_published(run_uri)
        wrong, named = labeller.judged()
        judged = judged_now(run_uri, judged_before, wrong, named)
        judged_wrong = pc.sum(pc.is_in(judged["uri"], wrong)).as_py() or 0  # none that could not be scored
        counts = replace(labeller.counts, judged_wrong=judged_wrong)
        same = given.equals(given_before) and judged.equals(judged_before)
        if was_published and not changes and same:
            return counts
        writer.delete(storage.join(run_uri, SUCCESS))
        writer.write_parquet(storage.join(run_uri, GIVEN), given)
        write_judged(run_uri, judged, writer)
        sources = tuple(dict.fromkeys(shard.manifest_uri for shard in shards)) if changes else old
        names = write_manifest(run_uri, sources, writer)
        if changes:
            writer.write_json(storage.join(run_uri, RUN), run | {"manifest": names})
            remove_leftovers(run_uri, manifest=names, stale=(), writer=writer)
        written = _update_parts(run_uri, run, shards if changes else load_shards(old), writer)
        verification = verify_parts(
            run_uri, manifest_files=sources, fingerprint=run["fingerprint"], deep=lambda each: each.shard_id in written
        )
    if not verification.problems:
        return replace(counts, verification=verification)
    if was_published:
        parts = " ".join(part_uri(run_uri, shard_id) for shard_id in verification.broken_shards)
        raise VerificationError(
            f"{run_uri}: {verification}; remove {parts} and run its `score` command, which scores them anew"
        )
    return counts


def _matched(files: Sequence[str], run: dict[str, Any], numbered: LabelFile, *, may_miss: bool) -> _Codes:
    """[N] the number of the row of a label file for each row of manifest files, -1 for none."""
    found = [_numbers(numbered.labels_of(*names)) for names in _names(files, run["inputs"])]
    row_N = np.concatenate(found) if found else np.empty(0, np.int32)
    if not numbered.all_used:
        positions, rows = numbered.near_labels(_names(files, run["inputs"]))
        row_N[positions] = _numbers(rows)
    numbered.check_all_used_once(
        may_miss=may_miss,
        listed=(table for file in files for table in tables_in(file, ["uri"])),
        remedy="; correct them, or give --labels-may-miss where the file has more than the run",
        place="the run",
    )
    return row_N


def _numbers(rows: pa.Array) -> _Codes:
    return np.asarray(pc.fill_null(rows, -1), np.int32)


def _said(row_N: _Codes, label_file: LabelFile, classes: Sequence[str]) -> _Codes:
    """[N] what rows of a label file say: a class, K to take a label back, K + 1 for a wrong one, -1 for nothing."""
    found = pc.index_in(label_file.labels, pa.array(classes, pa.string()), skip_nulls=True)
    codes = np.append(np.asarray(pc.fill_null(found, len(classes)), np.int32), np.int32(-1))
    if label_file.wrong is not None:
        codes[:-1][np.asarray(label_file.wrong.to_numpy(False), bool)] = len(classes) + 1
    return np.asarray(codes[row_N], np.int32)


def _names(files: Sequence[str], inputs: Sequence[str]) -> Iterator[_Names]:
    """The names by which a label file may know the images of manifest files, as a listing of the inputs has them."""
    roots = sorted(inputs, key=len)
    for table in (table for file in files for table in tables_in(file, _PLACED)):
        known = [_known_as(row, roots) for row in table.to_pylist()]
        relative, names = (pa.array([each[place] for each in known], pa.string()) for place in (0, 1))
        yield table["uri"].combine_chunks(), relative, names, files_of_frames(table)


def _known_as(row: dict[str, Any], roots: Sequence[str]) -> tuple[str, str]:
    """The path of an image below its input, and its file name; of a member, its path in the archive counts."""
    uri, container = row["uri"], row["container"]
    if container is None:
        path = inner = _below(uri, roots)
    elif is_frame(container, number := uri[len(container) + 1 :], row["offset"] or 0, *(row[name] for name in _SIZES)):
        path = inner = frame_uri(_below(container, roots), number)
    else:
        inner = archives.inner_path(container, uri[len(container) + 1 :])
        path = archives.member_uri(_below(container, roots), inner)
    return path, inner.rpartition("/")[2]


def _below(uri: str, roots: Sequence[str]) -> str:
    """The path below the input; where none holds the file, below the folder of a list, or below its bucket."""
    for root in roots:
        if uri == root:
            return storage.name_of(root)
        if uri.startswith(root.rstrip("/") + "/"):
            return uri[len(root.rstrip("/")) + 1 :]
    for folder in (root.rpartition("/")[0] + "/" for root in roots):
        if uri.startswith(folder):
            return uri[len(folder) :]
    bucket, slash, key = uri.removeprefix("s3://").partition("/")
    return key if uri.startswith("s3://") and bucket and slash else uri


class _Labeller:
    """Labels the shards of a manifest, one after the other, and collects the given labels."""

    def __init__(
        self, said: _Codes, classes: Sequence[str], given: pa.Table, counts: Relabelling, *, judged_before: bool
    ) -> None:
        self._said, self._classes, self._before = said, pa.array([*classes, None], pa.string()), given
        self._before_at = UriIndex(given["uri"].combine_chunks())
        self._returned = np.zeros(len(given), bool)  # those of the given labels that are taken back
        self._begins = 0
        self._blocks: list[pa.Table] = []
        self._wrong: list[pa.Array] = []  # URIs, of images that the file judges wrong and of the others that it names
        self._named: list[pa.Array] = []
        self._judged_before = judged_before  # else nobody needs the others
        self.counts = counts

    def __call__(self, shard: pa.Table) -> pa.Table:
        """The rows of the next shard with their new labels."""
        said = self._said[self._begins : self._begins + len(shard)]
        self._begins += len(shard)
        old, none = shard["label"].combine_chunks(), len(self._classes) - 1
        place = self._before_at.find(shard["uri"].combine_chunks())
        was_given = np.asarray(place.is_valid().to_numpy(False))
        listed = pc.if_else(place.is_valid(), self._before["listed"].take(place).combine_chunks(), old)
        by_file = self._classes.take(pa.array(np.where(said < 0, none, np.minimum(said, none))))
        takes, returns = (said >= 0) & (said < none), (said >= none) & was_given
        for uris, those in (
            (self._wrong, said > none),
            (self._named, (said >= 0) & (said <= none) & self._judged_before),
        ):
            uris.append(shard["uri"].combine_chunks().filter(pa.array(those)))
        label = pc.if_else(pa.array(takes), by_file, pc.if_else(pa.array(returns), listed, old))
        self._count(takes, returns, old, label)
        block = pa.table([shard["uri"], label, listed], schema=_SCHEMA.remove_metadata()) if takes.any() else None
        if block is not None:
            self._blocks.append(block.filter(pa.array(takes)))
        self._returned[place.filter(pa.array(returns)).to_numpy()] = True
        return shard.set_column(shard.schema.get_field_index("label"), LISTED_SCHEMA.field("label"), label)

    def _count(
        self, takes: npt.NDArray[np.bool_], returns: npt.NDArray[np.bool_], old: pa.Array, label: pa.Array
    ) -> None:
        had = np.asarray(old.is_valid().to_numpy(False))
        equal = np.asarray(pc.fill_null(pc.equal(old, label), False).to_numpy(False))
        counts = self.counts
        self.counts = replace(
            counts,
            named=counts.named + int(takes.sum()),
            new=counts.new + int((takes & ~had).sum()),
            changed=counts.changed + int((takes & had & ~equal).sum()),
            taken_back=counts.taken_back + int(returns.sum()),
            kept=counts.kept + int((~takes & ~returns & had).sum()),
        )

    def judged(self) -> tuple[pa.Array, pa.Array]:
        """The images that the file judges wrong, and the others that it names."""
        wrong, named = (pa.concat_arrays([pa.array([], pa.string()), *uris]) for uris in (self._wrong, self._named))
        return wrong, named

    def given(self) -> pa.Table:
        """All given labels now, by URI; those of images that are forgotten wait for them."""
        now = pa.concat_tables([_SCHEMA.empty_table(), *self._blocks])
        before = self._before.filter(pa.array(~self._returned))
        others = before.filter(pc.invert(pc.is_in(before["uri"], now["uri"].combine_chunks())))
        return pa.concat_tables([now.cast(_SCHEMA), others]).sort_by("uri").combine_chunks()


def _update_parts(run_uri: str, run: dict[str, Any], shards: Sequence[Shard], writer: Writer) -> set[str]:
    """Write the parts anew whose shard has other labels; gives their shards. Parts that lack a row are left alone."""
    target = Target(
        run_uri=run_uri,
        fingerprint=run["fingerprint"],
        classes=tuple(run["classes"]),
        review_below=0.0,  # nothing is predicted
        kept=tuple((name, kind) for name, kind in run.get("kept", ())),
        later=row_columns(run),
        writer=writer,
    )
    present = present_shards(run_uri)

    def update(shard: Shard) -> bool:
        if shard.shard_id not in present or read_part_info(part_uri(run_uri, shard.shard_id)).digest == shard.digest:
            return False
        state = open_shard(shard, target)
        if (state.kept_N < 0).any():
            return False
        commit_unscored(state, target)
        return True

    updated = zip(shards, map_ahead(update, shards, threads=_THREADS), strict=True)
    return {shard.shard_id for shard, written in updated if written}
