"""Inputs that are empty although a run has images of them, as where a mount is missing: no row is dropped for that."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow.compute as pc

from brainray import storage
from brainray.errors import BadRequest, StorageError
from brainray.inputs.image_files import is_hidden
from brainray.inputs.listed_image import tables_in
from brainray.inputs.listing import Listing

from .run_folder import ScoreRequest


def with_emptied(request: ScoreRequest, found: Listing, old: Sequence[str], *, drops: bool) -> Listing:
    """The listing, with a note of each input that is empty now and has rows in the local manifest files `old`.

    Raises `BadRequest` where the rows of missing images would be dropped (`drops`). Behind pseudonyms nobody sees whose
    images are missing, so any empty input is taken for theirs.
    """
    emptied = [(root, "images" if count is None else f"{count:,} images") for root, count in _emptied(request, old)]
    if emptied and drops:
        root, images = emptied[0]
        option = "--forget-missing" if request.options.forget_missing else "--rescore"
        raise BadRequest(
            f"--input {root} is empty, and {option} would drop the rows of {images} that the run has of it; mount or "
            "restore it, or put a file into it, such as EMPTY.txt, if it is meant to be empty"
        )
    notes = (
        f"--input {root} is empty, and the run has {images} of it, which keep their rows and are marked gone; "
        "is its mount missing?"
        for root, images in emptied
    )
    return replace(found, notes=(*found.notes, *notes))


def _emptied(request: ScoreRequest, old: Sequence[str]) -> Iterator[tuple[str, int | None]]:
    """The inputs without any file that have rows in a manifest, and how many (None: not known)."""
    for root in request.roots:
        if _is_empty(root):
            count = None if request.pseudonyms else _count_below(root, old)
            if count != 0:
                yield root, count


def _is_empty(root: str) -> bool:
    """Whether a folder holds no file but hidden ones; False where that cannot be told."""
    try:
        if not storage.is_folder(root):
            return False
        return all(is_hidden(storage.name_of(file.uri), file.folders) for file in storage.list_files(root))
    except StorageError:
        return False


def _count_below(root: str, manifest: Sequence[str]) -> int:
    """The number of rows of local manifest files that lie below a folder."""
    below = root.rstrip("/") + "/"
    tables = (table for path in manifest for table in tables_in(path, ["uri"]))
    return sum(pc.sum(pc.starts_with(table["uri"], below)).as_py() or 0 for table in tables)
