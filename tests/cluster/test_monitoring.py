"""What a monitor sees: log lines as JSON, and a dashboard that asks only for what workers count."""

import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from support.each import each
from support.scoring.runs import engine_of, request_for, score_here

from brainray.cli.app import run
from brainray.cli.console import watcher
from brainray.cli.log import Log
from brainray.cluster import score_workers
from brainray.commands.score import score
from brainray.errors import BadRequest
from brainray.scoring.shard import DecodedShard

DASHBOARD = Path(__file__).resolve().parents[2] / "jobs" / "monitoring" / "grafana-dashboard.json"


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_the_dashboard_asks_for_counters_that_exist(monkeypatch):
    made, marked = {}, []

    class Counter:
        def __init__(self, name, **about):
            made[name] = about

        def set_default_tags(self, tags):
            marked.append(tags)

    monkeypatch.setattr(score_workers, "Counter", Counter)
    score_workers.ScoreMetrics("s3://results/run")
    assert marked == [{"run": "s3://results/run"}] * len(made), "two runs on one cluster are told apart"
    asked = set(re.findall(r"ray_(brainray_\w+?)_total", DASHBOARD.read_text()))
    assert asked == set(made), "each counter has its panel, and no panel stays empty"
    labels = {label for about in made.values() for label in about.get("tag_keys", ())}
    expressions = [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]
    ]
    used = {
        label
        for text in expressions
        for label in re.findall(r"by \((\w+)\)|[{ ](\w+)=", text)
        for label in label
        if label
    }
    assert {"run", "status"} <= used
    assert used - {"NodeAddress", "WorkerId"} <= labels, "those two are Ray's own"


def test_excluded_images_do_not_count_as_errors(monkeypatch):
    """The alert on the share of errors would fire for each archive with localizers."""
    counted = {}

    class Counter:
        def __init__(self, name, **_):
            self.name = name

        def set_default_tags(self, tags):
            pass

        def inc(self, value, tags):
            counted[self.name, *tags.values()] = value

    monkeypatch.setattr(score_workers, "Counter", Counter)
    details = pa.table({"error": [None, "truncated", "localizer", "not_mr"]})
    decoded = DecodedShard(
        images=np.empty((1, 8, 8), np.uint8),
        squares_M4=np.empty((1, 4)),
        ok=np.array([True, False, False, False]),
        details=details,
        started_at=datetime.now(UTC),
    )
    state = SimpleNamespace(pending=pa.table({"size_bytes": [1, 2, 3, 4]}))
    score_workers.ScoreMetrics("run").count(state, decoded, {})
    images = {key[1]: number for key, number in counted.items() if key[0] == "brainray_images"}
    assert images == {"ok": 1, "error": 1, "excluded": 2}


def test_panels_do_not_overlap():
    cells = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & mine and at["x"] + at["w"] <= 24
        cells |= mine


def test_a_run_tells_its_progress_as_events(archive, bundle, tmp_path):
    log = Log(log_format="json", stream=io.StringIO())
    request = request_for(archive(images=2), tmp_path / "run", bundle)
    with watcher(log) as listener:
        score(request, listener=listener, say=log.say, engine=engine_of(bundle))
    events = lines(log.stream.getvalue())
    assert {event["event"] for event in events} == {"progress"}
    assert [event["phase"] for event in events] == ["starting", "scoring", "scoring", "summary", "done"]
    assert events[-1]["done"] == events[-1]["total"] == 8
    assert all(event["time"].endswith("+00:00") and event["level"] == "info" for event in events)


@each("how", ["option", "variable"])
def test_an_error_is_an_event_with_the_exit_code(how, tmp_path, capfd, monkeypatch):
    arguments = ["score", "--input", "/none", "--model", "/none", "--output", str(tmp_path)]
    if how == "variable":
        monkeypatch.setenv("BRAINRAY_LOG_FORMAT", "json")
    code = run(arguments + (["--log-format", "json"] if how == "option" else []))
    (event,) = lines(capfd.readouterr().err)
    assert (event["event"], event["level"], event["exit_code"]) == ("error", "error", code)
    assert event["text"].startswith("/none")


def test_a_run_that_is_done_says_what_came_of_it(archive, bundle, tmp_path, capfd):
    root = archive(images=2)
    score_here(request_for(root, tmp_path / "run", bundle, shard_size=None), engine_of(bundle))
    arguments = ["--input", str(root), "--model", bundle.uri, "--output", str(tmp_path / "run"), "--log-format", "json"]
    assert run(["score", *arguments]) == 0
    (event,) = lines(capfd.readouterr().err)
    assert (event["event"], event["run"], event["scored"]) == ("done", str(tmp_path / "run"), 0)
    assert event["totals"]["images"] == 8


def test_the_next_command_speaks_text_again(tmp_path, capfd):
    run(["report", str(tmp_path)])
    assert capfd.readouterr().err.startswith("brainray: ")


def test_a_format_that_there_is_not_is_refused():
    with pytest.raises(BadRequest, match="'xml'; it must be one of text, json"):
        Log().set_format("xml")
