"""Calls a function of each of many items in threads; holds few results and few calls at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

_AHEAD = 2  # calls for each thread that are begun before the first result is taken

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> Iterator[Result]:
    """What `function` gives of each item, in order.

    `ThreadPoolExecutor.map` makes a future of each item at once, and holds all results that nobody has
    taken yet: for a run of many shards both grow with the run.
    """
    items = iter(items)
    first = list(islice(items, 2))
    if len(first) < 2:  # no thread is started for a single call
        yield from map(function, first)
        return
    with ThreadPoolExecutor(threads) as pool:
        begun = deque[Future[Result]]()
        for item in chain(first, items):
            if len(begun) == _AHEAD * threads:
                yield begun.popleft().result()
            begun.append(pool.submit(function, item))
        while begun:
            yield begun.popleft().result()
