"""`--rescore`: scores everything anew beside the old run, and replaces it when the new one is complete.

The new generation is a run in the hidden folder `.rescore` of the output. It begins with the shards of the old run, so
the switch replaces parts by those of the same name and no image is ever in two. During the switch the output has no
`_SUCCESS`. An interrupted switch is completed by the next run with the new model, or by a report.
"""

from brainray import storage
from brainray.config import PageOptions
from brainray.errors import VerificationError
from brainray.inputs.archives.index import FOLDER as ARCHIVE_INDEXES
from brainray.storage import Writer

from .labelling.given_labels import forget_given
from .parts import part_uri, present_shards
from .pseudonyms.names import KeyedNames
from .run_folder import (
    MANIFEST,
    RUN,
    SUCCESS,
    ScoreRequest,
    copy_reference,
    delete_run,
    has_equal_rows,
    is_published,
    publish,
    read_run,
    remove_leftovers,
    verification_of,
)
from .series.key import hand_over_key
from .summary.build import Summary, build_summary
from .summary.scored_maps import ScoredMaps, take_over

_FOLDER = ".rescore"
# In the new generation while it switches: `--labels` has labelled it, so the labels that the old run was given end with
# that run. A file, because an interrupted switch may be completed by a command without `--labels`.
_LABELS_REPLACED = "labels_replaced"


def next_uri(output: str) -> str:
    """The folder of the new generation of a run."""
    return storage.join(output, _FOLDER)


def is_begun(request: ScoreRequest) -> bool:
    """Whether a new generation with the rows of this request was begun, so that the request goes on with it."""
    begun = read_run(next_uri(request.output))
    return begun is not None and has_equal_rows(request, begun)


def _is_complete(output: str) -> bool:
    """Whether a new generation is complete and can replace the old one."""
    return is_published(next_uri(output))


def finish_switch(
    output: str, writer: Writer, page: PageOptions | None = None, names: KeyedNames | None = None
) -> None:
    """Complete an interrupted switch, after which the output has the run.json of the new generation."""
    if not _is_complete(output) or read_run(output) != read_run(next_uri(output)):
        return
    if is_published(output):
        delete_run(next_uri(output), writer)
    else:
        _complete_switch(output, writer, page, names)


def switch(
    output: str,
    writer: Writer,
    page: PageOptions | None = None,
    names: KeyedNames | None = None,
    *,
    forgets_given_labels: bool = False,
) -> Summary:
    """Replace the old generation by the complete new one, and its given labels if so; idempotent. Gives its summary.

    Raises `VerificationError` where the rows of the result do not match its manifest.
    """
    marker = storage.join(next_uri(output), _LABELS_REPLACED)
    if forgets_given_labels:
        writer.write_bytes(marker, b"")
    else:
        writer.delete(marker)
    return _complete_switch(output, writer, page, names)


def _complete_switch(output: str, writer: Writer, page: PageOptions | None, names: KeyedNames | None) -> Summary:
    new = next_uri(output)
    run = storage.read_json(storage.join(new, RUN))
    writer.delete(storage.join(output, SUCCESS))
    for name in run["manifest"]:
        writer.copy(storage.join(new, MANIFEST, name), storage.join(output, MANIFEST, name))
    for name in storage.list_names(storage.join(new, ARCHIVE_INDEXES)):
        writer.copy(storage.join(new, ARCHIVE_INDEXES, name), storage.join(output, ARCHIVE_INDEXES, name))
    hand_over_key(new, output, writer)
    writer.copy(storage.join(new, RUN), storage.join(output, RUN))  # from here on the output belongs to the new model
    if storage.exists(storage.join(new, _LABELS_REPLACED)):
        forget_given(output, writer)
    copy_reference(new, output, writer)
    parts, before = present_shards(new), present_shards(output)
    # The old run may have been extended since the new one began, and has its latest images in other shards. In this
    # order none of them is in two parts at any time: those of the old run alone go first, those of the new alone last.
    remove_leftovers(output, manifest=run["manifest"], stale=before - parts, writer=writer)
    for shard_id in (*sorted(parts & before), *sorted(parts - before)):
        writer.copy(part_uri(new, shard_id), part_uri(output, shard_id))
    verification = verification_of(output)
    if verification.problems:
        raise VerificationError(f"{output}: rows do not add up after the switch: {verification}")
    take_over(new, output, writer)
    summary = build_summary(output, writer, page=page, maps=ScoredMaps(), names=names)
    publish(output, verification, run["fingerprint"], writer)
    delete_run(new, writer)  # last: without it the same command would score everything again
    return summary
