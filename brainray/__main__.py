"""`python -m brainray` runs the command line, in a Python that has brainray's packages."""

from .cli.start import main_of_module

main_of_module()
