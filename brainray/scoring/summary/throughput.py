"""When the workers of a run were busy, with what, and how fast they were, summed over its parts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray.scoring.parts import PartInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """The times at which workers were busy, in microseconds: integers, so that parts can be added in any order."""

    intervals: tuple[tuple[int, int], ...]  # since 1970, disjoint and sorted; pauses between runs are left out
    stages: Mapping[str, int]  # duration by stage, summed over workers
    scored_at: tuple[int, ...]  # first and last time since 1970 at which an image was scored; empty for no rows
    images: int = 0  # images scored in these intervals
    retries: int = 0  # repeated reads

    @classmethod
    def of_part(cls, info: PartInfo, scored_at: pa.ChunkedArray) -> Self:
        """The throughput of one part."""
        times = [(_microseconds(work.started_at), _microseconds(work.finished_at)) for work in info.work]
        stages: Counter[str] = Counter()
        for work in info.work:
            stages.update({stage: round(seconds * 1e6) for stage, seconds in work.seconds.items()})
        return cls(
            intervals=tuple((start, max(start, end)) for start, end in times),  # the clock may have been set back
            stages=stages,
            scored_at=tuple(v for v in pc.min_max(scored_at.cast(pa.int64())).as_py().values() if v is not None),
            images=sum(work.images for work in info.work),
            retries=info.retries,
        )

    @classmethod
    def total(cls, throughputs: Sequence[Self]) -> Self:
        """The throughput of all parts together."""
        stages: Counter[str] = Counter()
        for throughput in throughputs:
            stages.update(throughput.stages)
        times = [time for throughput in throughputs for time in throughput.scored_at]
        intervals = _union(interval for throughput in throughputs for interval in throughput.intervals)
        return cls(
            intervals=intervals,
            stages=stages,
            scored_at=(min(times), max(times)) if times else (),
            images=sum(throughput.images for throughput in throughputs),
            retries=sum(throughput.retries for throughput in throughputs),
        )

    def figures(self) -> dict[str, Any]:
        """For summary.json: `seconds` during which any worker was busy, and `worker_seconds` by stage."""
        busy = sum(end - start for start, end in self.intervals)
        return {
            "images_per_second": self.images * 1e6 / busy if busy else None,
            "read_retries": self.retries,
            "seconds": busy / 1e6,
            "worker_seconds": {stage: self.stages[stage] / 1e6 for stage in sorted(self.stages)},
            "worker_seconds_sum": sum(self.stages.values()) / 1e6,
        }


def _microseconds(iso: str) -> int:
    """An ISO 8601 time as microseconds since 1970, UTC."""
    return (datetime.fromisoformat(iso) - _EPOCH) // _MICROSECOND


def _union(intervals: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The union of intervals, disjoint and sorted."""
    starts, ends = np.array(sorted(intervals), np.int64).reshape(-1, 2).T
    if not len(starts):
        return ()
    reach = np.maximum.accumulate(ends)
    gap = starts[1:] > reach[:-1]
    return tuple(zip(starts[np.r_[True, gap]].tolist(), reach[np.r_[gap, True]].tolist(), strict=True))


def iso(microseconds: int) -> str:
    """A number of microseconds since 1970, UTC, as ISO 8601."""
    return (_EPOCH + microseconds * _MICROSECOND).isoformat(timespec="microseconds")
