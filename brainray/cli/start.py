"""Where the program starts: before anything else is imported, the import path and the signals are set.

Importing the command line takes a second on a busy machine. A signal in that second ends the program with a line, too.
Imports nothing but what Python itself has loaded, until the working folder is off the import path.
"""

import os
import sys

_STOPPED = b"brainray: stopped before anything was begun\n"
_INTERRUPTED = 130  # as `app` has it


def main() -> None:
    """The program `brainray`, as the installed script calls it."""
    leave_working_folder()
    _run()


def main_of_module() -> None:
    """The program as `python -m brainray`: in a Python that has brainray's packages."""
    leave_working_folder()
    from brainray.machine.interpreter import ensure_packages

    ensure_packages(["-m", "brainray", *sys.argv[1:]])
    _run()


def leave_working_folder() -> None:
    """Take the working folder off the import path, so that a `torch.py` in it is not taken for torch.

    Python puts it there with `-m`, and for an empty entry of PYTHONPATH. Where brainray itself lies in it, or
    PYTHONPATH names it in full, it is searched last.
    """
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # then it is on no path
        return
    own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    named = {own, *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    sys.path[:] = [entry for entry in sys.path if entry not in ("", folder)] + [folder] * (folder in named)


def _run() -> None:
    import signal

    asked_for = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    heeded = [number for number in asked_for if signal.getsignal(number) != signal.SIG_IGN]  # as under nohup
    for number in heeded:
        signal.signal(number, _stop)
    try:
        from .app import main as run
    except Exception as exc:
        _refuse(exc)
        raise
    if signal.SIGINT in heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _refuse(error: Exception) -> None:
    """End the program with a line, if it cannot be imported for what lies on its path."""
    from .shadowed import shadowing

    found = shadowing(error)
    if found is not None or isinstance(error, ImportError):
        what = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"brainray: {found or 'is not installed whole; install it again'} ({what})", file=sys.stderr, flush=True)
        os._exit(2 if found else 1)


def _stop(number: int, frame: object) -> None:
    os.write(2, _STOPPED)
    os._exit(_INTERRUPTED)
