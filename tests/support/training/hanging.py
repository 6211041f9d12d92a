"""Workers of Ray Train that wait to be harmed, so that few epochs are enough, on a fast machine and a slow one."""

from collections.abc import Callable
from typing import Any

Work = Callable[[dict[str, Any]], None]


def hanging(work: Work, *, after: int, until: str = "") -> Work:
    """A worker's function that does so many epochs, and hangs in the next one before that is written.

    It goes on where the file `until` is there. Made here, so that Ray sends the function and not its name.
    """

    def work_and_hang(config: dict[str, Any]) -> None:
        import os
        import time

        from brainray.cluster import train_worker

        report, done = train_worker._WorkerState.report, []

        def report_or_hang(state: train_worker._WorkerState) -> None:
            while len(done) >= after and not os.path.exists(until):
                time.sleep(0.05)
            done.append(state)
            report(state)

        train_worker._WorkerState.report = report_or_hang
        work(config)

    return work_and_hang
