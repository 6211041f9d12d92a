"""Messages on the standard error stream: text lines, or with `--log-format json` a JSON object a line."""

import json
import logging
import sys
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TextIO, get_args

import typer

from brainray.cluster.guard import Guard
from brainray.errors import BadRequest

LogFormat = Literal["text", "json"]


@dataclass
class Log:
    """The stream and the format of the messages."""

    log_format: LogFormat = "text"
    stream: TextIO | None = None  # None: sys.stderr, read at each message

    def set_format(self, name: str) -> None:
        if name not in get_args(LogFormat):
            raise BadRequest(f"--log-format is {name!r}; it must be one of {', '.join(get_args(LogFormat))}")
        self.log_format = "json" if name == "json" else "text"
        Guard.as_json = name == "json"

    def say(self, text: str) -> None:
        """Log a message."""
        self._line(text, level="info", event="remark", text=text)

    def warn(self, text: str) -> None:
        """Log a message of a library in one line."""
        text = " ".join(text.split())
        self._line(text, level="warning", event="remark", text=text)

    def fail(self, message: str, *, exit_code: int) -> None:
        """Log the error that ends the command, in one line."""
        text = " ".join(message.split("\n"))
        self._line(f"brainray: {text}", level="error", event="error", text=text, exit_code=exit_code)

    def event(self, name: str, **fields: Any) -> None:  # noqa: ANN401  what JSON can hold
        """Log an event as JSON. In text format the console shows it by other means, so nothing is logged."""
        if self.log_format == "json":
            self._line("", level="info", event=name, **fields)

    def _line(self, shown: str, **fields: Any) -> None:  # noqa: ANN401
        if self.log_format == "json":
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            shown = json.dumps({"time": now} | fields)
        print(shown, file=self.stream or sys.stderr, flush=True)


LOG = Log()


class _Warnings(logging.Handler):
    """Takes what libraries log where nobody handles it."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        LOG.warn(record.getMessage() + (f": {error!r}" if error else ""))


def take_warnings() -> None:
    """Log warnings of Python and of libraries in the format of the command, for the rest of the process."""
    logging.lastResort = _Warnings(logging.WARNING)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    LOG.warn(f"{category.__name__}: {message}")


def _set_format(name: str) -> str:
    LOG.set_format(name)
    return name


LogFormatOption = Annotated[
    str,
    typer.Option(
        envvar="BRAINRAY_LOG_FORMAT",
        callback=_set_format,
        help="Messages as text, or as json: one object a line.",
    ),
]
