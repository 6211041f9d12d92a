"""Looks up the images that the rows of a list name: files, members of archives, frames and slices."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice

from brainray import storage
from brainray.errors import BadRequest, StorageError
from brainray.inputs import archives
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.frames.named import NamedFrames
from brainray.inputs.listed_image import CHUNK_ROWS, ListedImage

from .archive_lookup import ArchiveLookup, is_missing
from .file_lists import FileList, FileListRow

_IS_FOLDER = "unsupported: is a folder"  # it counts as a prefix
_AT_ONCE = 16  # files that are looked up in parallel


def resolve_rows(
    image_list: FileList, indexes: ArchiveIndexes, *, keep: Sequence[str] = (), skipped: Counter[str] | None = None
) -> Iterator[tuple[FileListRow, ListedImage]]:
    """The rows of a list in order, each with its image, also where that does not exist.

    Objects of a bucket are not looked up, which would cost a request each: size and version are those of the list.
    Those of which it names frames are.
    """
    rows = image_list.rows(keep, skipped=skipped)
    lookup = ArchiveLookup(indexes)
    plain_image = partial(_plain, frames=NamedFrames())
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look-up") as pool:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            members = lookup.find({listed.uri for listed in chunk if not listed.is_prefix})
            plain = [listed for listed in chunk if listed.uri not in members and not listed.is_prefix]
            files = [listed for listed in plain if _is_looked_up(listed.uri)]
            found = {listed.uri: plain_image(listed) for listed in plain if not _is_looked_up(listed.uri)}
            found |= zip((listed.uri for listed in files), pool.map(plain_image, files), strict=True)
            no_members = [listed for listed in chunk if (of := members.get(listed.uri)) and is_missing(of)]
            for listed, file in zip(no_members, pool.map(_named_like_a_member, no_members), strict=True):
                members[listed.uri] = file or members[listed.uri]
            for listed in chunk:
                image = ListedImage(listed.uri) if listed.is_prefix else members.get(listed.uri) or found[listed.uri]
                if image.refused == _IS_FOLDER:
                    listed = replace(listed, is_prefix=True)
                elif listed.uri in lookup.volumes:
                    listed = replace(listed, volume=lookup.volumes[listed.uri])
                yield listed, image._replace(kept=listed.kept)


def _is_looked_up(uri: str) -> bool:
    """Whether an image takes a look at its file. Other objects take none, and handing them to a thread would cost."""
    return storage.is_local(uri) or "#" in uri


def _plain(listed: FileListRow, frames: NamedFrames) -> ListedImage:
    as_listed = ListedImage(listed.uri, listed.size_bytes, listed.version)
    if archives.kind_of(listed.uri):
        return as_listed._replace(refused="unsupported: is a container; give it as --input, or list its members")
    try:
        found = storage.stat(listed.uri)
    except StorageError:
        return frames.find(as_listed) or ListedImage(listed.uri)  # the read will report the reason
    if found is None:
        return frames.find(as_listed) or as_listed
    if found.special:
        return as_listed._replace(refused=_IS_FOLDER if storage.is_folder(listed.uri) else "unsupported: is no file")
    return ListedImage(listed.uri, found.size_bytes, found.version)


def _named_like_a_member(listed: FileListRow) -> ListedImage | None:
    """The file that is named like a member of an archive, as `a.zip#1.jpg`; None where there is none.

    Costs a request or two in a bucket, and is asked only for a member that there is not.
    """
    try:
        return _plain(listed, NamedFrames()) if storage.exists(listed.uri) else None
    except BadRequest:  # a member's name with "://" makes no path
        return None
    except StorageError as exc:
        if exc.reason == "read_failed":
            raise
        return None
