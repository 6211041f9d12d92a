"""What `brainray score` does: list the images, score the new ones, verify the parts, summarise, publish."""

import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial

from brainray import storage
from brainray.callbacks import Clock, Say, ignore
from brainray.config import MaxFailed, PageOptions, ScoreOptions
from brainray.duplicates.seen import FILE as SEEN
from brainray.duplicates.seen import is_lost, read_seen
from brainray.errors import BadRequest, StorageError, TooManyFailed
from brainray.imaging.decoding import changes_since
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.labels.group_file import read_group_file
from brainray.inputs.lists.kept_columns import kept_types
from brainray.machine.hardware import arrow_in_malloc, return_freed_memory
from brainray.models.bundle import SHIPPED, load_bundle, named
from brainray.scoring import rescore
from brainray.scoring.estimate import RunEstimate
from brainray.scoring.labelling.given_labels import forget_given
from brainray.scoring.manifest import Shard
from brainray.scoring.parts import PartInfo, ShardWork
from brainray.scoring.plan import Plan, begin_run, plan_run, verify_and_close, with_foreseen
from brainray.scoring.prediction_schema import LATER, UID_COLUMNS, prediction_schema
from brainray.scoring.pseudonyms.key import OPTION, Pseudonyms, read_pseudonyms
from brainray.scoring.run_folder import (
    STATUS,
    ScoreRequest,
    check_output,
    delete_run,
    inspect_output,
    later_columns,
    publish,
    read_run,
    write_reference,
)
from brainray.scoring.shard_task import Target, commit_unscored, open_shard
from brainray.scoring.summary.build import Summary, build_summary, has_summary, read_summary
from brainray.scoring.summary.review import kept_line
from brainray.scoring.summary.scored_maps import ScoredMaps
from brainray.scoring.uids import uid_rule
from brainray.storage import Writer
from brainray.storage.lease import Lease, hold, refuse_if_held
from brainray.storage.scratch import scratch_folder

_HEARTBEAT_S = 2.0
# Threads that rewrite parts. On a bucket each part costs about three requests; in memory it takes a few hundred kB.
_UPDATE_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; counts are images."""

    phase: str
    done: int = 0
    failed: int = 0
    total: int = 0
    images_per_s: float = 0.0  # scored by this command, since its first shard began


Listener = Callable[[Progress], None]
ScoreEngine = Callable[[ScoreRequest, Plan, Lease], Generator[PartInfo, None, None]]


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
    inputs: Sequence[str],
    *,
    model: str | None,
    output: str,
    labels: str | None,
    groups: str | None = None,
    options: ScoreOptions,
) -> ScoreRequest:
    """Read the model (default: the shipped one), labels and groups. Raises `BadRequest` for what is wrong with them."""
    if groups and options.group_by:
        raise BadRequest(f"--groups {groups} and --group-by both give each image its group; leave one out")
    bundle = load_bundle(named(model or SHIPPED))
    read_seen(bundle)  # each worker reads it, too; a damaged list is refused here
    # A run that an earlier version began may have kept a column of the name that rows have now; a new generation of it
    # has them all.
    clash = not options.rescore and not set(LATER).isdisjoint(options.keep_columns)
    later = later_columns(read_run(storage.normalise(output))) if clash else LATER
    uids = uid_rule(keep=options.keep_uids, key_file=options.uid_key, output=output)
    pseudonyms = _pseudonyms_of(options, output=output, inputs=inputs)
    taken = prediction_schema(bundle.classes, later=(*later, *(UID_COLUMNS if uids else ()))).names
    kept = kept_types(inputs, options.keep_columns, taken=taken)
    label_file = read_label_file(storage.normalise(labels), bundle.classes) if labels else None
    return ScoreRequest(
        inputs=tuple(inputs),
        output=storage.normalise(output),
        bundle=bundle,
        label_file=label_file,
        group_file=read_group_file(storage.normalise(groups)) if groups else None,
        options=options,
        kept=kept,
        uids=uids,
        pseudonyms=pseudonyms,
    )


def _pseudonyms_of(options: ScoreOptions, *, output: str, inputs: Sequence[str]) -> Pseudonyms | None:
    if options.pseudonymise_uris is None:
        return None
    if options.keep_columns:
        raise BadRequest(f"--keep-columns copies values as they are, and {OPTION} keeps names out; leave one out")
    return read_pseudonyms(options.pseudonymise_uris, output=output, inputs=inputs)


def score(
    request: ScoreRequest,
    *,
    listener: Listener,
    say: Say,
    engine: ScoreEngine | None = None,
    clock: Clock = time.monotonic,
) -> Outcome:
    """Score the images that have no row yet, and publish. Every listed image has a row when this returns.

    `engine` scores the shards of a plan and yields each part once it is committed; the default uses Ray.
    """
    began = clock()
    output = request.output
    check_output(request)
    refuse_if_held(output)
    if is_lost(request.bundle):
        say(f"{request.bundle.uri} has lost {SEEN}, so no row tells whether the model has learned from its image")
    with arrow_in_malloc(), scratch_folder() as scratch:
        job = _Job(
            request=request,
            scratch=scratch,
            listener=listener,
            clock=clock,
            engine=engine or partial(_with_ray, say=say),
            say=_Once(say),
        )
        plan = None if request.options.rescore else job.plan()
        if plan is not None and plan.complete and plan.names is not None:
            plan.names.keep_texts()
        if plan is not None and plan.complete and has_summary(output):
            if request.options.explain:
                say(f"--explain: nothing is scored, so no map is made; `brainray report {output} --explain` makes more")
            return Outcome(plan=plan, summary=read_summary(output), scored=0, elapsed_s=clock() - began)
        _check_writable(output, only_summary=plan is not None and plan.complete)
        with hold(output, purpose="score", say=say) as lease:
            check_output(request)  # again: another run may have ended here just now
            plan, summary = job.rescore(lease) if plan is None else job.bring_up_to_date(lease, plan)
    if summary.kept_list is not None:
        say(kept_line(summary.kept_list))
    return Outcome(plan=plan, summary=summary, scored=plan.todo_images, elapsed_s=clock() - began)


def _check_writable(output: str, *, only_summary: bool) -> None:
    """Raise `BadRequest` where the output cannot be written to, with the way out if every image has its row already."""
    try:
        storage.check_writable("--output", output)
    except BadRequest as exc:
        if not only_summary:
            raise
        raise BadRequest(
            f"{exc}; every image has its row, but the summary is of an earlier version or not there: let this user "
            "write there once, or copy the run to another folder and run `brainray report` on the copy"
        ) from exc


def _say_of_listing(request: ScoreRequest, plan: Plan, say: Say) -> None:
    """Say what was noticed in a listing that was just made, and which rows of the label file label none of it."""
    changes = changes_since((plan.before.run or {}).get("versions") or {}) if plan.before.run else []
    if changes and plan.todo_images:
        say(f"{plan.uri}: earlier rows were decoded otherwise: {'; '.join(changes)}; --rescore scores all images alike")
    for note in plan.listing.notes:
        say(note)
    lost = {"--labels": (plan.changes.unlabelled, "label"), "--groups or --group-by": (plan.changes.ungrouped, "group")}
    for option, (images, what) in lost.items():
        if images:
            say(f"{images:,} image(s) had a {what} in the run and get none now; {option} must be given as before")
    labels = request.label_file
    if labels is not None and labels.without_label:
        say(f"--labels: {labels.without_label:,} row(s) have no label (empty, NA or unknown)")
    if labels is not None and labels.judged_wrong:
        say(
            f"--labels: {labels.judged_wrong:,} row(s) say that a prediction is wrong and name no class, so accuracy "
            "is without these images and flatters; `report RUN --labels` with that file counts them as wrong"
        )
    if labels is not None and labels.without_image:
        say(f"--labels: {labels.without_image:,} of {labels.rows:,} row(s) name no image of the input")
    groups = request.group_file.rows if request.group_file else None
    if groups is not None and groups.without_label:
        say(f"--groups: {groups.without_label:,} row(s) have no group (empty, NA or unknown)")
    if groups is not None and groups.without_image:
        say(f"--groups: {groups.without_image:,} of {groups.rows:,} row(s) name no image of the input")


def check_max_failed(outcome: Outcome, limit: MaxFailed, *, result: object = None) -> None:
    """Raise `TooManyFailed`, which carries `result`, where more images failed than the limit allows."""
    totals = outcome.summary.figures["totals"]
    total = totals["images"] - totals.get("excluded", 0)
    if limit.exceeded(failed=totals["failed"], total=total):
        raise TooManyFailed(
            f"{totals['failed']:,} of {total:,} images failed, more than --max-failed {limit} allows; "
            "every row is written, see the error column",
            result=result,
        )


def plan_only(request: ScoreRequest, *, say: Say = ignore) -> Plan:
    """Plan a run without carrying it out; writes nothing."""
    check_output(request)
    with scratch_folder() as scratch:
        return _plan_only(request, scratch, say)


def _plan_only(request: ScoreRequest, scratch: str, say: Say) -> Plan:
    """The plan of a run, or with --rescore that of the new generation of a run that is there."""
    output = request.output
    if request.options.rescore and read_run(output) is not None:
        new, anew = rescore.next_uri(output), not rescore.is_begun(request)
        plan = plan_run(request, scratch, uri=new, seed=output, anew=anew)
    else:
        plan = plan_run(request, scratch)
    _say_of_listing(request, plan, say)
    return replace(with_foreseen(plan, request), uri=output)


def plan_with_probe(request: ScoreRequest, *, say: Say) -> tuple[Plan, RunEstimate | None]:
    """The plan, and an estimate of its time from scoring some images; None where there is nothing to score."""
    check_output(request)
    with scratch_folder() as scratch:
        plan = _plan_only(request, scratch, say)
        if not plan.todo_images:
            return plan, None
        from brainray.cluster.score import estimate_with_ray

        return plan, estimate_with_ray(request, plan, say=say)


class _Once:
    """Passes each message on once: a run may list its inputs again."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._said: set[str] = set()

    def __call__(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._say(message)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The steps of one `score` command, and what they share."""

    request: ScoreRequest
    scratch: str
    listener: Listener
    say: Say
    clock: Clock
    engine: ScoreEngine

    def plan(self, *, uri: str | None = None, seed: str | None = None) -> Plan:
        """List the input and compare it with the run at `uri`, which starts with the shards of the run at `seed`."""

        def on_listed(images: int) -> None:
            self.listener(Progress(phase="listing", total=images))

        scratch = tempfile.mkdtemp(dir=self.scratch)
        plan = plan_run(self.request, scratch, uri=uri, seed=seed, progress=on_listed)
        _say_of_listing(self.request, plan, self.say)
        return_freed_memory()
        return plan

    def bring_up_to_date(self, lease: Lease, plan: Plan | None = None) -> tuple[Plan, Summary]:
        """Score the new images by `plan`, or by a new plan where another run has changed the output since."""
        output = self.request.output
        rescore.finish_switch(output, lease.writer, self.request.options.page, self.request.names)
        if plan is None or plan.before != inspect_output(output):
            plan = self.plan()
        return plan, self._read_summary(lease) if plan.complete else self._carry_out(plan, lease)

    def rescore(self, lease: Lease) -> tuple[Plan, Summary]:
        """Score all images again in a run of its own, which replaces the old run once it is complete."""
        output = self.request.output
        if read_run(output) is None:
            return self.bring_up_to_date(lease)
        new = rescore.next_uri(output)
        if not rescore.is_begun(self.request):
            rescore.finish_switch(output, lease.writer, self.request.options.page, self.request.names)
            delete_run(new, lease.writer)  # one with other rows, or the rest of one that was being deleted
        plan = self.plan(uri=new, seed=output)
        if not plan.complete:
            self._carry_out(plan, lease)
        replaces = self.request.label_file is not None
        page, names = self.request.options.page, self.request.names
        summary = rescore.switch(output, lease.writer, page, names, forgets_given_labels=replaces)
        return replace(plan, uri=output), summary

    def _read_summary(self, lease: Lease) -> Summary:
        page, names = self.request.options.page, self.request.names
        return read_summary(self.request.output, lease.writer, page=page, names=names)

    def _carry_out(self, plan: Plan, lease: Lease) -> Summary:
        """Write the manifest, update parts, score the pending images, verify, summarise and publish."""
        writer, fingerprint = lease.writer, self.request.bundle.fingerprint
        listener = _StatusFile(self.request.output, self.listener, self.clock, writer)
        plan = begin_run(plan, writer, like=self.request.output)
        write_reference(plan.uri, self.request.bundle, writer)
        if self.request.label_file is not None and plan.uri == self.request.output:
            forget_given(plan.uri, writer)
        self._update_parts(plan, lease, listener)
        if plan.todo_images:
            self._score(plan, lease, listener)
        return_freed_memory()
        account = verify_and_close(plan, writer)
        whole = Progress(phase="summary", done=account.rows, failed=account.failed, total=plan.images)
        listener(whole)
        # A generation beside the old one gets its page when it takes its place.
        page = self.request.options.page if plan.uri == self.request.output else PageOptions(report=False)
        maps = ScoredMaps(explain=self.request.options.explain, say=self.say)
        summary = build_summary(plan.uri, writer, page=page, maps=maps, names=self.request.names)
        publish(plan.uri, account, fingerprint, writer)
        listener(replace(whole, phase="done"))
        return summary

    def _update_parts(self, plan: Plan, lease: Lease, listener: Listener) -> None:
        """Rewrite, in threads, the parts that need no image read: new labels or groups, or rows to drop.

        After the first error, or Ctrl-C, no further part is begun; those in progress are finished.
        """
        shards = [shard for shard in plan.todo if plan.pending[shard.shard_id] == 0]
        if not shards:
            return
        target = self.request.target(plan.uri, lease.writer, run=plan.run_json)
        done = plan.images - plan.todo_images - sum(shard.images for shard in shards)
        listener(Progress(phase="updating", done=done, total=plan.images))
        pool = ThreadPoolExecutor(_UPDATE_THREADS, thread_name_prefix="update")
        try:
            futures = {pool.submit(_update, shard, target): shard for shard in shards}
            for future in as_completed(futures):
                future.result()
                lease.check()
                done += futures[future].images
                listener(Progress(phase="updating", done=done, total=plan.images))
        finally:
            pool.shutdown(cancel_futures=True)

    def _score(self, plan: Plan, lease: Lease, listener: Listener) -> None:
        listener(Progress(phase="starting", done=plan.images - plan.todo_images, total=plan.images))
        # Closed here also after Ctrl-C or an error of the listener: workers end before the lease does.
        with closing(self.engine(self.request, plan, lease)) as parts:
            for progress in _progress(plan, parts, self.clock):
                listener(progress)


def _update(shard: Shard, target: Target) -> None:
    commit_unscored(open_shard(shard, target), target)


def _with_ray(request: ScoreRequest, plan: Plan, lease: Lease, *, say: Say) -> Generator[PartInfo, None, None]:
    """The default engine. Imports Ray, which nothing before it does."""
    from brainray.cluster.score import score_with_ray

    return score_with_ray(request, plan, lease, say=say)


def _progress(plan: Plan, parts: Iterable[PartInfo], clock: Clock) -> Iterator[Progress]:
    """The progress after each part. The rate excludes the start of the workers: it counts from the first shard.

    When that began is told by its duration, for the clock of its machine may differ from this one.
    """
    scored = failed = 0
    began_s = math.inf
    for part in parts:
        scored += plan.pending[part.shard_id]
        failed += part.failed
        now_s = clock()
        began_s = min(began_s, now_s - _duration_s(part.work[-1]))
        yield Progress(
            phase="scoring",
            done=plan.images - plan.todo_images + scored,
            failed=failed,
            total=plan.images,
            images_per_s=scored / max(now_s - began_s, 1e-3),
        )


def _duration_s(work: ShardWork) -> float:
    began, ended = (datetime.fromisoformat(text) for text in (work.started_at, work.finished_at))
    return max(0.0, (ended - began).total_seconds())


class _StatusFile:
    """Passes progress on, and writes it to `status.json` every few seconds for monitoring without Ray."""

    def __init__(self, run_uri: str, listener: Listener, clock: Clock, writer: Writer) -> None:
        self._uri = storage.join(run_uri, STATUS)
        self._writer = writer
        self._listener = listener
        self._clock = clock
        self._written: tuple[str, float] | None = None

    def __call__(self, progress: Progress) -> None:
        self._listener(progress)
        now = self._clock()
        if self._written and self._written[0] == progress.phase and now - self._written[1] < _HEARTBEAT_S:
            return
        self._written = (progress.phase, now)
        status = asdict(progress) | {
            "images_per_s": round(progress.images_per_s, 1),
            "last_progress": datetime.now(UTC).isoformat(timespec="seconds"),
            "holder": {"host": socket.gethostname(), "pid": os.getpid()},
        }
        with suppress(StorageError):  # a missing heartbeat does not end the run
            self._writer.write_json(self._uri, status)
