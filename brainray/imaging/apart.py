"""Decodes, in a process apart, with libraries that some damaged pictures take down, or hours: GDCM, CharLS and libheif.

This module is both sides. The child starts with the first picture and serves all threads of its parent, one after the
other; where a picture ends it and a new child too, that picture is refused.
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
# A child may die for another reason than this picture: ended while idle, or damaged by the picture before.
_TRIES = 2
_lock = Lock()
_child: ChildProcess | None = None


def decoded_apart(decoder: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What a function of a module gives for the arguments; its errors become an `ImageError`, which is raised."""
    with _lock:
        answer = _answer_of_child(pickle.dumps((decoder, arguments, named)))
    if isinstance(answer, ImageError):
        raise answer
    return cast("T", answer)


def _answer_of_child(content: bytes) -> object:
    global _child
    how = "the process of their decoder down"
    for _ in range(_TRIES):
        _child = _child or ChildProcess(__name__)
        answer = _child.ask(content)
        if answer is not None:
            return answer
        ended, _child = _child.end(), None
        if ended == -signal.SIGALRM:  # a timeout would only repeat
            how = f"longer than {_TIMEOUT_S:g} s"
            break
    return ImageError("truncated", f"its pixels are damaged: they take {how}")


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
