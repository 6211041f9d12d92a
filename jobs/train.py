"""Runs `brainray train` as a Ray job: `ray job submit --working-dir . -- python jobs/train.py …`."""

import sys
from pathlib import Path

# The uploaded folder holds the package, which need not be installed on the cluster.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from brainray.machine.interpreter import ensure_packages

if __name__ == "__main__":
    ensure_packages([__file__, *sys.argv[1:]])
    from brainray.cli.app import main

    main(["train", *sys.argv[1:]])
