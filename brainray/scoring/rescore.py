"""`--rescore`: a new generation of a run grows beside the old, and takes its place when it is complete.

It is a run of its own in the hidden folder `.rescore` of the output. Its shards are those of the old run, so the switch
replaces each part by the part of the same name: no image is ever in two parts. `_SUCCESS` is away during the switch. A
switch that was cut short is completed by the next run of the new model.
"""

from brainray import storage
from brainray.errors import VerificationError
from brainray.inputs.archives.index import FOLDER as CONTAINERS
from brainray.storage import Writer

from .parts import part_uri, present_shards
from .run_folder import (
    MANIFEST,
    RUN,
    SUCCESS,
    delete_run,
    is_published,
    publish,
    read_run,
    remove_leftovers,
    verification_of,
)
from .summary import build_summary

_NEXT = ".rescore"


def next_uri(output: str) -> str:
    """Where the new generation of a run grows."""
    return storage.join(output, _NEXT)


def is_complete(output: str) -> bool:
    """Whether a new generation waits to take the old one's place."""
    return is_published(next_uri(output))


def finish_switch(output: str, writer: Writer) -> None:
    """Go on with a switch that was killed: the output says already that it is the new generation's."""
    if not is_complete(output) or read_run(output) != read_run(next_uri(output)):
        return
    if is_published(output):
        delete_run(next_uri(output), writer)
    else:
        switch(output, writer)


def switch(output: str, writer: Writer) -> None:
    """Put the complete new generation in the old one's place. Running it again goes on where it stopped."""
    new = next_uri(output)
    run = storage.read_json(storage.join(new, RUN))
    writer.delete(storage.join(output, SUCCESS))
    for name in run["manifest"]:
        writer.copy(storage.join(new, MANIFEST, name), storage.join(output, MANIFEST, name))
    for name in storage.list_names(storage.join(new, CONTAINERS)):
        writer.copy(storage.join(new, CONTAINERS, name), storage.join(output, CONTAINERS, name))
    writer.copy(storage.join(new, RUN), storage.join(output, RUN))  # from here on the output is the new model's
    parts = present_shards(new)
    for shard_id in sorted(parts):
        writer.copy(part_uri(new, shard_id), part_uri(output, shard_id))
    remove_leftovers(output, manifest=run["manifest"], stale=present_shards(output) - parts, writer=writer)
    account = verification_of(output)
    if account.wrong:
        raise VerificationError(f"{output}: rows do not add up after the switch: {account}")
    build_summary(output, writer)
    publish(output, account, run["fingerprint"], writer)
    delete_run(new, writer)  # last, for without it the same command would score everything once more
