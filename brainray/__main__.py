"""`python -m brainray` runs the command line, in a Python that has brainray's packages."""

import os
import sys
from typing import NoReturn

from .machine.interpreter import ensure_packages


def _leave_working_folder() -> None:
    """Take the working folder off the import path, so that a `torch.py` in it is not taken for torch.

    Python puts it there with `-m`, and for an empty entry of PYTHONPATH. Where brainray itself lies in it, or
    PYTHONPATH names it in full, it is searched last.
    """
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # then it is on no path
        return
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    named = {own, *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    sys.path[:] = [entry for entry in sys.path if entry != folder] + [folder] * (folder in named)


def _main() -> NoReturn:
    _leave_working_folder()
    ensure_packages(["-m", "brainray", *sys.argv[1:]])
    from .cli.app import main

    main()


_main()
