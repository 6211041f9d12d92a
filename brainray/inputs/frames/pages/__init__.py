"""Pages of TIFF files and frames of animated GIF files: of a file with several each is a row, the third `file.tif#3`.

A file is asked for their number when it is listed, and a page is read as a file of its own, both without Pillow. A
TIFF's copies in reduced size and its masks are no pages.
"""

from brainray.inputs.frames.sources import Fetch, Image, Once

from . import gif, tiff

MOST_PAGES = tiff.MOST_PAGES
SUFFIXES = (".tif", ".tiff", ".gif")
WHOLE_BYTES = 32 << 20  # files up to this size are read as a whole, once for all pages; of larger TIFF files ranges


def is_paged(name: str) -> bool:
    """Whether a file may have pages by its suffix."""
    return name.lower().endswith(SUFFIXES)


def is_animation(name: str) -> bool:
    """Whether a page may take what stands before it in the file, as frames of GIF do."""
    return name.lower().endswith(".gif")


def pages_in(fetch: Fetch, size_bytes: int) -> int:
    """The number of pages, at most one above `MOST_PAGES`; 1 for a file of another format.

    Raises `StorageError` as `fetch` does.
    """
    head = fetch(0, min(size_bytes, tiff.HEAD_BYTES))
    if gif.is_gif(head):
        return gif.frames_in(fetch(0, size_bytes)) if size_bytes <= gif.MOST_BYTES else 1
    return len(tiff.pages_of(fetch, size_bytes)) or 1


def read_pages(fetch: Fetch, size_bytes: int, numbers: list[int], once: Once) -> tuple[Image, ...]:
    """The pages at these places, from 0. `once` may keep where pages are. Raises `StorageError` as `fetch` does."""
    head = fetch(0, min(size_bytes, tiff.HEAD_BYTES))
    if gif.is_gif(head):
        return gif.read_frames(fetch(0, min(size_bytes, gif.MOST_BYTES)), numbers)
    return tiff.read_pages(fetch, size_bytes, numbers, once)
