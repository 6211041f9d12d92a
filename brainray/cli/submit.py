"""`brainray submit`: its options, and the check of the submitted command before anything is sent."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brainray.errors import BadRequest

from .json_object import OBJECT, Json
from .log import LOG

if TYPE_CHECKING:
    from brainray.cluster.jobs_client import JobsApi

# Options of `submit` come before the command; all after it belong to the command.
SETTINGS = {"allow_interspersed_args": False}
_COMMANDS = ("score", "train")
_PLACES = ("URI", "FOLDER")  # metavars of options that take a path
_MODELS = ("--model", "--init")  # options that take a model in the package besides a URI


Address = Annotated[
    str | None,
    typer.Option(
        help="Dashboard of the cluster. [default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, http://127.0.0.1:8265]",
        metavar="URL",
    ),
]
Env = Annotated[
    list[str] | None,
    typer.Option(
        help="Variable to pass on to the job; repeatable. No secrets, for Ray shows them: give the nodes a role, an "
        "instance profile or a service account.",
        metavar="NAME",
    ),
]


def submit(
    context: typer.Context,
    command: Annotated[str, typer.Argument(help="score or train.", metavar="score|train")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="The options of that command.", metavar="OPTIONS…")
    ] = None,
    address: Address = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait; the same command without it follows the job.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the job of this command and output.")] = False,
    env: Env = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait for a cluster that does not answer.", metavar="SECONDS")
    ] = 120,
    as_json: Json = False,
) -> None:
    """Run `train` or `score` as a job of a Ray cluster.

    Shows the job's log and exits with its code. A job is known by its command and output: the same command again
    follows the job that runs. Ctrl-C leaves it running.
    """
    from brainray.commands import submit as jobs

    submission = jobs.Submission(
        command=command,
        arguments=tuple(arguments or ()),
        output=_output(context, command, arguments or []),
        env=jobs.chosen_env(env or (), os.environ),
    )
    if not 0 <= patience < float("inf"):
        raise BadRequest(f"--patience is {patience:g}; it must be a number of seconds, 0 or more")
    api = _api(address, patience_s=patience)
    OBJECT.add({"output": submission.output})
    if stop:
        jobs.stop(submission, api, say=LOG.say)
        return
    job = jobs.place_job(submission, api, say=LOG.say)
    OBJECT.add({"job": job.job_id})
    if detach:
        LOG.say("the same command without --detach follows it, with --stop it is stopped")
        if not as_json:
            typer.echo(job.job_id)
        return
    ended = jobs.follow(job, api, out=sys.stdout, say=LOG.say)  # with --json, sys.stdout is the error stream
    OBJECT.add({"status": ended.status})
    jobs.check_ending(ended)


def _api(address: str | None, *, patience_s: float) -> "JobsApi":
    """The jobs API of the cluster; the address and the token come from the environment where no option names them."""
    from brainray.cluster.jobs_client import JobsApi, dashboard_address, found_token, request_headers

    return JobsApi(
        dashboard_address(address, os.environ),
        headers=request_headers(os.environ),
        patience_s=patience_s,
        say=LOG.say,
        find_token=lambda: found_token(os.environ),
    )


def _output(context: typer.Context, command: str, arguments: Sequence[str]) -> str:
    """Check the submitted command and its paths; gives its output, normalised. Raises `BadRequest`."""
    from brainray import storage
    from brainray.commands.submit import check_text

    from .score import options_of as score_options
    from .train import options_of as train_options

    if command not in _COMMANDS:
        raise BadRequest(f"`submit` runs score or train on a cluster, not {command}; its own options come before that")
    for before, text in zip(("", *arguments), arguments, strict=False):
        check_text(before if before.startswith("--") else "an argument", text)
    root: Any = context.find_root()
    inner = root.command.commands[command]
    values = inner.make_context(command, list(arguments), parent=root).params
    (score_options if command == "score" else train_options)(values)
    for option in inner.params:
        value = values.get(option.name)
        if value is None or getattr(option, "metavar", None) not in _PLACES:
            continue
        for uri in value if isinstance(value, (list, tuple)) else [value]:
            _check_visible(option.opts[0] if option.opts[0].startswith("-") else "--input", uri)
    return storage.normalise(values["output"])


def _check_visible(option: str, uri: str) -> None:
    """Raise `BadRequest` for a relative path, which other machines cannot resolve."""
    from brainray.models.bundle import in_package

    if option in _MODELS and in_package(uri):
        return
    if "://" not in uri and not uri.startswith("/"):
        raise BadRequest(
            f"{option} {uri} is a path relative to this folder, which the cluster does not have; "
            "give s3:// or the absolute path of a folder that all nodes see"
        )
