import io

import pyarrow as pa
from support.each import each

from brainray.cli.audit import _show
from brainray.cli.console import Lines, duration_text, output_console, rate_text, show_summary
from brainray.commands.score import Progress
from brainray.scoring.summary.build import Summary


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_pipe_gets_a_line_every_few_seconds():
    clock, stream = Clock(), io.StringIO()
    show = Lines(stream, clock=clock)
    show(Progress(phase="listing", total=70_000))
    clock.now = 6.0
    show(Progress(phase="listing", total=140_000))
    show(Progress(phase="updating", done=10, total=1000))
    show(Progress(phase="starting", total=1000))
    for second in range(11):
        clock.now = 10.0 + second
        show(Progress(phase="scoring", done=100 * second, total=1000, failed=second, images_per_s=100))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["listing the input: 140,000 images so far", "updating rows: 10 of 1,000 images"]
    assert lines.pop(1) and lines[1] == "starting workers: 1,000 images"
    assert lines[2] == "scoring: 0 of 1,000 images, 0 failed, 100 images/s, 10s left"
    assert lines[3] == "scoring: 500 of 1,000 images, 5 failed, 100 images/s, 5s left"
    assert lines[-1] == "scoring: 1,000 of 1,000 images, 10 failed, 100 images/s, 0s left"
    assert len(lines) == 5


def test_durations_and_rates_read_well():
    assert [duration_text(s) for s in (0.4, 59, 61, 3600, 90_061)] == ["0s", "59s", "1m01s", "1h00m", "25h01m"]
    assert [rate_text(r) for r in (0.5, 12.4, 12345.6)] == ["0.5 images/s", "12 images/s", "12,346 images/s"]


def summary(*, labelled, scored, failed=0, a="a"):
    """What a run over two classes leaves, as far as it is shown."""
    cells = [(a, a, scored), (a, "b", 0), ("b", a, 0), ("b", "b", 0)]
    estimate = {"value": 1.0, "low": 0.5, "high": 1.0} if scored else None
    blank = dict.fromkeys(f"{n}{end}" for n in ("recall", "precision", "f1") for end in ("", "_low", "_high"))
    figures = {
        "classes": [a, "b"],
        "totals": {"images": 10, "failed": failed, "labelled": labelled, "scored_and_labelled": scored},
        "accuracy": estimate,
        "macro_f1": 1.0 if scored else None,
        "predicted": {a: 10 - failed, "b": 0},
        "failures": {"empty": failed} if failed else {},
        "skipped": {"suffix .txt": 1234},
    }
    return Summary(
        folder="/run/summary",
        figures=figures,
        confusion_of_all=pa.Table.from_pylist([{"label": t, "predicted": p, "images": n} for t, p, n in cells]),
        per_class_of_all=pa.Table.from_pylist(
            [{"group": "all", "class": name, "support": 5, "failed": failed, **blank} for name in (a, "b")]
        ),
    )


@each(
    ("labelled", "scored", "failed", "said"),
    [
        (10, 8, 2, "accuracy 1.0000 (0.5000 to 1.0000), macro F1 1.0000, on 8 labelled images"),
        (0, 0, 0, "no image has a label, so there is no accuracy; predicted: a 10, b 0"),
        (0, 0, 0, "`brainray pick` picks 10 images whose labels would tell it"),
        (10, 0, 10, "no image with a label could be scored"),
        (10, 8, 2, "2 of 10 images failed: 2 empty"),
        (10, 10, 0, "files that are no images, passed over: 1,234 suffix .txt"),
    ],
)
def test_the_last_lines_say_what_a_reader_must_know(labelled, scored, failed, said):
    stream = io.StringIO()
    show_summary(output_console(stream), summary(labelled=labelled, scored=scored, failed=failed))
    assert said in stream.getvalue()
    assert ("Confusion" in stream.getvalue()) == (scored > 0)
    assert " - " in stream.getvalue() or not scored  # undefined is no zero; a dash that every encoding has


@each(("labelled", "times"), [(10, 3), (0, 1)])
def test_names_of_classes_are_shown_as_they_are(labelled, times):
    """Else brackets would be colours, `:car:` a picture and an escape a command to the terminal."""
    for name, shown in (("glioma [t1]", "glioma [t1]"), ("t1:car:", "t1:car:"), ("a\x1b[2J\n", "a\\u001b[2J\\u000a")):
        stream = io.StringIO()
        show_summary(output_console(stream), summary(labelled=labelled, scored=labelled, a=name))
        assert stream.getvalue().count(shown) == times


def test_an_audit_shows_names_of_classes_as_they_are(capsys):
    shown = {"against": [], "transforms": {}, "largest_group": None, "unreadable": {}}
    counts = dict.fromkeys(("images", "pictures", "surplus"), 2)
    figures = {
        **shown,
        **counts,
        "by_class": {"glioma [/t1]": counts},
        "conflicts": {"pictures": 0, "between": {}},
        "leaks": {"folders": {}, "subjects": {}},
        "subjects": {"subjects": 0, "pictures_in_several": 0},
        "proposed": {"groups": 0},
    }
    _show(figures, "/audit")
    assert "glioma [/t1]: distinct of images" in capsys.readouterr().out
