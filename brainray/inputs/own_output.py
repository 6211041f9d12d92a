"""The folder that a command writes to, which is no input of it, by whatever links either is named."""

from functools import lru_cache

from brainray import storage
from brainray.storage.paths import path_of


class OwnOutput:
    """Tells the files below an output: the plots of a run are no images of its next one."""

    def __init__(self, output: str | None, *, root: str | None = None) -> None:
        """An output that is a folder above `root` holds nothing, or there would be no input."""
        own = None if output is None else _place(output).rstrip("/") + "/"
        self._own = None if own is None or (root is not None and _place(root).startswith(own)) else own
        self._place = lru_cache(1024)(_place)  # files are listed folder by folder

    def holds(self, uri: str) -> bool:
        """Whether a file lies below the output; a link to a file counts where the link is."""
        if self._own is None:
            return False
        folder, _, name = uri.rpartition("/")
        return f"{self._place(folder)}/{name}".startswith(self._own)


def _place(uri: str) -> str:
    """A location without links, as a path where it is on a disk."""
    return path_of(storage.without_links(uri))
