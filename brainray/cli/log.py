"""What a command says on the standard error stream: lines for people, or a JSON object a line for who collects logs."""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TextIO, get_args

import typer

from brainray.errors import BadRequest

LogFormat = Literal["text", "json"]


@dataclass
class Log:
    """Where it goes, and how it looks."""

    log_format: LogFormat = "text"
    stream: TextIO | None = None  # None: the standard error stream of the moment

    def set_format(self, name: str) -> None:
        if name not in get_args(LogFormat):
            raise BadRequest(f"--log-format is {name!r}; it must be one of {', '.join(get_args(LogFormat))}")
        self.log_format = "json" if name == "json" else "text"

    def say(self, text: str) -> None:
        """A remark."""
        self._line(text, level="info", event="remark", text=text)

    def fail(self, message: str, *, exit_code: int) -> None:
        """Why the command ends, in one line."""
        text = " ".join(message.split("\n"))
        self._line(f"brainray: {text}", level="error", event="error", text=text, exit_code=exit_code)

    def event(self, name: str, **fields: Any) -> None:  # noqa: ANN401  what JSON can hold
        """Something that people are shown in another way; text has no line for it."""
        if self.log_format == "json":
            self._line("", level="info", event=name, **fields)

    def _line(self, shown: str, **fields: Any) -> None:  # noqa: ANN401
        if self.log_format == "json":
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            shown = json.dumps({"time": now} | fields, ensure_ascii=False)
        print(shown, file=self.stream or sys.stderr, flush=True)


LOG = Log()


def _set_format(name: str) -> str:
    LOG.set_format(name)
    return name


LogFormatOption = Annotated[
    str,
    typer.Option(
        envvar="BRAINRAY_LOG_FORMAT",
        callback=_set_format,
        help="Of what is said while it runs: text, or json, an object a line.",
    ),
]
