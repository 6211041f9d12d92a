"""`python -m brainray` is the program `brainray`."""

from .cli import main

main()
