"""Shows progress at a terminal or in a pipe, and the results: confusion matrix, per-class table, plan, estimate."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from brainray.commands.score import Outcome
from brainray.commands.score import Progress as ScoreProgress
from brainray.evaluation.metrics import IntervalEstimate
from brainray.evaluation.rounding import in_percent, percent_ends, rounded, with_ends
from brainray.page.sections import group_tables
from brainray.page.territory import images_to_pick, sentences
from brainray.page.text import cut, plural
from brainray.scoring.estimate import ERROR, RunEstimate
from brainray.scoring.plan import Plan
from brainray.scoring.series.rollup import UNDECIDED
from brainray.scoring.summary.build import Summary
from brainray.scoring.summary.unseen import judged_wrong_line, seen_line

from .log import Log

_LINE_EVERY_S = 5.0
_PIPE_WIDTH = 200  # a pipe has no width; tables are not folded there
_MOST_GROUPS = 10
_PHASES = {
    "listing": "listing the input",
    "updating": "updating rows",
    "starting": "starting workers",
    "scoring": "scoring",
    "summary": "adding up",
}


class Watcher(Protocol):
    """Shows progress between `with` and its end."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __call__(self, progress: ScoreProgress) -> None: ...


def output_console(stream: TextIO | None = None) -> Console:
    """A console on the standard output, for results."""
    stream = stream or sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else _PIPE_WIDTH,
        soft_wrap=not stream.isatty(),
        highlight=False,
        emoji=False,  # a name such as `12:100:30` is shown as it is
    )


def watcher(log: Log) -> Watcher:
    """A progress bar at a terminal, a line every few seconds in a pipe, or JSON events; all on standard error."""
    if log.log_format == "json":
        return Events(log)
    stream = log.stream or sys.stderr
    return Bar(stream) if stream.isatty() else Lines(stream)


def name_text(name: str) -> str:
    """A name that a user has given, for a text with markup."""
    return escape(cut(name))


def rate_text(images_per_s: float) -> str:
    return f"{images_per_s:,.0f} images/s" if images_per_s >= 10 else f"{images_per_s:.1f} images/s"


def duration_text(seconds: float) -> str:
    """90 -> 1m30s."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


class _Paced:
    """Shows progress when a phase begins, every few seconds during it, and at the end of scoring."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = ("listing", clock())  # so a listing shows its first line only after some seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, progress: ScoreProgress) -> None:
        now = self._clock()
        is_last = progress.phase == "scoring" and progress.done == progress.total
        if self._last[0] == progress.phase and now - self._last[1] < _LINE_EVERY_S and not is_last:
            return
        self._last = (progress.phase, now)
        self._show(progress)

    def _show(self, progress: ScoreProgress) -> None:
        raise NotImplementedError


class Lines(_Paced):
    """Progress as text lines."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._stream = stream

    def _show(self, progress: ScoreProgress) -> None:
        if text := self._text(progress):
            print(text, file=self._stream, flush=True)

    def _text(self, progress: ScoreProgress) -> str | None:
        phase = _PHASES.get(progress.phase)
        if progress.phase == "listing":
            return f"{phase}: {progress.total:,} images so far"
        if progress.phase == "updating":
            return f"{phase}: {progress.done:,} of {progress.total:,} images"
        if progress.phase != "scoring":
            return phase and f"{phase}: {progress.total:,} images"
        left = (progress.total - progress.done) / progress.images_per_s if progress.images_per_s else 0
        return (
            f"scoring: {progress.done:,} of {progress.total:,} images, {progress.failed:,} failed, "
            f"{rate_text(progress.images_per_s)}, {duration_text(left)} left"
        )


class Events(_Paced):
    """Progress as JSON events."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def _show(self, progress: ScoreProgress) -> None:
        self._log.event("progress", **asdict(progress) | {"images_per_s": round(progress.images_per_s, 1)})


class Bar:
    """A progress bar with images per second, failed images and the time left."""

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("[red]{task.fields[failed]}"),
            TimeRemainingColumn(compact=True),
            console=Console(file=stream),
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("starting", total=None, rate="", failed="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, progress: ScoreProgress) -> None:
        self._progress.update(
            self._task,
            description=_PHASES.get(progress.phase, progress.phase),
            total=progress.total or None,
            completed=progress.done,
            rate=rate_text(progress.images_per_s) if progress.images_per_s else "",
            failed=f"{progress.failed:,} failed" if progress.failed else "",
        )


def confusion_table(confusion: pa.Table, classes: list[str]) -> Table:
    """Rows are truth, columns are prediction; groups are added up."""
    counts = confusion.group_by(["label", "predicted"]).aggregate([("images", "sum")]).to_pylist()
    cell = {(row["label"], row["predicted"]): row["images_sum"] for row in counts}
    table = Table(title="Confusion (rows: truth, columns: prediction)", title_justify="left")
    table.add_column("")
    for name in classes:
        table.add_column(name_text(name), justify="right")
    for truth in classes:
        row = {predicted: f"{cell.get((truth, predicted), 0):,}" for predicted in classes}
        table.add_row(name_text(truth), *(f"[bold]{n}[/]" if truth == name else n for name, n in row.items()))
    return table


def per_class_table(per_class: pa.Table) -> Table:
    """Recall, precision and F1 of each class with 95 % intervals; a dash where a figure is undefined."""
    table = Table(title="Per class, with 95 % intervals", title_justify="left")
    for name in ("class", "images", "failed", "recall", "precision", "F1"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in per_class.to_pylist():
        if row["group"] == "all":
            figures = [_estimate(row, name) for name in ("recall", "precision", "f1")]
            table.add_row(name_text(row["class"]), f"{row['support']:,}", f"{row['failed']:,}", *figures)
    return table


def _estimate(row: dict[str, float | None], name: str) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if value is None:
        return "-"
    return rounded(value, 3) if low is None or high is None else with_ends(value, low, high, digits=3)


def group_table(of: Mapping[str, Any], *, labelled: bool) -> Table:
    """The worst groups of a level, with 95 % intervals that are wide where a group is small."""
    shown = of["rows"][:_MOST_GROUPS]
    left = of["number"] - of["unscored"] - len(shown)
    name = name_text(of["level"] or "group")
    table = Table(
        title=f"Worst first by {name}" + (f"; {left:,} more in summary/groups.parquet" if left else ""),
        title_justify="left",
    )
    table.add_column(name)
    counted = ("images", "failed", *(("excluded",) if of["excluded"] else ()), "for review")
    for column in (*counted, *(("labelled", "accuracy") if labelled else ()), "confidence"):
        table.add_column(column, justify="right")
    for row in shown:
        figures = [f"{row[key]:,}" for key in (name.replace(" ", "_") for name in counted)]
        if labelled:
            figures += [f"{row['measured']:,}", _interval(row["accuracy"])]
        confidence = "-" if row["confidence"] is None else rounded(row["confidence"], 3)
        table.add_row(name_text(row["name"]), *figures, confidence)
    return table


def _unscored_line(of: Mapping[str, Any]) -> str:
    """The groups of a level of whose images none was scored: how many, and the first by name."""
    shown = of["unscored_rows"][:_MOST_GROUPS]
    counts = [", ".join(f"{row[key]:,} {key}" for key in ("failed", "excluded") if row[key]) for row in shown]
    named = ", ".join(f"{cut(row['name'])} ({count})" for row, count in zip(shown, counts, strict=True))
    left = of["unscored"] - len(shown)
    more = f"; {left:,} more in summary/groups.parquet" if left else ""
    level = f"{cut(of['level'])}: " if of["level"] else ""
    return f"{level}{plural(of['unscored'], 'group')} without a scored image: {named}{more}"


def _interval(value: IntervalEstimate | None) -> str:
    return "-" if value is None else with_ends(*value, digits=3)


def show_summary(console: Console, summary: Summary) -> None:
    """Print the confusion and per-class tables, or without labels the counts of predictions; then the failures."""
    figures = summary.figures
    totals = figures["totals"]
    measured = figures.get("measured", totals["scored_and_labelled"])  # summaries of earlier versions lack it
    if measured:
        console.print(confusion_table(summary.confusion_of_all, figures["classes"]))
        console.print(per_class_table(summary.per_class_of_all))
        f1 = "" if figures["macro_f1"] is None else f"macro F1 {rounded(figures['macro_f1'], 4)}, "
        labelled = plural(measured, "labelled image" if f1 else "labelled or judged image")
        console.print(f"accuracy {with_ends(**figures['accuracy'])}, {f1}on {labelled}")
        if line := judged_wrong_line(figures):
            console.print(line)
    else:
        counts = ", ".join(f"{cut(name)} {count:,}" for name, count in figures["predicted"].items())
        console.print(f"{_why_unmeasured(totals)}, so there is no accuracy; predicted: {counts}", markup=False)
        if not totals["labelled"] and (images := images_to_pick(figures)):
            picked = plural(images, "image")
            console.print(f"`brainray pick` picks {picked} whose labels would tell it, and how common each class is")
    if line := seen_line(figures):
        console.print(line)
    for line in sentences(figures):
        console.print(line.replace("\N{NO-BREAK SPACE}", " "), markup=False)
    for of in group_tables(figures) if figures.get("groups") else ():
        if of["rows"]:
            console.print(group_table(of, labelled=bool(measured)))
        if of["unscored"]:
            console.print(_unscored_line(of), markup=False, highlight=False)
    for line in _series_lines(figures["series"]) if figures.get("series") else ():
        console.print(line)
    if figures.get("for_review"):
        console.print(_review_line(figures))
    if totals["failed"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in figures["failures"].items())
        console.print(f"[red]{totals['failed']:,} of {totals['images']:,} images failed[/]: {reasons}")
    if figures.get("excluded"):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in figures["excluded"].items())
        images = sum(figures["excluded"].values())
        remedy = "; see --all-series" if figures["excluded"].keys() - {"blank", "no_pixels"} else ""
        console.print(f"{images:,} images are none that the model knows: {reasons}{remedy}")
    if figures.get("gone"):
        console.print(f"{figures['gone']:,} images are gone from the input; their rows are kept")
    if figures.get("skipped"):
        passed = ", ".join(f"{count:,} {reason}" for reason, count in figures["skipped"].items())
        console.print(f"files that are no images, passed over: {passed}", markup=False)


def _why_unmeasured(totals: dict[str, int]) -> str:
    if totals["scored_and_labelled"]:
        return "the model has learned from every labelled image"
    return "no image with a label could be scored" if totals["labelled"] else "no image has a label"


def _review_line(figures: dict[str, Any]) -> str:
    line = f"{figures['for_review']:,} of {figures['totals']['ok']:,} predictions are marked for review"
    accepted = figures["accepted_accuracy"]
    if not accepted:
        return line
    ends = percent_ends(accepted["low"], accepted["high"])
    right = in_percent(accepted["value"])
    return f"{line}; of the others with a label {right} % are right ({ends} %)"


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Print the results of `score`."""
    show_summary(console, outcome.summary)
    if outcome.scored:
        rate = rate_text(outcome.scored / outcome.elapsed_s)
        console.print(
            f"scored {outcome.scored:,} images in {duration_text(outcome.elapsed_s)} ({rate}, start included)"
        )
    else:
        console.print("nothing new to score")
    console.print(f"predictions and summary are in {outcome.plan.uri}", markup=False)


def show_page(console: Console, uri: str | None) -> None:
    """Print where the page of a run is."""
    if uri is not None:
        console.print(f"the page to open is {uri}", markup=False)


def show_plan(console: Console, plan: Plan) -> None:
    """Print what a run would do."""
    listing = plan.listing
    console.print(f"{listing.images:,} images ({listing.size_bytes / 1e6:,.1f} MB), {listing.labelled:,} have a label")
    if listing.skipped:
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in listing.skipped.items())
        console.print(f"passed over: {skipped}", markup=False)
    if plan.before.run:
        counts = {name.replace("_", " "): count for name, count in asdict(plan.changes).items() if count}
        changes = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing has changed"
        console.print(f"since the last listing: {changes}")
    done = plan.images - plan.todo_images
    unread = sum(plan.foreseen.values())
    console.print(
        f"{plan.images:,} rows in {len(plan.shards):,} shards: {done:,} are scored already, "
        f"{plan.todo_images - unread:,} would be scored in {sum(n > 0 for n in plan.pending.values()):,} shards"
    )
    if unread:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.foreseen.items())
        console.print(f"{unread:,} would get an error row unread: {reasons}")
    console.print(f"output: {plan.uri}; nothing was done", markup=False)


def show_estimate(console: Console, expected: RunEstimate, *, price: float | None) -> None:
    """Print how long a run would take, on how many machines, and what they cost."""
    seconds, error = expected.seconds, f"within {ERROR:.0%} on one machine, as measured on its disk and a bucket"
    on = "1 machine" if expected.nodes == 1 else f"{expected.nodes:,} machines"
    console.print(f"expected: {duration_text(seconds)} on {on}, {rate_text(expected.images_per_s)} ({error})")
    if price is not None:
        cost = price * expected.node_hours
        console.print(f"cost: {expected.node_hours:,.2f} machine-hours at {price:g} each: {cost:,.2f}")


def _series_lines(series: Mapping[str, Any]) -> list[str]:
    """What is said of the series of a run, by the rule."""
    said = ", ".join(f"{count:,} {name_text(name)}" for name, count in series["predicted"].items() if count)
    open_ = series["series"] - series["decided"]
    reasons = {name: count for name, count in series["reasons"].items() if name in UNDECIDED}
    why = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in reasons.items())
    lines = [
        f"{series['series']:,} series: {said or 'none decided'}"
        + (f"; of {open_:,} nothing can be said ({why})" if open_ else "")
        + (f"; {series['for_review']:,} for review" if series["for_review"] else "")
    ]
    if accuracy := series["accuracy"]:
        decided = f"{series['measured']:,} decided series with a label"
        lines.append(f"accuracy by series {with_ends(**accuracy)}, on {decided}")
    if studies := series["studies"]:
        of_studies = ", ".join(f"{count:,} {name_text(name)}" for name, count in studies["predicted"].items() if count)
        lines.append(f"{plural(studies['studies'], 'study', 'studies')}: {of_studies or 'none decided'}")
    told = {"doubled": "with doubled slices", "gaps": "with slices missing", "sizes": "of mixed sizes"}
    if defects := [f"{count:,} {told[name]}" for name, count in series["defects"].items() if count]:
        lines.append(f"series that are not whole: {', '.join(defects)}")
    if series.get("beside_failed"):
        lines.append(f"series in folders with failed images that may be their slices: {series['beside_failed']:,}")
    if series.get("labels_unknown"):
        lines.append(f"labels of series that are no class of the model, and left out: {series['labels_unknown']:,}")
    return lines
