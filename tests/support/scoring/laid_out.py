"""A folder that is made once and laid out anew for each test that changes it."""

import shutil
from collections.abc import Callable
from pathlib import Path


def laid_out(home: Path, make: Callable[[Path], object]) -> Path:
    """A folder in `home` as `make` fills it: always the same path, and the same times of its files."""
    now, kept = home / "now", home / "kept"
    if kept.exists():
        shutil.rmtree(now)
        shutil.copytree(kept, now)
    else:
        now.mkdir()
        make(now)
        shutil.copytree(now, kept)
    return now
