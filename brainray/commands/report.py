"""What `brainray report` does: label a run, build its summary, or verify its parts. Needs torch only for maps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from brainray import storage
from brainray.callbacks import Say
from brainray.config import Explain, PageOptions
from brainray.errors import BadRequest, StorageError
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.labels.label_file import LabelFile, read_series_labels
from brainray.scoring.labelling.given_labels import Relabelling, give_labels
from brainray.scoring.pseudonyms.key import FOR_READERS
from brainray.scoring.pseudonyms.names import KeyedNames, names_for, say_of_missing
from brainray.scoring.rescore import finish_switch
from brainray.scoring.run_folder import check_is_run, is_published, publish, verify_run
from brainray.scoring.series.labels import give_series_labels
from brainray.scoring.summary.build import Summary, build_summary
from brainray.scoring.summary.maps import MapMaker
from brainray.scoring.summary.review import kept_line
from brainray.scoring.verify import Verification
from brainray.storage.lease import hold


def report(
    run: str,
    *,
    say: Say,
    page: PageOptions | None = None,
    labels: str | None = None,
    labels_may_miss: bool = False,
    explain: Explain | None = None,
    model: str | None = None,
    real_uris: str | None = None,
) -> Summary:
    """Write the `summary/` of a run from its parts, with a page unless `page` says otherwise.

    `labels` is a label file that labels images of the run first; images that it does not name keep their labels.
    `explain` asks for maps of where scores came from; `model` is where the run's model is now, if it was moved.
    `real_uris` is the folder with the names of a run with pseudonyms.
    """
    if model is not None and explain is None:
        raise BadRequest("--model is for the maps of --explain; give --explain N, review or all too")
    uri = storage.normalise(run)
    values = check_is_run(uri)
    classes = tuple(values["classes"])
    of_series = read_series_labels(storage.normalise(labels), classes) if labels else None
    label_file = read_label_file(storage.normalise(labels), classes) if labels and of_series is None else None
    by_name = f"--series-by {values['series_by']}" if values.get("series_by") else None
    names = names_for(uri, values, real_uris, needed_by="--explain" if explain else by_name)
    if (page or PageOptions()).thumbnails:
        say_of_missing(uri, values, names, say)
    maps = None if explain is None else MapMaker.of_run(values, explain, model=model, say=say, names=names)
    _check_writable(uri)
    with hold(uri, purpose="report", say=say) as lease:
        finish_switch(uri, lease.writer, page, names)  # else rows are of two models, and new labels hide whose it is
        if of_series is not None:
            give_series_labels(uri, *of_series, lease.writer)
        if label_file is None:
            summary = build_summary(uri, lease.writer, page=page, maps=maps, names=names)
        else:
            parts = _SummaryParts(page=page, maps=maps, names=names)
            summary = _labelled(uri, values, label_file, lease.writer, parts, may_miss=labels_may_miss, say=say)
    if of_series is not None:
        say(_describe_series(summary))
    if summary.kept_list is not None:
        say(kept_line(summary.kept_list))
    if maps is not None:
        maps.check()
    return summary


def _describe_series(summary: Summary) -> str:
    """A line for the log: how many of the series that were given a label the run has."""
    series = summary.figures.get("series")
    if series is None:
        return "--labels: it names series, and no image of this run belongs to one; its labels are kept for later"
    given, matched = series["labels_given"], series["labels_matched"]
    more = f", {given - matched:,} other(s) name none of the run" if matched < given else ""
    return f"--labels: {matched:,} of {series['series']:,} series have a label that was given{more}"


def _check_writable(uri: str) -> None:
    try:
        storage.check_access(uri, write=True)
    except StorageError as exc:
        raise BadRequest(
            f"{exc}, and a report writes its summary there; let this user write, or copy the run to another folder "
            "and give the copy"
        ) from exc


@dataclass(frozen=True, kw_only=True)
class _SummaryParts:
    """What a summary has beside figures, and what it needs for that."""

    page: PageOptions | None
    maps: MapMaker | None
    names: KeyedNames | None


def _labelled(
    uri: str,
    values: dict[str, Any],
    label_file: LabelFile,
    writer: storage.Writer,
    parts: "_SummaryParts",
    *,
    may_miss: bool,
    say: Say,
) -> Summary:
    """Label the run first, then build its summary."""
    changes = give_labels(uri, label_file, writer, may_miss=may_miss)
    for line in _describe(label_file, changes):
        say(line)
    summary = build_summary(uri, writer, page=parts.page, maps=parts.maps, names=parts.names)
    if changes.verification is not None:
        publish(uri, changes.verification, values["fingerprint"], writer)
    elif not is_published(uri):
        say(f"{uri} is not complete: it has no _SUCCESS; its `score` command finishes it and keeps these labels")
    return summary


def _describe(label_file: LabelFile, changes: Relabelling) -> Iterator[str]:
    """Lines for the log: what the label file changes, and which of its rows change nothing."""
    yield (
        f"--labels: {changes.named:,} image(s) have their label from it, {changes.new:,} of them had none and "
        f"{changes.changed:,} another; {changes.kept:,} other image(s) keep theirs"
    )
    if changes.other_content:
        yield (
            f"--labels: {changes.other_content:,} answer(s) are left out, as their image, or the prediction that they "
            "call wrong, has changed since; answer again on the page of this run"
        )
    if label_file.without_label:
        yield (
            f"--labels: {label_file.without_label:,} row(s) have no label (empty, NA or unknown); they took back the "
            f"given label of {changes.taken_back:,} image(s)"
        )
    if changes.judged_wrong:
        yield (
            f"--labels: {changes.judged_wrong:,} image(s) are judged wrong without a class; they count as wrong in "
            "accuracy, and as long as their class is not known, mean recall, macro F1 and Brier score are left out"
        )
    if changes.without_image:
        yield f"--labels: {changes.without_image:,} of {label_file.rows:,} row(s) name no image of the run"


def verify(
    run: str,
    *,
    labels: str | None = None,
    explain: object | None = None,
    model: str | None = None,
    real_uris: str | None = None,
) -> Verification:
    """Read every part and compare it with the manifest; write nothing. Raises `VerificationError` for a difference.

    Raises `BadRequest` for options of `report` that are of what it writes.
    """
    options = {"--labels": labels, "--explain": explain, "--model": model, FOR_READERS: real_uris}
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise BadRequest(
            f"--verify writes nothing, so it cannot be combined with {', '.join(given)}; leave one side out"
        )
    return verify_run(storage.normalise(run))
