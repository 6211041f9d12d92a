"""Pythons that have none of brainray's packages."""

import subprocess
import sys
from pathlib import Path


def bare_python(folder: Path) -> str:
    """A new environment with nothing in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")], check=True, timeout=250)
    return str(folder / "bare" / "bin" / "python")
