"""What workers count for Prometheus, through Ray's own metrics: `ray_brainray_…` on each node's metrics port."""

from ray.util.metrics import Counter

from brainray.scoring.shard import DecodedShard
from brainray.scoring.shard_task import Task


class ScoreMetrics:
    """The counters of one worker, by run. They only ever grow, from 0 with each worker that starts."""

    def __init__(self, run_uri: str) -> None:
        def counter(name: str, description: str, *keys: str) -> Counter:
            found = Counter(f"brainray_{name}", description=description, tag_keys=("run", *keys))
            found.set_default_tags({"run": run_uri})
            return found

        self._images = counter("images", "Images that got their row.", "status")
        self._bytes = counter("bytes", "Bytes of those images as listed.")
        self._seconds = counter("seconds", "Seconds of a worker's thread.", "stage")
        self._retries = counter("read_retries", "Reads that were tried again.")
        self._shards = counter("shards", "Shards committed.")

    def count(self, task: Task, decoded: DecodedShard, seconds: dict[str, float]) -> None:
        """A shard that was committed; `seconds` by stage."""
        ok = int(decoded.ok.sum())
        sizes = task.pending["size_bytes"].to_pylist()
        _add(self._images, ok, status="ok")
        _add(self._images, len(decoded.ok) - ok, status="error")
        _add(self._bytes, sum(size or 0 for size in sizes))
        _add(self._retries, decoded.retries)
        _add(self._shards, 1)
        for stage, spent_s in seconds.items():
            _add(self._seconds, spent_s, stage=stage)


def _add(counter: Counter, value: float, **tags: str) -> None:
    if value > 0:  # Ray takes nothing else
        counter.inc(value, tags=tags)
