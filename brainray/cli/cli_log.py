"""The log of a command, and the option that says how it looks."""

from typing import Annotated

import typer

from .log import Log

LOG = Log()


def _set_format(name: str) -> str:
    LOG.set_format(name)
    return name


LogFormat = Annotated[
    str,
    typer.Option(
        envvar="BRAINRAY_LOG_FORMAT",
        callback=_set_format,
        help="Of what is said while it runs: text, or json, an object a line.",
    ),
]
