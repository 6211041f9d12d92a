"""The Python API: `brainray.score`, `train`, `report`, `compare` and `audit`, for notebooks and schedulers.

Arguments are the options of the command line, and the same functions of `commands` do the work. A call prints nothing,
installs no signal handler, and uses a Ray that is connected already. It raises the errors of `brainray.errors`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from os import fspath
from typing import TYPE_CHECKING, Any

from .commands.options import AnyPath, score_options, several, train_options
from .config import MaxFailed

if TYPE_CHECKING:
    import pyarrow as pa

    from .callbacks import Say
    from .commands.compare import CompareResult
    from .commands.score import Outcome, Progress
    from .evaluation.metrics import IntervalEstimate
    from .models.bundle import Bundle


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreResult:
    """A run that is complete. Counts are images of the whole run, but for `scored`."""

    run: str  # URI
    scored: int  # images that this call scored; 0 where nothing was new
    elapsed_s: float
    figures: dict[str, Any] = field(repr=False)  # summary.json
    confusion: "pa.Table" = field(repr=False)  # group, label (truth), predicted, images
    per_class: "pa.Table" = field(repr=False)  # recall, precision and F1 of each class with 95 % intervals

    @property
    def images(self) -> int:
        return int(self.figures["totals"]["images"])

    @property
    def failed(self) -> int:
        return int(self.figures["totals"]["failed"])

    @property
    def gone(self) -> int:
        """Images that were scored once and are no longer in the input."""
        return int(self.figures["gone"])

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.figures["classes"])

    @property
    def accuracy(self) -> "IntervalEstimate | None":
        """`value`, and `low` to `high` as its 95 % interval; None without labels."""
        return _estimate(self.figures["accuracy"])

    @property
    def macro_f1(self) -> float | None:
        value: float | None = self.figures["macro_f1"]
        return value

    def __str__(self) -> str:
        return f"{_run_text(self.figures)}; {self.scored:,} scored by this call; {self.run}"

    def _repr_html_(self) -> str:
        return _run_html(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainResult:
    """A model that `train` wrote."""

    model: str  # URI of the bundle, for `score(model=…)`
    fingerprint: str
    classes: tuple[str, ...]
    metrics: dict[str, Any] = field(repr=False)  # measured on pictures that were not trained on

    @property
    def accuracy(self) -> "IntervalEstimate | None":
        """`value`, and `low` to `high` as its 95 % interval."""
        return _estimate(self.metrics["accuracy"])

    def __str__(self) -> str:
        return f"{_accuracy_text(self.accuracy)} on {self.metrics['images']:,} pictures; {self.model}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportResult:
    """The figures of a run, built again from its Parquet; with `verify` only the counts, for nothing is written."""

    run: str  # URI
    images: int
    failed: int
    verified: bool
    figures: dict[str, Any] | None = field(default=None, repr=False)  # summary.json
    confusion: "pa.Table | None" = field(default=None, repr=False)
    per_class: "pa.Table | None" = field(default=None, repr=False)

    @property
    def accuracy(self) -> "IntervalEstimate | None":
        """`value`, and `low` to `high` as its 95 % interval; None without labels, and with `verify`."""
        return _estimate(self.figures["accuracy"]) if self.figures else None

    @property
    def macro_f1(self) -> float | None:
        value: float | None = self.figures["macro_f1"] if self.figures else None
        return value

    def __str__(self) -> str:
        if self.figures:
            return f"{_run_text(self.figures)}; {self.run}"
        return f"{self.images:,} rows, {self.failed:,} failed, verified; {self.run}"

    def _repr_html_(self) -> str:
        return _run_html(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditResult:
    """The groups of images that show the same picture."""

    output: str  # URI of the folder with groups.parquet, proposed_groups.csv, summary.json and audit.html
    figures: dict[str, Any] = field(repr=False)  # summary.json

    @property
    def images(self) -> int:
        return int(self.figures["images"])

    @property
    def pictures(self) -> int:
        """Distinct pictures among the readable images."""
        return int(self.figures["pictures"])

    @property
    def surplus(self) -> int:
        """Readable images beyond one of each picture."""
        return int(self.figures["surplus"])

    @property
    def conflicts(self) -> int:
        """Pictures with images in two class folders."""
        return int(self.figures["conflicts"]["pictures"])

    @property
    def groups(self) -> "pa.Table":
        """groups.parquet, a row for each image; read at each call."""
        from . import storage
        from .commands.audit import GROUPS

        return storage.read_parquet(storage.join(self.output, GROUPS))

    def __str__(self) -> str:
        return (
            f"{self.images:,} images of {self.pictures:,} pictures, {self.surplus:,} surplus, "
            f"{self.conflicts:,} pictures with two labels; {self.output}"
        )


def score(
    input: AnyPath | Iterable[AnyPath],
    output: AnyPath,
    *,
    model: AnyPath = "shipped",
    labels: AnyPath | None = None,
    labels_may_miss: bool = False,
    workers: int | None = None,
    batch_size: int | None = None,
    shard_size: int | None = None,
    max_failed: str | int | MaxFailed = "1%",
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    any_suffix: bool = False,
    keep_columns: str | Iterable[str] = (),
    group_by: str | Iterable[str] | None = None,
    groups: AnyPath | None = None,
    precision: str = "auto",
    stall_timeout_s: float = 600,
    max_unread: str | float = "50%",
    max_file_size: str | int = "1GiB",
    all_series: bool = False,
    volumes: str | int = "first",
    retry_unread: bool = False,
    forget_missing: bool = False,
    rescore: bool = False,
    explain: str | int | None = None,
    report: bool = True,
    thumbnails: bool = True,
    on_progress: "Callable[[Progress], None] | None" = None,
    say: "Say | None" = None,
) -> ScoreResult:
    """Score every image under the inputs that has no row yet: one Parquet row an image.

    `explain` writes maps of where scores came from, as of `report`, of the images that are scored now.

    Raises `TooManyFailed`, with the result as its `result`, after every row is written.
    """
    from .commands.score import check_max_failed, read_request
    from .commands.score import score as score_images

    options = score_options(
        labels_may_miss=labels_may_miss,
        workers=workers,
        batch_size=batch_size,
        shard_size=shard_size,
        max_failed=max_failed,
        include=include,
        exclude=exclude,
        any_suffix=any_suffix,
        keep_columns=keep_columns,
        group_by=group_by,
        precision=precision,
        stall_timeout_s=stall_timeout_s,
        max_unread=max_unread,
        max_file_size=max_file_size,
        all_series=all_series,
        volumes=str(volumes),
        retry_unread=retry_unread,
        forget_missing=forget_missing,
        rescore=rescore,
        explain=explain,
        report=report,
        thumbnails=thumbnails,
    )
    request = read_request(
        several(input),
        model=fspath(model),
        output=fspath(output),
        labels=_path(labels),
        groups=_path(groups),
        options=options,
    )
    outcome = score_images(request, listener=on_progress or _ignore, say=say or _ignore)
    result = _score_result(outcome)
    check_max_failed(outcome, options.max_failed, result=result)
    return result


def train(
    data: AnyPath,
    output: AnyPath,
    *,
    preset: str = "quick",
    workers: int | str | tuple[int, int] | None = None,
    epochs: int | None = None,
    model: str | None = None,
    init: AnyPath | None = None,
    weights: str = "none",
    teacher: AnyPath | None = None,
    image_px: int | None = None,
    channels: int | None = None,
    width: float | None = None,
    batch_size: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
    crop: str | None = None,
    augment: float = 0.5,
    folds: int = 0,
    keep_folds: bool = False,
    groups: AnyPath | None = None,
    boxes: AnyPath | None = None,
    group_regex: str | None = None,
    val_fraction: float = 0.15,
    patience: int | None = None,
    precision: str = "auto",
    exclude: AnyPath | None = None,
    say: "Say | None" = None,
) -> TrainResult:
    """Fit a model to a folder of class folders and write its bundle.

    `workers` is a number, or the lowest and the highest one. None stands for the preset's value, or the default.
    """
    from .commands.train import train as fit_model
    from .models.bundle import load_bundle, named

    start = load_bundle(named(fspath(init))) if init else None
    options = train_options(
        preset=preset,
        workers=workers,
        init=start,
        epochs=epochs,
        model=model,
        weights=weights,
        image_px=image_px,
        channels=channels,
        width=width,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        crop=crop,
        augment=augment,
        folds=folds,
        group_regex=group_regex,
        val_fraction=val_fraction,
        patience=patience,
        precision=precision,
    )
    bundle = fit_model(
        fspath(data),
        output=fspath(output),
        exclude=_path(exclude),
        groups=_path(groups),
        boxes=_path(boxes),
        options=options,
        init=start,
        teacher=load_bundle(named(fspath(teacher))) if teacher else None,
        keep_folds=keep_folds,
        say=say or _ignore,
    )
    return _train_result(bundle)


def report(
    run: AnyPath,
    *,
    verify: bool = False,
    labels: AnyPath | None = None,
    labels_may_miss: bool = False,
    thumbnails: bool = True,
    explain: str | int | None = None,
    model: AnyPath | None = None,
    say: "Say | None" = None,
) -> ReportResult:
    """Build the summary of a run again from its Parquet, after its images got the labels of a file, if one is given.

    `explain` writes maps of where scores came from: of so many images, of those for "review" or of "all", by `model`,
    if that of the run was moved. With `verify`, compare parts with the manifest, write nothing, and raise
    `VerificationError` for a difference.
    """
    from . import storage
    from .commands.report import report as rebuild
    from .commands.report import verify as verify_parts
    from .config import Explain, PageOptions

    uri = storage.normalise(fspath(run))
    if verify:
        account = verify_parts(uri, labels=_path(labels), explain=explain, model=_path(model))
        return ReportResult(run=uri, images=account.rows, failed=account.failed, verified=True)
    summary = rebuild(
        uri,
        say=say or _ignore,
        page=PageOptions(thumbnails=thumbnails),
        labels=_path(labels),
        labels_may_miss=labels_may_miss,
        explain=None if explain is None else Explain.parse(str(explain)),
        model=_path(model),
    )
    totals = summary.figures["totals"]
    return ReportResult(
        run=uri,
        images=totals["images"],
        failed=totals["failed"],
        verified=False,
        figures=summary.figures,
        confusion=summary.confusion,
        per_class=summary.per_class,
    )


def compare(
    a: AnyPath, b: AnyPath, *, output: AnyPath | None = None, thumbnails: bool = True, say: "Say | None" = None
) -> "CompareResult":
    """Compare two runs on the images that both have. Writes nothing but into `output`."""
    from .commands.compare import compare as compare_runs

    return compare_runs(fspath(a), fspath(b), output=_path(output), thumbnails=thumbnails, say=say or _ignore)


def audit(
    data: AnyPath | Iterable[AnyPath],
    output: AnyPath,
    *,
    against: AnyPath | Iterable[AnyPath] = (),
    groups: AnyPath | None = None,
    group_regex: str | None = None,
    say: "Say | None" = None,
) -> AuditResult:
    """Find images that show the same picture, whatever was done to it, and pictures with two labels."""
    from .commands.audit import AuditRequest
    from .commands.audit import audit as find_copies

    request = AuditRequest.of(
        several(data),
        against=several(against),
        output=fspath(output),
        group_regex=group_regex,
        groups=_path(groups),
    )
    return AuditResult(output=request.output, figures=find_copies(request, say=say or _ignore))


def _path(path: AnyPath | None) -> str | None:
    return fspath(path) if path else None


def _ignore(_: object) -> None:
    """Takes the messages and the progress that the caller does not ask for."""


def _score_result(outcome: "Outcome") -> ScoreResult:
    return ScoreResult(
        run=outcome.plan.uri,
        scored=outcome.scored,
        elapsed_s=outcome.elapsed_s,
        figures=outcome.summary.figures,
        confusion=outcome.summary.confusion,
        per_class=outcome.summary.per_class,
    )


def _train_result(bundle: "Bundle") -> TrainResult:
    return TrainResult(model=bundle.uri, fingerprint=bundle.fingerprint, classes=bundle.classes, metrics=bundle.metrics)


def _estimate(values: dict[str, float] | None) -> "IntervalEstimate | None":
    from .evaluation.metrics import IntervalEstimate

    return IntervalEstimate(**values) if values else None


def _accuracy_text(accuracy: "IntervalEstimate | None") -> str:
    return f"accuracy {accuracy.value:.4f} ({accuracy.low:.4f} to {accuracy.high:.4f})" if accuracy else "no accuracy"


def _run_text(figures: dict[str, Any]) -> str:
    totals, accuracy = figures["totals"], _accuracy_text(_estimate(figures["accuracy"]))
    seen = (figures.get("seen") or {}).get("labelled")  # summaries of earlier versions lack it
    without = f" without {seen:,} that the model has learned from" if seen else ""
    return f"{totals['images']:,} images, {totals['failed']:,} failed; {accuracy}{without}"


def _run_html(result: ScoreResult | ReportResult) -> str:
    """The result in a line, and below it the confusion table where images have labels."""
    figures, confusion = result.figures, result.confusion
    line = f"<p>{escape(str(result))}</p>"
    if not figures or confusion is None or not figures.get("measured", figures["totals"]["scored_and_labelled"]):
        return line
    classes = figures["classes"]
    counts: dict[tuple[str, str], int] = {}
    for row in confusion.to_pylist():  # a row for each group
        cell = row["label"], row["predicted"]
        counts[cell] = counts.get(cell, 0) + row["images"]
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    body = "".join(
        f"<tr><th>{escape(truth)}</th>{''.join(f'<td>{counts.get((truth, name), 0):,}</td>' for name in classes)}</tr>"
        for truth in classes
    )
    caption = "<caption>Confusion (rows: truth, columns: prediction)</caption>"
    return f"{line}<table>{caption}<tr><th></th>{head}</tr>{body}</table>"
