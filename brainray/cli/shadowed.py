"""Finds the module of PYTHONPATH that was imported in place of an installed package, as a `numpy.py` there is.

Imports nothing but what Python itself has loaded: it is needed when imports fail.
"""

import os
import sys

_OWN = __name__.partition(".")[0]


def shadowing(error: BaseException) -> str | None:
    """The advice for an error that such a module causes; None for any other error.

    Of an error while a module was imported, any of the modules that are loaded may be the cause.
    """
    files = _files_of(error)
    if _while_importing(error):
        files += [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    for file in files:
        folder = _shadowed_by(file) if file else None
        if folder is not None:
            return f"{file} was imported in place of an installed package; take {folder} out of PYTHONPATH"
    return None


def _shadowed_by(file: str) -> str | None:
    """The folder of PYTHONPATH in which a module hides another one of its name; None for any other module."""
    for folder in map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))):
        if file.startswith(folder + os.sep):
            name = file[len(folder) + 1 :].split(os.sep)[0].removesuffix(".py")
            if name == _OWN:  # a checkout of brainray on PYTHONPATH is meant, and is in each traceback
                return None
            others = (os.path.join(other, name) for other in sys.path if os.path.abspath(other) != folder)
            return folder if any(os.path.exists(other) or os.path.exists(f"{other}.py") for other in others) else None
    return None


def _while_importing(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_name != "<module>":
        trace = trace.tb_next
    return trace is not None


def _files_of(error: BaseException) -> list[str | None]:
    """The files in which an error was raised, the innermost first; before them that of the module that lacks a name."""
    files: list[str | None] = []
    trace = error.__traceback__
    while trace is not None:
        files.insert(0, trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return [getattr(error, "path", None), getattr(getattr(error, "obj", None), "__file__", None), *files]
