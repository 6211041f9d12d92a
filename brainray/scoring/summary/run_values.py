"""What a summary needs of the run.json of its run."""

from dataclasses import dataclass
from typing import Any

from brainray import storage
from brainray.errors import StorageError
from brainray.scoring.labelling.given_labels import count_given
from brainray.scoring.labelling.judged_wrong import JudgedWrong
from brainray.scoring.pseudonyms.names import KeyedNames, check_readable
from brainray.scoring.run_folder import RUN, check_is_run, later_columns
from brainray.scoring.series.rows import FOLDER


@dataclass(frozen=True, kw_only=True)
class RunValues:
    """What a summary needs of run.json, which is `values`."""

    uri: str
    values: dict[str, Any]
    classes: tuple[str, ...]
    fingerprint: str
    grouped: bool
    levels: tuple[str, ...]  # names of the levels of groups, from the top; one or more where the run is grouped
    labels_given: int  # of `report --labels`
    judged_wrong: JudgedWrong  # by `report --labels`, without a class
    gone: int  # images that are missing in the last listing
    skipped: dict[str, int]
    reference: dict[str, Any] | None  # predictions of the model on its validation images
    reference_images: dict[str, Any] | None  # what those of the bundle's reference look like
    images: int
    later: tuple[str, ...]  # columns that its rows have, where those of an earlier version may lack some
    series_by: str | None  # what names the series of images without a header
    names: KeyedNames | None  # those behind its pseudonyms, where the caller has them


def read_run_values(uri: str, names: KeyedNames | None) -> RunValues:
    """Raises `StorageError` for a run.json that lacks a field."""
    values = check_is_run(uri)
    series_by = values.get("series_by")
    if series_by is not None and names is None:
        check_readable(uri, values, f"--series-by {series_by}")
    try:
        return RunValues(
            uri=uri,
            values=values,
            classes=tuple(values["classes"]),
            fingerprint=values["fingerprint"],
            grouped=values.get("group_by") is not None,
            levels=tuple(values.get("group_levels") or ("group",)),
            labels_given=count_given(uri),
            judged_wrong=JudgedWrong.of_run(uri),
            gone=values.get("gone") or 0,
            skipped=values.get("skipped") or {},
            reference=values.get("reference"),
            reference_images=values.get("reference_images"),
            images=values.get("images") or 0,
            later=later_columns(values),
            series_by=series_by if series_by in (None, FOLDER) or names is None else names.text(series_by),
            names=names,
        )
    except KeyError as exc:
        raise StorageError("read_failed", f"{storage.join(uri, RUN)}: holds no {exc}") from exc
