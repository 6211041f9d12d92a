"""What `brainray score` does, step by step, for anybody who listens: list, score, account, summarise, publish."""

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from . import storage
from .bundle import load_bundle
from .config import ScoreOptions
from .report import Summary, build_summary, read_summary
from .results import PartInfo
from .run import STATUS, Plan, Request, close_run, open_run, publish
from .truth import load_truth

_HEARTBEAT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; counts are images."""

    phase: str
    done: int = 0
    failed: int = 0
    total: int = 0
    images_per_s: float = 0.0  # of this command, since its first shard was begun


Listener = Callable[[Progress], None]
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    plan: Plan
    summary: Summary
    scored: int  # images scored by this command
    elapsed_s: float

    @property
    def failed(self) -> int:
        return int(self.summary.figures["totals"]["failed"])


def read_request(
    inputs: Sequence[str], *, model: str, output: str, labels: str | None, options: ScoreOptions
) -> Request:
    """Read the model and the labels. Raises `BadRequest` for what is wrong with them."""
    bundle = load_bundle(storage.normalise(model))
    truth = load_truth(storage.normalise(labels), bundle.classes) if labels else None
    return Request(inputs=tuple(inputs), output=storage.normalise(output), bundle=bundle, truth=truth, options=options)


def score(request: Request, *, listener: Listener, clock: Clock = time.monotonic) -> Outcome:
    """Score what is not scored yet, and publish. Every image listed has its row when this returns."""
    began = clock()
    plan = open_run(request, progress=lambda images: listener(Progress(phase="listing", total=images)))
    if plan.complete:
        summary = read_summary(plan.uri)
    else:
        summary = _finish(plan, request, _Status(plan.uri, listener, clock), clock)
    scored = sum(shard.images for shard in plan.todo)
    return Outcome(plan=plan, summary=summary, scored=scored, elapsed_s=clock() - began)


def _finish(plan: Plan, request: Request, listener: "_Status", clock: Clock) -> Summary:
    if plan.todo:
        _score_todo(plan, request, listener, clock)
    account = close_run(plan, request.bundle)
    whole = Progress(phase="summary", done=account.rows, failed=account.failed, total=plan.listing.images)
    listener(whole)
    summary = build_summary(plan.uri)
    publish(plan, request.bundle, account)
    listener(replace(whole, phase="done"))
    return summary


def _score_todo(plan: Plan, request: Request, listener: Listener, clock: Clock) -> None:
    """The part that needs Ray, which is imported here and not before."""
    options = request.options
    listener(Progress(phase="starting", done=plan.done_images, total=plan.listing.images))
    from .ray_score import ScoreJob, score_shards
    from .ray_session import score_pool, session

    with session(lean=True) as nodes:
        pool = score_pool(nodes, workers=options.workers, shards=len(plan.todo))
        job = ScoreJob(
            run_uri=plan.uri,
            bundle=request.bundle,
            batch_size=options.batch_size,
            precision=options.precision,
        )
        for progress in _progress(plan, score_shards(plan.todo, job, pool, stall_timeout_s=options.stall_timeout_s)):
            listener(progress)


def _progress(plan: Plan, parts: Iterable[PartInfo]) -> Iterator[Progress]:
    """Counts after each part. The rate counts from when the first shard was begun, for starting the workers is over."""
    scored = failed = 0
    begun: datetime | None = None
    for part in parts:
        scored += part.rows
        failed += part.failed
        started_at = datetime.fromisoformat(part.started_at)
        begun = min(begun or started_at, started_at)
        seconds = (datetime.now(UTC) - begun).total_seconds()
        yield Progress(
            phase="scoring",
            done=plan.done_images + scored,
            failed=failed,
            total=plan.listing.images,
            images_per_s=scored / max(seconds, 1e-3),
        )


class _Status:
    """Passes progress on, and keeps `status.json` fresh for monitoring that has no Ray."""

    def __init__(self, run_uri: str, listener: Listener, clock: Clock) -> None:
        self._uri = storage.join(run_uri, STATUS)
        self._listener = listener
        self._clock = clock
        self._written: tuple[str, float] | None = None

    def __call__(self, progress: Progress) -> None:
        self._listener(progress)
        now = self._clock()
        if self._written and self._written[0] == progress.phase and now - self._written[1] < _HEARTBEAT_S:
            return
        self._written = (progress.phase, now)
        storage.write_json(
            self._uri,
            asdict(progress)
            | {
                "images_per_s": round(progress.images_per_s, 1),
                "last_progress": datetime.now(UTC).isoformat(timespec="seconds"),
                "holder": {"host": socket.gethostname(), "pid": os.getpid()},
            },
        )
