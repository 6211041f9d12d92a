"""How often a shard has been begun and not ended: marks that outlive the worker that made them.

A worker that dies cannot count its own death, and Ray hands its shard to the next one for ever. The marks lie in the
staging folder of the run's lease, so they end with the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from brainray import storage

# A worker may die of something else: its neighbour's shard, a node that leaves. Three deaths are no chance.
APART_AFTER = 3
GIVE_UP_AFTER = 6


@contextmanager
def attempt(name: str, writer: storage.Writer) -> Iterator[int]:
    """The number of this attempt at `name`, from 1. One that ends, also by an exception, leaves no mark."""
    staging = writer.staging
    if staging is None:  # a run without an owner has no place for marks
        yield 1
        return
    number = next(n for n in count(1) if writer.create(_mark(staging, name, n)))
    try:
        yield number
    finally:
        for n in range(1, number + 1):
            storage.delete(_mark(staging, name, n))


def _mark(staging: str, name: str, number: int) -> str:
    return storage.join(staging, f"attempt-{name}-{number}")
