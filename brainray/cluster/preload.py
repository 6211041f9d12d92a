"""Imported by workers of a private Ray before they are asked for anything: what they need to score, with torch.

What cannot be imported is left to the scorer, whose error is reported. Ray would start such a worker again and again.
"""

import gc
from contextlib import suppress

# Importing makes a million objects, all of which stay: the search for garbage among them takes a sixth of the time.
gc.disable()
with suppress(Exception):
    from brainray.models import encoder  # noqa: F401

    from . import score_workers  # noqa: F401
gc.freeze()
gc.enable()
