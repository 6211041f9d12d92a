"""Warnings of libraries are lines of the log, in its format."""

import io
import json
import logging
import warnings

import pytest

from brainray.cli.log import LOG, take_warnings


@pytest.fixture
def lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(LOG, "stream", stream)
    monkeypatch.setattr(LOG, "log_format", "json")
    monkeypatch.setattr(logging, "lastResort", None)
    monkeypatch.setattr(warnings, "showwarning", None)
    take_warnings()
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_what_a_library_logs_and_what_python_warns_of_is_json(lines):
    unhandled = logging.Logger("library")  # no child of the root, whose handlers are pytest's
    unhandled.warning("no folder\n%s", "for fonts")
    unhandled.info("not shown")
    warnings.showwarning(UserWarning("odd"), UserWarning, "file.py", 7)
    said = [(line["level"], line["event"], line["text"]) for line in lines()]
    assert said == [("warning", "remark", "no folder for fonts"), ("warning", "remark", "UserWarning: odd")]
