"""The Python API: `brainray.score`, `train`, `report`, `compare` and `audit`, for notebooks and schedulers.

Arguments are the options of the command line, and the same functions of `commands` do the work. A call prints nothing,
installs no signal handler, and uses a Ray that is connected already. It raises the errors of `brainray.errors`. Without
a connected Ray, calls in several threads of a process take turns.
"""

from collections.abc import Callable, Iterable
from os import fspath
from typing import TYPE_CHECKING

from .callbacks import Say, ignore
from .commands.options import AnyPath, score_options, several, train_options
from .commands.results import AuditResult, ReportResult, ScoreResult, TrainResult
from .config import MaxFailed

if TYPE_CHECKING:
    from .commands.compare import CompareResult
    from .commands.score import Outcome, Progress
    from .models.bundle import Bundle


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
    series_by: str | None = None,
    precision: str = "auto",
    stall_timeout_s: float = 600,
    max_unread: str | float = "50%",
    max_file_size: str | int = "1GiB",
    all_series: bool = False,
    keep_uids: bool = False,
    uid_key: AnyPath | None = None,
    pseudonymise_uris: AnyPath | None = None,
    volumes: str | int = "first",
    retry_unread: bool = False,
    forget_missing: bool = False,
    rescore: bool = False,
    explain: str | int | None = None,
    report: bool = True,
    thumbnails: bool = True,
    on_progress: "Callable[[Progress], None] | None" = None,
    say: Say | None = None,
) -> ScoreResult:
    """Score every image under the inputs that has no row yet: one Parquet row an image.

    `explain` writes maps of where scores came from, as of `report`, of the images that are scored now.
    `pseudonymise_uris` is a folder that takes the names of the input, of which the run has pseudonyms.

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
        series_by=series_by,
        precision=precision,
        stall_timeout_s=stall_timeout_s,
        max_unread=max_unread,
        max_file_size=max_file_size,
        all_series=all_series,
        keep_uids=keep_uids,
        uid_key=_path(uid_key),
        pseudonymise_uris=_path(pseudonymise_uris),
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
    outcome = score_images(request, listener=on_progress or ignore, say=say or ignore)
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
    all_series: bool = False,
    say: Say | None = None,
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
        all_series=all_series,
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
        say=say or ignore,
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
    real_uris: AnyPath | None = None,
    say: Say | None = None,
) -> ReportResult:
    """Build the summary of a run again from its Parquet, after its images got the labels of a file, if one is given.

    `explain` writes maps of where scores came from: of so many images, of those for "review" or of "all", by `model`,
    if that of the run was moved. `real_uris` is the folder that keeps the names of a run with pseudonyms, for all that
    reads its images. With `verify`, compare parts with the manifest, write nothing, and raise `VerificationError` for a
    difference.
    """
    from . import storage
    from .commands.report import report as rebuild
    from .commands.report import verify as verify_parts
    from .config import Explain, PageOptions

    uri = storage.normalise(fspath(run))
    if verify:
        account = verify_parts(
            uri, labels=_path(labels), explain=explain, model=_path(model), real_uris=_path(real_uris)
        )
        return ReportResult(run=uri, images=account.rows, failed=account.failed, verified=True)
    summary = rebuild(
        uri,
        say=say or ignore,
        page=PageOptions(thumbnails=thumbnails),
        labels=_path(labels),
        labels_may_miss=labels_may_miss,
        explain=None if explain is None else Explain.parse(str(explain)),
        model=_path(model),
        real_uris=_path(real_uris),
    )
    totals = summary.figures["totals"]
    return ReportResult(
        run=uri,
        images=totals["images"],
        failed=totals["failed"],
        verified=False,
        figures=summary.figures,
        summary=summary,
    )


def compare(
    a: AnyPath,
    b: AnyPath,
    *,
    output: AnyPath | None = None,
    thumbnails: bool = True,
    real_uris: AnyPath | None = None,
    say: Say | None = None,
) -> "CompareResult":
    """Compare two runs on the images that both have. Writes nothing but into `output`.

    `real_uris` is the folder that keeps the names of runs with pseudonyms, for thumbnails.
    """
    from .commands.compare import compare as compare_runs

    return compare_runs(
        fspath(a),
        fspath(b),
        output=_path(output),
        thumbnails=thumbnails,
        real_uris=_path(real_uris),
        say=say or ignore,
    )


def audit(
    data: AnyPath | Iterable[AnyPath],
    output: AnyPath,
    *,
    against: AnyPath | Iterable[AnyPath] = (),
    groups: AnyPath | None = None,
    group_regex: str | None = None,
    all_series: bool = False,
    say: Say | None = None,
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
        all_series=all_series,
    )
    return AuditResult(output=request.output, figures=find_copies(request, say=say or ignore))


def _path(path: AnyPath | None) -> str | None:
    return fspath(path) if path else None


def _score_result(outcome: "Outcome") -> ScoreResult:
    return ScoreResult(
        run=outcome.plan.uri,
        scored=outcome.scored,
        elapsed_s=outcome.elapsed_s,
        figures=outcome.summary.figures,
        summary=outcome.summary,
    )


def _train_result(bundle: "Bundle") -> TrainResult:
    return TrainResult(model=bundle.uri, fingerprint=bundle.fingerprint, classes=bundle.classes, metrics=bundle.metrics)
