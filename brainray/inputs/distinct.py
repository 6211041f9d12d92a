"""Which of several inputs are listed: where one lies within another, no image is listed twice, and none left out."""

import shlex
from collections.abc import Iterable, Iterator

from brainray import storage
from brainray.errors import BadRequest, as_bad_request

from .bids import holds_no_raw_data
from .image_files import is_hidden
from .lists.file_lists import open_file_list
from .own_output import OwnOutput


def distinct_inputs(inputs: Iterable[str], *, output: str | None = None, all_wanted: bool = False) -> list[str]:
    """The normalised inputs in order, without those that another lists, also by a link.

    Inputs within another stay if that passes over them: lists, what lies in a hidden folder and, unless `all_wanted`,
    what a BIDS tree holds beside its raw data.
    Raises `BadRequest` for an input that does not exist, cannot be read, or lies in the output but is no list.
    """
    roots: list[str] = []
    own = OwnOutput(output)
    for uri in dict.fromkeys(storage.normalise(text) for text in inputs):
        with as_bad_request("--input"):
            if not storage.exists(uri):
                raise BadRequest(f"--input {uri}: no such file or folder{_instead_of_glob(uri)}")
            storage.check_access(uri, write=False)
            if own.holds(f"{uri}/") and open_file_list(uri) is None:
                raise BadRequest(f"--input {uri} lies in --output, whose files are no input; move the images elsewhere")
        roots.append(uri)
    real = {uri: storage.without_links(uri).rstrip("/") for uri in roots}
    first = {place: uri for uri, place in reversed(real.items())}  # of several links to one place
    return [uri for uri in roots if first[real[uri]] == uri and not _is_listed_by(real[uri], first, all_wanted)]


def _instead_of_glob(uri: str) -> str:
    """What to give in place of a glob that no shell has expanded, as those of a bucket."""
    parts = uri.split("/")
    globs = [place for place, part in enumerate(parts) if any(sign in part for sign in "*?[")]
    if not globs:
        return ""
    folder, glob = "/".join(parts[: globs[0]]), "/".join(parts[globs[0] :])
    return f"; a glob is not expanded here: give --input {folder}/ --include {shlex.quote(glob)}"


def _is_listed_by(place: str, others: Iterable[str], all_wanted: bool) -> bool:
    """Whether the listing of a folder above finds what is at a place."""
    above = [place[:end] for end in _ends_of_folders(place) if place[:end] in others]
    if not above:
        return False
    *folders, name = place[len(above[0]) + 1 :].split("/")
    is_folder = storage.is_folder(place)
    within = (*folders, name) if is_folder else folders
    if is_hidden(name, within) or (not all_wanted and holds_no_raw_data(above[0], within)):
        return any(_is_listed_by(place, [folder], all_wanted) for folder in above[1:])
    return is_folder or open_file_list(place) is None


def _ends_of_folders(uri: str) -> Iterator[int]:
    """The lengths of the folders that hold a location, as parts of its URI."""
    return (at for at, sign in enumerate(uri[:-1]) if sign == "/")
