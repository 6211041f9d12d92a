"""What the rows of a list name: files and members of containers, which version of them, or that they are not there."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from brainray import storage
from brainray.errors import StorageError
from brainray.storage.base import FileInfo

from . import archives as containers
from .archives.index import Indexes, Members
from .file_lists import ImageList, Listed
from .schema import Entry

_ROWS = 65_536
_AT_ONCE = 16
_KEPT_BYTES = 128 << 20  # an archive of a million members, or many of fewer


def resolved(image_list: ImageList, indexes: Indexes, *, keep: Sequence[str] = ()) -> Iterator[tuple[Listed, Entry]]:
    """The rows of a list in order, each with its image. One that is not there has an entry all the same.

    An object of a bucket is not looked for, which would cost a request: it has the size and version that the list says.
    """
    rows = image_list.rows(keep)
    archives = _Archives(indexes)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look-up") as pool:
        while chunk := list(islice(rows, _ROWS)):
            members = archives.find({listed.uri for listed in chunk})
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


class _Archives:
    """The archives that a list names members of.

    Their indexes stay in memory, the last used ones of `most_bytes` in all, so that rows in any order read each once.
    """

    def __init__(self, indexes: Indexes, *, most_bytes: int = _KEPT_BYTES) -> None:
        self._indexes = indexes
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[FileInfo, Members]] = OrderedDict()

    def find(self, uris: Iterable[str]) -> dict[str, Entry]:
        """An entry for each URI that names a member of an archive, also where there is no such member."""
        wanted: dict[tuple[str, containers.Kind], list[str]] = {}
        for uri in uris:
            found = containers.container_of(uri)
            if found is not None:
                wanted.setdefault(found, []).append(uri)
        entries: dict[str, Entry] = {}
        for (archive, kind), members in wanted.items():
            entries |= {uri: Entry(uri, refused=f"not_found: {archive} has no such member") for uri in members}
            try:
                info, index = self._opened(archive, kind)
            except StorageError as exc:
                if exc.reason == "read_failed":
                    raise
                entries |= {uri: Entry(uri, refused=f"{exc.reason}: {exc}") for uri in members}
                continue
            names = [uri.removeprefix(f"{archive}#") for uri in members]
            entries |= {entry.uri: entry for entry in index.find(info, names)}
        return entries

    def _opened(self, archive: str, kind: containers.Kind) -> tuple[FileInfo, Members]:
        if archive in self._kept:
            self._kept.move_to_end(archive)
            return self._kept[archive]
        info: FileInfo = next(storage.list_files(archive))
        opened = info, self._indexes.begin(info, kind).result().members()
        self._kept[archive] = opened
        self._bytes += opened[1].size_bytes
        while self._bytes > self._most_bytes:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._bytes -= oldest.size_bytes
        return opened
