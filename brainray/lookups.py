"""What the rows of a list name: files and members of containers, which version of them, or that they are not there."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from . import containers, storage
from .backend import FileInfo
from .entries import Entry
from .errors import StorageError
from .indexes import Indexes
from .lists import ImageList, Listed

_ROWS = 65_536
_AT_ONCE = 16


def resolved(image_list: ImageList, indexes: Indexes, *, keep: Sequence[str] = ()) -> Iterator[tuple[Listed, Entry]]:
    """The rows of a list in order, each with its image. One that is not there has an entry all the same.

    An object of a bucket is not looked for, which would cost a request: it has the size and version that the list says.
    """
    rows = image_list.rows(keep)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look-up") as pool:
        while chunk := list(islice(rows, _ROWS)):
            members = _members({listed.uri for listed in chunk}, indexes)
            plain = [listed for listed in chunk if listed.uri not in members]
            found = dict(zip((listed.uri for listed in plain), pool.map(_plain, plain), strict=True))
            for listed in chunk:
                entry = members.get(listed.uri) or found[listed.uri]
                yield listed, entry._replace(kept=listed.kept)


def _plain(listed: Listed) -> Entry:
    said = Entry(listed.uri, listed.size_bytes, listed.version)
    if containers.kind_of(listed.uri):
        return said._replace(refused="unsupported: is a container; give it as --input, or list its members")
    try:
        found = storage.look_up(listed.uri)
    except StorageError:
        return Entry(listed.uri)  # reading it will tell why
    if found is None:
        return said
    if found.special:
        return said._replace(refused="unsupported: is no file")
    return Entry(listed.uri, found.size_bytes, found.version)


def _members(uris: set[str], indexes: Indexes) -> dict[str, Entry]:
    """An entry for each URI that names a member of a container."""
    wanted: dict[str, set[str]] = {}
    for uri in uris:
        container = containers.container_of(uri)
        if container is not None:
            wanted.setdefault(container, set()).add(uri)
    entries: dict[str, Entry] = {}
    for container, members in wanted.items():
        entries |= {uri: Entry(uri, refused=f"not_found: {container} has no such member") for uri in members}
        entries |= _found(container, members, indexes)
    return entries


def _found(container: str, uris: set[str], indexes: Indexes) -> dict[str, Entry]:
    """Those that are there."""
    try:
        info: FileInfo = next(storage.list_files(container))
        index = indexes.begin(info, containers.kind_of(container) or "tar").result()
    except StorageError as exc:
        if exc.reason == "read_failed":
            raise
        return {uri: Entry(uri, refused=f"{exc.reason}: {exc}") for uri in uris}
    return {entry.uri: entry for _, entry, _ in index.entries(info) if entry.uri in uris}
