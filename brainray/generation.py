"""`--rescore`: a new generation of a run grows beside the old, and takes its place when it is complete.

It is a run of its own in the hidden folder `.rescore` of the output. Its shards are those of the old run, so the switch
replaces each part by the part of the same name: no image is ever in two parts. `_SUCCESS` is away during the switch. A
switch that was cut short is completed by the next run of the new model.
"""

from . import storage
from .errors import AccountingError
from .report import build_summary
from .results import part_uri, present_shards
from .run import MANIFEST, RUN, SUCCESS, account_of, is_published, publish, read_run
from .storage import Writer

_NEXT = ".rescore"


def next_uri(output: str) -> str:
    """Where the new generation of a run grows."""
    return storage.join(output, _NEXT)


def is_complete(output: str) -> bool:
    """Whether a new generation waits to take the old one's place."""
    return is_published(next_uri(output))


def is_half_switched(output: str) -> bool:
    """Whether a complete generation has begun to take the old one's place."""
    if not is_complete(output) or is_published(output):
        return False
    old, new = read_run(output), read_run(next_uri(output))
    return old == new


def clear(output: str, writer: Writer) -> None:
    """Remove a generation that has taken its place already, but was killed before it could be removed."""
    if is_complete(output) and is_published(output) and read_run(output) == read_run(next_uri(output)):
        writer.delete_tree(next_uri(output))


def switch(output: str, writer: Writer) -> None:
    """Put the complete new generation in the old one's place. Running it again goes on where it stopped."""
    new = next_uri(output)
    run = storage.read_json(storage.join(new, RUN))
    writer.delete(storage.join(output, SUCCESS))
    for name in run["manifest"]:
        writer.copy(storage.join(new, MANIFEST, name), storage.join(output, MANIFEST, name))
    writer.copy(storage.join(new, RUN), storage.join(output, RUN))  # from here on the output is the new model's
    parts = present_shards(new)
    for shard_id in sorted(parts):
        writer.copy(part_uri(new, shard_id), part_uri(output, shard_id))
    for shard_id in present_shards(output) - parts:
        writer.delete(part_uri(output, shard_id))
    for name in set(storage.list_names(storage.join(output, MANIFEST))) - set(run["manifest"]):
        writer.delete(storage.join(output, MANIFEST, name))
    account = account_of(output)
    if account.wrong:
        raise AccountingError(f"{output}: rows do not add up after the switch: {account}")
    build_summary(output, writer)
    publish(output, account, run["fingerprint"], writer)
    writer.delete_tree(new)  # last, for without it the same command would score everything once more
