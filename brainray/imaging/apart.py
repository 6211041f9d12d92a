"""Decodes, in a process apart, with libraries that some damaged pictures take down, or hours: GDCM, CharLS and libheif.

This module is both sides. The child starts with the first picture and serves all threads of its parent, one after the
other; where a picture ends it, that picture is refused and the next one gets a new child.
"""

import pickle
import signal
from collections.abc import Callable
from threading import Lock
from typing import ParamSpec, TypeVar, cast

from brainray.errors import ImageError

from .child_process import ChildProcess, serve

P = ParamSpec("P")
T = TypeVar("T")
_TIMEOUT_S = 30.0  # two libraries may try in turn, within the limit of a worker, see `time_limit`
_MOST_BYTES = 4 << 30  # a picture of 100 megapixels takes 0.3 GB, and a few times that on its way
_lock = Lock()
_child: ChildProcess | None = None


def decoded_apart(decoder: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What a function of a module gives for the arguments; its errors become an `ImageError`, which is raised."""
    global _child
    with _lock:
        _child = _child or ChildProcess(__name__)
        answer = _child.ask(pickle.dumps((decoder, arguments, named)))
        if answer is None:
            ended, _child = _child.end(), None
            how = f"longer than {_TIMEOUT_S:g} s" if ended == -signal.SIGALRM else "the process of their decoder down"
            answer = ImageError("truncated", f"its pixels are damaged: they take {how}")
    if isinstance(answer, ImageError):
        raise answer
    return cast("T", answer)


def main() -> None:
    """The child."""
    serve(_answer, timeout_s=_TIMEOUT_S, most_bytes=_MOST_BYTES)


def _answer(content: bytes) -> object:
    decoder, arguments, named = pickle.loads(content)  # from the parent
    try:
        return decoder(*arguments, **named)
    except ImageError as exc:
        return exc
    except MemoryError:
        return ImageError("too_large", "it takes too much memory to decode")
    except Exception as exc:  # noqa: BLE001  damaged pixels raise nearly every type there is
        return ImageError("truncated", f"its pixels are cut or damaged ({type(exc).__name__})")


if __name__ == "__main__":
    main()
