"""Forbids starting Ray, in every Python process that a test without the marker `ray` starts.

Python imports a module of this name by itself; `support.cluster.ray_guard` puts its folder on PYTHONPATH.
"""

import os
import sys
from typing import Any

REPORT = "BRAINRAY_TESTS_RAY_REPORT"  # the file that takes the names of what was to be started
SERVERS = ("gcs_server", "raylet")  # every Ray that starts, starts one of them


def refuse_server(program: Any) -> None:
    """Report a server of Ray and raise before it is started."""
    report = os.environ.get(REPORT)
    name = os.path.basename(os.fsdecode(program))
    if report and name in SERVERS:
        with open(report, "a") as file:
            file.write(f"{name}\n")
        raise RuntimeError(f"a test without the marker `ray` starts {name}")


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook. Most events are neither a start nor anything else of interest, so that is asked first."""
    if event == "subprocess.Popen":
        refuse_server(arguments[0])


if __name__ == "sitecustomize":  # as Python imports it; in a test process, where a hook costs seconds, see `ray_guard`
    sys.addaudithook(forbid)
