"""`brainray doctor`: chooses the checks and shows their findings."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from brainray.errors import BadRequest

from .json_object import OBJECT, Json

if TYPE_CHECKING:
    from brainray.doctor.checks import Check, Finding
    from brainray.doctor.nodes import NodeQuestions

_WRONG = 2  # exit code: a run would fail
_FORMATS = ("text", "json")
_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "bold red"}
_SPARE_S = 5.0  # to end a program that is out of time, and to read its output


def doctor(
    input: Annotated[
        list[str] | None, typer.Option(help="Input of `score` to check; repeatable.", metavar="URI")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Output to check; nothing stays there.", metavar="URI")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to check. [default with --input: shipped]", metavar="URI")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Training data to check.", metavar="URI")] = None,
    cluster: Annotated[
        bool | None,
        typer.Option(
            "--cluster/--no-cluster", help="Require a cluster, or skip it. [default: check one if it is there]"
        ),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Argument(help="More inputs, as a shell makes of --input scans/*.jpg.", metavar="URI")
    ] = None,
    format: Annotated[str, typer.Option(help="Findings as text, a line each, or as one json list.")] = "text",
    as_json: Json = False,
) -> None:
    """Check this machine, the cluster and the locations of a run.

    Exit code 2 where something is wrong.
    """
    from brainray.doctor.checks import run_checks

    if format not in _FORMATS:
        raise BadRequest(f"--format is {format!r}; it must be one of {', '.join(_FORMATS)}")
    checks = _checks((*(input or ()), *(more or ())), output=output, model=model, data=data, cluster=cluster)
    findings = run_checks(checks)
    if as_json:
        shown = list(findings)
        OBJECT.add({"findings": [asdict(finding) for finding in shown]})
    else:
        shown = _show_json(findings) if format == "json" else _show_text(findings)
    if wrong := sum(finding.status == "wrong" for finding in shown):
        OBJECT.fail(f"{wrong} of {len(shown)} findings wrong", _WRONG)
        raise typer.Exit(_WRONG)


def _checks(
    inputs: Sequence[str], *, output: str | None, model: str | None, data: str | None, cluster: bool | None
) -> "list[Check]":
    """The checks: the machine, the cluster, then each location in the order in which a run uses them."""
    from brainray.doctor import machine as this
    from brainray.doctor.checks import Check
    from brainray.doctor.gpu import TIMEOUT_S as TORCH_S
    from brainray.doctor.gpu import check_torch
    from brainray.doctor.inputs import check_data_option, check_input_option, check_model_option
    from brainray.doctor.local_ray import check_open_files
    from brainray.doctor.nodes import TIMEOUT_S as RAY_S
    from brainray.doctor.nodes import check_ray
    from brainray.doctor.output import check_output_option
    from brainray.machine.hardware import read_machine
    from brainray.models.bundle import SHIPPED, in_package

    model = model or (SHIPPED if inputs else None)  # as `score` has it
    looks: list[tuple[str, str, Callable[..., Iterator[Finding]]]] = [
        *(("--input", text, partial(check_input_option, model=model)) for text in inputs),
        *(("--data", text, check_data_option) for text in (data,) if text is not None),
        *(("--model", text, check_model_option) for text in (model,) if text is not None),
    ]
    asked = _asked([(option, text) for option, text, _ in looks if not in_package(text)], output, cluster)
    if output is not None:
        training = data is not None and not inputs
        roots = [uri for option, uri in asked.reads if option == "--input"]
        bundle = model if model and in_package(model) else dict(asked.reads).get("--model")
        looks.append(("--output", output, partial(check_output_option, inputs=roots, model=bundle, training=training)))
    machine = read_machine()
    return [
        Check(name="python", run=this.check_python),
        Check(name="packages", run=this.check_packages),
        Check(name="processors", run=partial(this.check_processors, machine)),
        Check(name="memory", run=partial(this.check_memory, machine)),
        Check(name="temporary folder", run=this.check_temporary_folder),
        Check(name="open files", run=check_open_files),
        Check(name="torch", run=check_torch, timeout_s=TORCH_S + _SPARE_S),
        Check(name="ray", run=partial(check_ray, asked), timeout_s=RAY_S + _SPARE_S),
        *(
            Check(name=f"{option} {text}", run=partial(look, text, with_store=with_store))
            for (option, text, look), with_store in zip(looks, _firsts(text for _, text, _ in looks), strict=True)
        ),
    ]


def _asked(reads: Iterable[tuple[str, str]], output: str | None, cluster: bool | None) -> "NodeQuestions":
    """What the nodes of the cluster are to check. Malformed locations are left to the checks of their options."""
    from brainray import storage
    from brainray.doctor.nodes import NodeQuestions

    def normalised(text: str) -> str | None:
        with suppress(BadRequest):
            return storage.normalise(text)
        return None

    named = ((option, uri) for option, text in reads if (uri := normalised(text)) is not None)
    return NodeQuestions(cluster=cluster, reads=tuple(named), output=None if output is None else normalised(output))


def _firsts(texts: Iterable[str]) -> Iterator[bool]:
    """For each location whether it is the first in its bucket; the bucket itself is checked with that one only."""
    from brainray.doctor.inputs import store_of

    seen: set[str] = set()
    for text in texts:
        store = store_of(text)
        yield store not in seen
        seen.add(store)


def _show_json(findings: "Iterable[Finding]") -> "list[Finding]":
    shown = list(findings)
    typer.echo(json.dumps([asdict(finding) for finding in shown], indent=2))
    return shown


def _show_text(findings: "Iterable[Finding]") -> "list[Finding]":
    """Print each finding as it comes; at a terminal the remedy has a line of its own."""
    from rich.text import Text

    from brainray.doctor.checks import counted

    from .console import output_console

    console = output_console()
    before_remedy = "\n         -> " if console.is_terminal else " -> "
    shown = []
    for finding in findings:
        line = Text.assemble((f"{finding.status:<8}", _COLOURS[finding.status]), f" {finding.check}: {finding.found}")
        if finding.remedy:
            line.append(before_remedy + finding.remedy)
        console.print(line)
        shown.append(finding)
    counts = Counter(finding.status for finding in shown)
    console.print(f"{counts['wrong']} wrong, {counted(counts['warning'], 'warning')}, {counts['ok']} ok")
    return shown
