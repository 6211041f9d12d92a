"""Decodes images in a child process, so that an image that kills its decoder is identified and gets a row.

Used for a shard that repeatedly kills its worker, by a crash inside a decoder or for lack of memory, and for every
image of a training or an audit. Slower than `decode` in the same process by 0.15 s for the start and 0.15 ms per image.
The child imports no Ray and no torch.
"""

import json
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from brainray.config import ImageSpec
from brainray.errors import ImageError

from .child_process import ChildProcess, serve
from .decode import Decoded, Excluded, Header, decode, read_header

T = TypeVar("T")

# A child may die for another reason than this image: lack of memory on the machine, or damage by the image before.
_TRIES = 2
# Memory limit of the child, so that an image cannot make the system kill another process, such as the worker. The
# format with the largest need, RGBA WebP, takes 25 bytes per pixel; Python and numpy 0.1 GB, each thread of the AVIF
# decoder 8 MB of stack.
_BYTES_PER_PIXEL = 32
_SPARE_BYTES = 2 << 30


class Sandbox(Generic[T]):
    """A function of an image's bytes in a child process, which starts when needed; a context manager ends it.

    For one thread. `module` is that of the child: its `main` calls `serve_images`.
    """

    def __init__(self, module: str, *arguments: str, timeout_s: float) -> None:
        """Keep what the child is started with: the arguments, and after them the timeout for an image."""
        self._module, self._arguments = module, arguments
        self._timeout_s = timeout_s
        self._child: ChildProcess | None = None
        self._killer: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._end_child()

    def __call__(self, content: bytes) -> T:
        """What the function gives. Raises what it does, or an `ImageError` about how the image killed the child.

        Raises `BrainrayError` where the child does not start, for which no image is the cause.
        """
        exit_code = 0
        for _ in range(_TRIES):
            self._child = self._child or self._start_child()
            answer = self._child.ask(content)
            if isinstance(answer, ImageError | Excluded):
                raise answer
            if answer is not None:
                return cast("T", answer)
            exit_code = self._end_child()
            if exit_code == -signal.SIGALRM:  # a timeout would only repeat
                break
        self._killer = content
        raise ImageError("unsupported", self._describe_death(exit_code))

    def _describe_death(self, exit_code: int) -> str:
        if exit_code == -signal.SIGALRM:
            return f"its decoder took longer than {self._timeout_s:g} s"
        how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        return f"killed its decoder ({how})"

    def _start_child(self) -> ChildProcess:
        return ChildProcess(self._module, *self._arguments, str(self._timeout_s))

    def _end_child(self) -> int:
        child, self._child = self._child, None
        return child.end() if child else 0


class SandboxedDecoder(Sandbox[Decoded]):
    """`decode` in a child process."""

    def __init__(self, spec: ImageSpec, *, excluding: tuple[str, ...] = (), timeout_s: float = 60.0) -> None:
        super().__init__(__name__, json.dumps(spec.to_json()), json.dumps(excluding), timeout_s=timeout_s)

    def read_header(self, content: bytes) -> Header:
        """The header of an image that was refused; empty for one that killed a child, as it is read in this process."""
        return Header() if content is self._killer else read_header(content)


def most_bytes_for(spec: ImageSpec) -> int:
    """The memory that decoding an image of the spec may take, Python's own included."""
    return _SPARE_BYTES + _BYTES_PER_PIXEL * spec.max_pixels


def serve_images(answer: Callable[[bytes], object], spec: ImageSpec) -> None:
    """In the child: answer images until the parent closes the connection. Errors of an image are answers, too."""

    def answer_or_error(content: bytes) -> object:
        try:
            return answer(content)
        except (ImageError, Excluded) as exc:
            return exc
        except MemoryError:
            return ImageError("too_large", "it takes too much memory to decode")

    serve(answer_or_error, timeout_s=float(sys.argv[-1]), most_bytes=most_bytes_for(spec))


def main() -> None:
    """The child process: decode images."""
    spec, excluding = ImageSpec.from_json(json.loads(sys.argv[1])), json.loads(sys.argv[2])
    serve_images(lambda content: decode(content, spec, excluding=excluding), spec)


if __name__ == "__main__":
    main()
