"""Pages of a process decode in one child."""

from types import TracebackType
from typing import ClassVar

from brainray.imaging.child_process import ChildProcess
from brainray.imaging.sandbox import SandboxedDecoder


class OneSandbox(SandboxedDecoder):
    """A decoder whose child is left to the next one of the same settings, for its start takes 0.2 s."""

    _left: ClassVar[dict[str, ChildProcess]] = {}

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        if self._child:
            self._left[self._settings], self._child = self._child, None

    def _start_child(self) -> ChildProcess:
        return self._left.pop(self._settings, None) or super()._start_child()

    @property
    def _settings(self) -> str:
        return repr((self._arguments, self._timeout_s))
