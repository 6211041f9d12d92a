import io

from brainray.console import Lines, duration_text, rate_text
from brainray.score_job import Progress


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
    show(Progress(phase="starting", total=1000))
    for second in range(11):
        clock.now = 10.0 + second
        show(Progress(phase="scoring", done=100 * second, total=1000, failed=second, images_per_s=100))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["listing the input: 140,000 images so far", "starting workers: 1,000 images"]
    assert lines[2] == "scoring: 0 of 1,000 images, 0 failed, 100 images/s, 10s left"
    assert lines[3] == "scoring: 500 of 1,000 images, 5 failed, 100 images/s, 5s left"
    assert lines[-1] == "scoring: 1,000 of 1,000 images, 10 failed, 100 images/s, 0s left"
    assert len(lines) == 5


def test_durations_and_rates_read_well():
    assert [duration_text(s) for s in (0.4, 59, 61, 3600, 90_061)] == ["0s", "59s", "1m01s", "1h00m", "25h01m"]
    assert [rate_text(r) for r in (0.5, 12.4, 12345.6)] == ["0.5 images/s", "12 images/s", "12,346 images/s"]
