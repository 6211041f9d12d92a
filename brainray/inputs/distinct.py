"""Which of several inputs are listed: where one lies within another, no image is listed twice, and none left out."""

import shlex
from collections.abc import Iterable, Iterator

from brainray import storage
from brainray.errors import BadRequest, as_bad_request

from .image_files import is_hidden
from .lists.file_lists import open_file_list


def distinct_inputs(inputs: Iterable[str]) -> list[str]:
    """The normalised inputs in order, without those that another lists, also by a link.

    Inputs within another stay if that passes over them: lists, and what lies in a hidden folder.
    Raises `BadRequest` for an input that does not exist or cannot be read.
    """
    roots: list[str] = []
    for uri in dict.fromkeys(storage.normalise(text) for text in inputs):
        with as_bad_request("--input"):
            if not storage.exists(uri):
                raise BadRequest(f"--input {uri}: no such file or folder{_instead_of_glob(uri)}")
            storage.check_access(uri, write=False)
        roots.append(uri)
    real = {uri: storage.without_links(uri).rstrip("/") for uri in roots}
    first = {place: uri for uri, place in reversed(real.items())}  # of several links to one place
    return [uri for uri in roots if first[real[uri]] == uri and not _is_listed_by(real[uri], first)]


def _instead_of_glob(uri: str) -> str:
    """What to give in place of a glob that no shell has expanded, as those of a bucket."""
    parts = uri.split("/")
    globs = [place for place, part in enumerate(parts) if any(sign in part for sign in "*?[")]
    if not globs:
        return ""
    folder, glob = "/".join(parts[: globs[0]]), "/".join(parts[globs[0] :])
    return f"; a glob is not expanded here: give --input {folder}/ --include {shlex.quote(glob)}"


def _is_listed_by(place: str, others: Iterable[str]) -> bool:
    """Whether the listing of a folder above finds what is at a place."""
    above = [place[:end] for end in _ends_of_folders(place) if place[:end] in others]
    if not above:
        return False
    *folders, name = place[len(above[0]) + 1 :].split("/")
    is_folder = storage.is_folder(place)
    if is_hidden(name, (*folders, name) if is_folder else folders):
        return any(_is_listed_by(place, [folder]) for folder in above[1:])
    return is_folder or open_file_list(place) is None


def _ends_of_folders(uri: str) -> Iterator[int]:
    """The lengths of the folders that hold a location, as parts of its URI."""
    return (at for at, sign in enumerate(uri[:-1]) if sign == "/")
