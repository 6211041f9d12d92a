"""What the functions of the Python API give: counts and figures of a run, a model, a report or an audit."""

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from brainray.evaluation.rounding import with_ends

if TYPE_CHECKING:
    import pyarrow as pa

    from brainray.evaluation.metrics import IntervalEstimate
    from brainray.scoring.summary.build import Summary


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreResult:
    """A run that is complete. Counts are images of the whole run, but for `scored`."""

    run: str  # URI
    scored: int  # images that this call scored; 0 where nothing was new
    elapsed_s: float
    figures: dict[str, Any] = field(repr=False)  # summary.json
    summary: "Summary" = field(repr=False)

    @property
    def confusion(self) -> "pa.Table":
        """confusion.parquet: group, label (truth), predicted, images; read when it is first asked for."""
        return self.summary.confusion

    @property
    def per_class(self) -> "pa.Table":
        """per_class.parquet: recall, precision and F1 of each class with 95 % intervals; read likewise."""
        return self.summary.per_class

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
        from brainray.training.learned_before import flatters

        known = " that it may know already" if flatters(self.metrics) else ""
        return f"{_accuracy_text(self.accuracy)} on {self.metrics['images']:,} pictures{known}; {self.model}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportResult:
    """The figures of a run, built again from its Parquet; with `verify` only the counts, for nothing is written."""

    run: str  # URI
    images: int
    failed: int
    verified: bool
    figures: dict[str, Any] | None = field(default=None, repr=False)  # summary.json
    summary: "Summary | None" = field(default=None, repr=False)

    @property
    def confusion(self) -> "pa.Table | None":
        """As that of `ScoreResult`; None with `verify`."""
        return self.summary.confusion if self.summary else None

    @property
    def per_class(self) -> "pa.Table | None":
        """As that of `ScoreResult`; None with `verify`."""
        return self.summary.per_class if self.summary else None

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
        from brainray import storage

        from .audit import GROUPS

        return storage.read_parquet(storage.join(self.output, GROUPS))

    def __str__(self) -> str:
        return (
            f"{self.images:,} images of {self.pictures:,} pictures, {self.surplus:,} surplus, "
            f"{self.conflicts:,} pictures with two labels; {self.output}"
        )


def _estimate(values: dict[str, float] | None) -> "IntervalEstimate | None":
    from brainray.evaluation.metrics import IntervalEstimate

    return IntervalEstimate(**values) if values else None


def _accuracy_text(accuracy: "IntervalEstimate | None") -> str:
    return f"accuracy {with_ends(*accuracy)}" if accuracy else "no accuracy"


def _run_text(figures: dict[str, Any]) -> str:
    totals, accuracy = figures["totals"], _accuracy_text(_estimate(figures["accuracy"]))
    seen = (figures.get("seen") or {}).get("labelled")  # summaries of earlier versions lack it
    without = f" without {seen:,} that the model has learned from" if seen else ""
    return f"{totals['images']:,} images, {totals['failed']:,} failed; {accuracy}{without}"


def _run_html(result: ScoreResult | ReportResult) -> str:
    """The result in a line, and below it the confusion table where images have labels."""
    figures, summary = result.figures, result.summary
    line = f"<p>{escape(str(result))}</p>"
    if not figures or summary is None or not figures.get("measured", figures["totals"]["scored_and_labelled"]):
        return line
    classes = figures["classes"]
    counts = {(row["label"], row["predicted"]): row["images"] for row in summary.confusion_of_all.to_pylist()}
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    body = "".join(
        f"<tr><th>{escape(truth)}</th>{''.join(f'<td>{counts.get((truth, name), 0):,}</td>' for name in classes)}</tr>"
        for truth in classes
    )
    caption = "<caption>Confusion (rows: truth, columns: prediction)</caption>"
    return f"{line}<table>{caption}<tr><th></th>{head}</tr>{body}</table>"
