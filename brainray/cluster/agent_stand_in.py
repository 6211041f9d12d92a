"""A process in place of an agent of a raylet, which ends the raylet's wait for ports, and lives as long as the raylet.

It is this file, run as a program, so it imports the standard library only: an agent of Ray takes a second to start.
Arguments are the files in which the raylet looks for the ports. -1 is what Ray's own agents write of a service that is
not in use.
"""

import os
import sys
import time

_POLL_S = 1.0


def _main(files: list[str]) -> None:
    raylet = os.getppid()
    for path in files:
        written = f"{path}.{os.getpid()}"
        with open(written, "w") as file:
            file.write("-1")
        os.replace(written, path)  # a raylet that reads meanwhile finds all of it
    while os.getppid() == raylet:
        time.sleep(_POLL_S)


if __name__ == "__main__":
    _main(sys.argv[1:])
