"""What `brainray score` does, step by step, for anybody who listens: list, score, account, summarise, publish."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from . import storage
from .bundle import Bundle, load_bundle
from .config import ScoreOptions
from .report import Summary, build_summary
from .results import PartInfo
from .run import STATUS, Plan, close_run, open_run, publish
from .truth import load_truth

_HEARTBEAT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; counts are images."""

    phase: str
    done: int = 0
    failed: int = 0
    total: int = 0
    elapsed_s: float = 0.0
    images_per_s: float = 0.0


Listener = Callable[[Progress], None]


class Heartbeat(Protocol):
    """Keeps `status.json` fresh."""

    def __call__(self, progress: Progress) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    plan: Plan
    summary: Summary
    scored: int  # images scored by this command
    elapsed_s: float

    @property
    def failed(self) -> int:
        return int(self.summary.json["totals"]["failed"])


def score(
    inputs: Sequence[str],
    *,
    model: str,
    output: str,
    labels: str | None,
    options: ScoreOptions,
    listener: Listener,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Score what is not scored yet, and publish. Every image listed has its row when this returns."""
    began = clock()
    bundle = load_bundle(storage.normalise(model))
    run_uri = storage.normalise(output)
    truth = load_truth(storage.normalise(labels), bundle.classes) if labels else None
    listener(Progress(phase="listing"))
    plan = open_run(inputs, output=run_uri, bundle=bundle, truth=truth, options=options)
    if not plan.complete:
        _score_todo(plan, bundle, options, listener, clock)
        account = close_run(plan, bundle)
        listener(Progress(phase="summary", done=account.rows, failed=account.failed, total=plan.listing.images))
        summary = build_summary(run_uri)
        publish(plan, bundle, account)
    else:
        summary = build_summary(run_uri)
    scored = sum(shard.images for shard in plan.todo)
    return Outcome(plan=plan, summary=summary, scored=scored, elapsed_s=clock() - began)
