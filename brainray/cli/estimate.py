"""`brainray estimate`: its options, and how its results are shown."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from brainray.evaluation.rounding import rounded, with_ends

from .json_object import OBJECT, Json
from .log import LOG

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def estimate(
    run: Annotated[str, typer.Argument(help="Folder that `score` wrote.", metavar="RUN")],
    labels: Annotated[
        list[str],
        typer.Option(help="The labels of what `pick` picked: its list, or the answers from its page.", metavar="URI"),
    ],
    seed: Annotated[int, typer.Option(help="The seed that `pick` was given.")] = 0,
    as_json: Json = False,
) -> None:
    """Say from the labels of picked images how good a run is, and how common each class.

    Give --labels once for each person who labelled. Needs neither Ray nor torch, and writes nothing.
    """
    from brainray.commands.estimate import estimate as estimate_run

    figures = estimate_run(run, labels, seed=seed, say=LOG.say).figures
    if as_json:
        OBJECT.add(figures)
        return
    from .console import output_console

    console = output_console()
    _show(console, figures)


def _show(console: "Console", figures: dict[str, Any]) -> None:
    from brainray.page.text import plural

    console.print(_table(figures))
    accuracy, labels = figures["accuracy"], figures["labels"]
    console.print(
        f"accuracy {with_ends(**accuracy)} of {plural(figures['images'], 'image')}, estimated from "
        f"{plural(labels['answered'], 'label')} of {plural(figures['picked'], 'picked image')}"
    )
    if figures["labelled_before"]:
        console.print(f"{figures['labelled_before']:,} of the images had a label before, and count as they are")
    for line in _gap_lines(labels):
        console.print(line)
    if figures["more"]:
        more = ", ".join(f"{each['labels']:,} to {_half(each['accuracy_half_width'])}" for each in figures["more"])
        width = _half((accuracy["high"] - accuracy["low"]) / 2)
        console.print(f"the accuracy is known to {width} points; more labels would narrow that: {more}")


def _table(figures: dict[str, Any]) -> "Table":
    from rich.table import Table

    from brainray.page.text import plural

    from .console import name_text

    title = f"Estimated for {plural(figures['images'], 'image')}, with 95 % intervals"
    table = Table(title=title, title_justify="left")
    for name in ("class", "recall", "share of images", "predicted share"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in figures["classes"]:
        recall = "-" if row["recall"] is None else with_ends(**row["recall"], digits=3)
        share = rounded(row["predicted_share"], 3)
        table.add_row(name_text(row["class"]), recall, with_ends(**row["prevalence"], digits=3), share)
    return table


def _half(width: float) -> str:
    return f"\N{PLUS-MINUS SIGN}{100 * width:.1f}"


def _gap_lines(labels: dict[str, int]) -> list[str]:
    """What is missing, and what it costs."""
    from brainray.page.text import plural

    lines = []
    if labels["gaps"]:
        differ = (
            f", {labels['contradictory']:,} of them as files contradict each other" if labels["contradictory"] else ""
        )
        lines.append(
            f"without an answer, before the last answered one: {plural(labels['gaps'], 'picked image')}{differ}; the "
            "intervals hold whatever the answers are, so each answer narrows them"
        )
    if labels["not_reached"]:
        lines.append(f"without an answer yet, at the end of the list: {plural(labels['not_reached'], 'picked image')}")
    if labels["unclear"] or labels["no_image"]:
        lines.append(
            f"{labels['unclear']:,} are answered as wrong without a class, {labels['no_image']:,} as of none of these "
            "classes; both count as wrong"
        )
    return lines
