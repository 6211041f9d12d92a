"""`python -m brainray` runs the command line, in a Python that has brainray's packages."""

import sys
from typing import NoReturn

from .interpreter import ensure_packages


def _main() -> NoReturn:
    ensure_packages(["-m", "brainray", *sys.argv[1:]])
    from .cli.app import main

    main()


_main()
