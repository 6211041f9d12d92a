"""When and how long workers were busy, from what each part says of itself. Addable; pauses between runs lie outside."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .parts import PartInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """When and how long workers were busy, in microseconds: integers, so that the order of parts does not matter."""

    intervals: tuple[tuple[int, int], ...]  # disjoint and sorted; pauses between runs lie outside
    stages: Mapping[str, int]
    scored_at: tuple[int, ...]  # the first and the last; nothing for no rows
    images: int = 0  # scored in those intervals
    retries: int = 0

    @classmethod
    def of_part(cls, info: PartInfo, scored_at: pa.ChunkedArray) -> Self:
        times = [(_microseconds(work.started_at), _microseconds(work.finished_at)) for work in info.work]
        stages: Counter[str] = Counter()
        for work in info.work:
            stages.update({stage: round(seconds * 1e6) for stage, seconds in work.seconds.items()})
        return cls(
            intervals=tuple((start, max(start, end)) for start, end in times),  # a clock may have been set back
            stages=stages,
            scored_at=tuple(v for v in pc.min_max(scored_at.cast(pa.int64())).as_py().values() if v is not None),
            images=sum(work.images for work in info.work),
            retries=info.retries,
        )

    @classmethod
    def total(cls, works: Sequence[Self]) -> Self:
        stages: Counter[str] = Counter()
        for work in works:
            stages.update(work.stages)
        times = [time for work in works for time in work.scored_at]
        intervals = _union(interval for work in works for interval in work.intervals)
        return cls(
            intervals=intervals,
            stages=stages,
            scored_at=(min(times), max(times)) if times else (),
            images=sum(work.images for work in works),
            retries=sum(work.retries for work in works),
        )

    def figures(self) -> dict[str, Any]:
        """`seconds` of the clock in which any worker was busy, and of all workers together by stage."""
        busy = sum(end - start for start, end in self.intervals)
        return {
            "images_per_second": self.images * 1e6 / busy if busy else None,
            "read_retries": self.retries,
            "seconds": busy / 1e6,
            "worker_seconds": {stage: self.stages[stage] / 1e6 for stage in sorted(self.stages)},
            "worker_seconds_sum": sum(self.stages.values()) / 1e6,
        }


def _microseconds(iso: str) -> int:
    return (datetime.fromisoformat(iso) - _EPOCH) // _MICROSECOND


def _union(intervals: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same time without overlaps."""
    starts, ends = np.array(sorted(intervals), np.int64).reshape(-1, 2).T
    if not len(starts):
        return ()
    reach = np.maximum.accumulate(ends)
    pause = starts[1:] > reach[:-1]
    return tuple(zip(starts[np.r_[True, pause]].tolist(), reach[np.r_[pause, True]].tolist(), strict=True))


def iso(microseconds: int) -> str:
    """A time since 1970, UTC, as ISO 8601."""
    return (_EPOCH + microseconds * _MICROSECOND).isoformat(timespec="microseconds")
