"""`brainray compare`: its options, and how its results are shown."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from brainray.evaluation.rounding import rounded, with_ends

from .json_object import OBJECT, Json
from .log import LOG
from .options import RealUris, Thumbnails

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MOST_PAIRS, _MOST_GROUPS = 20, 10


def compare(
    a: Annotated[str, typer.Argument(help="Folder that `score` wrote.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Another one, which is compared with A.", metavar="B")],
    output: Annotated[
        str | None,
        typer.Option(help="Folder for compare.json, compare.html and flips.parquet. Without it nothing is written."),
    ] = None,
    as_json: Json = False,
    thumbnails: Thumbnails = True,
    real_uris: RealUris = None,
) -> None:
    """Compare two runs on the images that both have.

    Says how far they agree, which predictions flipped, and where labels are known, whether one is better. Needs
    neither Ray nor torch.
    """
    from brainray import storage
    from brainray.commands.compare import FLIPS, PAGE
    from brainray.commands.compare import compare as compare_runs

    result = compare_runs(a, b, output=output, thumbnails=thumbnails, real_uris=real_uris, say=LOG.say)
    figures = result.figures
    if as_json:
        OBJECT.add(figures)
        return
    from .console import output_console

    console = output_console()
    _show(console, figures)
    if output is not None:
        folder = storage.normalise(output)
        console.print(f"the flipped images are in {storage.join(folder, FLIPS)}", markup=False)
        console.print(f"the page to open is {storage.join(folder, PAGE)}", markup=False)


def _show(console: "Console", figures: dict[str, Any]) -> None:
    """Print what is compared, the flips, and the figures of both runs."""
    for line in _images_lines(figures):
        console.print(line, markup=False)
    if figures["flips"]:
        console.print(_flips_table(figures))
    agreement = figures["agreement"]
    if agreement is None:
        console.print("no image was scored by both with the same content, so there is nothing to compare")
        return
    console.print(_sides_table(figures))
    if figures["groups"] and figures["flipped"]:
        console.print(_groups_table(figures))
    console.print(f"agreement {with_ends(**agreement)}, {figures['flipped']:,} predictions differ")
    console.print(_accuracy_line(figures))


def _images_lines(figures: dict[str, Any]) -> list[str]:
    images = figures["images"]
    reasons = {
        "changed in between": images["changed"],
        "excluded in A or B": images["excluded"],
        "failed in A": images["failed_in_a"],
        "failed in B": images["failed_in_b"],
        "failed in both": images["failed_in_both"],
        "only in A": images["only_in_a"],
        "only in B": images["only_in_b"],
    }
    out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count) or "none"
    runs = [f"{side}: {figures[side.lower()]['run']}, {figures[side.lower()]['images']:,} images" for side in "AB"]
    return [*runs, f"{images['compared']:,} images are compared; left out: {out}"]


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    table.columns[0].justify = "left"
    return table


def _flips_table(figures: dict[str, Any]) -> "Table":
    from .console import name_text

    outcomes = ("became_wrong", "became_right", "wrong_in_both") if figures["accuracy"] else ()
    left = len(figures["flips"]) - _MOST_PAIRS
    title = "Flips by pair of classes" + (f"; {left:,} more pairs left out" if left > 0 else "")
    table = _table(title, "A says", "B says", "images", *(name.replace("_", " ") for name in outcomes))
    table.columns[1].justify = "left"
    for pair in figures["flips"][:_MOST_PAIRS]:
        counts = (f"{pair[name]:,}" for name in ("images", *outcomes))
        table.add_row(name_text(pair["a"]), name_text(pair["b"]), *counts)
    return table


def _sides_table(figures: dict[str, Any]) -> "Table":
    table = _table("Both on the compared images", "", "A", "B")
    sides = [figures[side] for side in ("a", "b")]
    names = ("accuracy", "macro_f1", "ece", "brier") if figures["accuracy"] else ()
    for name in (*names, "mean_confidence"):
        values = [side[name]["value"] if name == "accuracy" else side[name] for side in sides]
        table.add_row(name.replace("_", " "), *("-" if value is None else rounded(value, 4) for value in values))
    table.add_row("for review", *(f"{side['for_review']:,}" for side in sides))
    return table


def _groups_table(figures: dict[str, Any]) -> "Table":
    from brainray.page.text import group_name

    from .console import name_text

    groups, labelled = figures["groups"], bool(figures["accuracy"])
    left = groups["groups"] - min(_MOST_GROUPS, len(groups["listed"]))
    title = f"Groups that {'lost' if labelled else 'flipped'} most" + (f"; {left:,} more left out" if left > 0 else "")
    names = {"images": "images", "flipped": "flipped"}
    names |= {"only_a_right": "only A right", "only_b_right": "only B right"} if labelled else {}
    table = _table(title, "group", *names.values())
    for row in groups["listed"][:_MOST_GROUPS]:
        name = group_name(row["group"], groups["levels"]) or "(none)"
        table.add_row(name_text(name), *(f"{row[key]:,}" for key in names))
    return table


def _accuracy_line(figures: dict[str, Any]) -> str:
    """Whether one run is better, in a line; without labels that nobody knows."""
    accuracy, labels = figures["accuracy"], figures["labels"]
    differ = f"; {labels['differ']:,} images are left out, as their labels differ" if labels["differ"] else ""
    differ += f"; {labels['seen']:,} are left out, as A or B has learned from them" if labels["seen"] else ""
    if accuracy is None:
        label = "has a label that can be used" if differ else "has a label"
        return f"no compared image {label}, so there is agreement and flips, but no accuracy{differ}"
    change = accuracy["difference"]
    few = ", too few for more than a rough interval" if (accuracy["groups"] or 20) < 20 else ""
    by = f"bootstrap over {accuracy['groups']:,} groups{few}" if change["method"] == "cluster_bootstrap" else "Newcombe"
    return (
        f"accuracy of B less A {change['value']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f}, {by}), "
        f"McNemar p = {accuracy['mcnemar_p']:.2g}, on {labels['used']:,} labelled images{differ}"
    )
