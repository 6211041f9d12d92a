"""Forbids starting Ray, in every Python process that a test without the marker `ray` starts.

Python imports a module of this name by itself; `support.cluster.ray_guard` puts its folder on PYTHONPATH.
"""

import os
import sys
from typing import Any

REPORT = "BRAINRAY_TESTS_RAY_REPORT"  # the file that takes the names of what was to be started
SERVERS = ("gcs_server", "raylet")  # every Ray that starts, starts one of them


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: reports a server of Ray and raises before it is started."""
    report = os.environ.get(REPORT)
    if event != "subprocess.Popen" or not report:
        return
    name = os.path.basename(os.fsdecode(arguments[0]))
    if name in SERVERS:
        with open(report, "a") as file:
            file.write(f"{name}\n")
        raise RuntimeError(f"a test without the marker `ray` starts {name}")


sys.addaudithook(forbid)
