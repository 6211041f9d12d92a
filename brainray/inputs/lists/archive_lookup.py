"""Looks up the members of archives that a list names, by the indexes of the archives."""

from collections import OrderedDict
from collections.abc import Iterable

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs import archives
from brainray.inputs.archives.index import ArchiveIndexes, Members
from brainray.inputs.frames.named import frame_named, may_have_frames
from brainray.inputs.frames.nifti.header import Header
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unnamed_files import TAR, image_or_tar_format
from brainray.storage.base import FileInfo

_KEPT_BYTES = 128 << 20  # of indexes in memory: one archive of a million members, or many smaller ones


def is_missing(image: ListedImage) -> bool:
    """Whether an archive has no member of this name."""
    return image.refused is not None and image.refused.startswith("not_found:")


class ArchiveLookup:
    """Finds the members of archives that a list names.

    Keeps the most recently used indexes in memory, up to `most_bytes`, so that rows in any order read each index once.
    """

    def __init__(self, indexes: ArchiveIndexes, *, most_bytes: int = _KEPT_BYTES) -> None:
        self._indexes = indexes
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[FileInfo, Members]] = OrderedDict()
        self.volumes: dict[str, Header] = {}  # of the NIfTI files that `find` has found last
        self._are_tars: dict[str, bool] = {}  # files whose names are of no archive

    def find(self, uris: Iterable[str]) -> dict[str, ListedImage]:
        """The image of each URI that names a member of an archive, also where there is no such member."""
        images: dict[str, ListedImage] = {}
        self.volumes = {}
        left = {uri: found for uri in uris if (found := archives.archive_of(uri) or self._unnamed(uri)) is not None}
        while left:
            wanted: dict[tuple[str, archives.Kind], list[str]] = {}
            for uri, found in left.items():
                wanted.setdefault(found, []).append(uri)
            left = {}
            for (archive, kind), members in wanted.items():
                for uri, image in self._members(archive, kind, members).items():
                    if not is_missing(image) or uri not in images:
                        images[uri] = image
                    following = archives.archive_of(uri, longer_than=len(archive)) if is_missing(image) else None
                    if following is not None:
                        left[uri] = following
        return images

    def _unnamed(self, uri: str) -> tuple[str, archives.Kind] | None:
        """The tar without suffix of which a URI may name a member. On a disk only, where it costs no request."""
        if "#" not in uri or may_have_frames(uri.rpartition("#")[0]):
            return None
        ends = (at for at, sign in enumerate(uri) if sign == "#")
        try:
            archive = next((uri[:at] for at in ends if self._is_tar(uri[:at])), None)
        except StorageError:
            if frame_named(uri) is None:
                raise
            return None  # `NamedFrames` cannot read it either, and makes a row of it
        return None if archive is None else (archive, archives.container_kind(archive))

    def _is_tar(self, uri: str) -> bool:
        if uri not in self._are_tars:
            try:
                found = storage.stat(uri)
                is_tar = found is not None and not found.special and image_or_tar_format(found) == TAR
            except StorageError as exc:
                if exc.reason == "read_failed":
                    raise
                is_tar = False
            self._are_tars[uri] = is_tar
        return self._are_tars[uri]

    def _members(self, archive: str, kind: archives.Kind, uris: list[str]) -> dict[str, ListedImage]:
        images = {uri: ListedImage(uri, refused=f"not_found: {archive} has no such member") for uri in uris}
        try:
            info, index = self._opened(archive, kind)
        except StorageError as exc:
            if exc.reason == "read_failed":
                raise
            return {uri: ListedImage(uri, refused=f"{exc.reason}: {exc}") for uri in uris}
        names = [uri.removeprefix(f"{archive}#") for uri in uris]
        for image, volume in index.find(info, names):
            images[image.uri] = image
            if volume is not None:
                self.volumes[image.uri] = volume
        missing = [uri.removeprefix(f"{archive}#") for uri, image in images.items() if is_missing(image)]
        found = index.find_frames(info, missing)
        return images | {archives.member_uri(archive, name): image for name, image in found}

    def _opened(self, archive: str, kind: archives.Kind) -> tuple[FileInfo, Members]:
        if archive in self._kept:
            self._kept.move_to_end(archive)
            return self._kept[archive]
        info = next(storage.list_files(archive), None)
        if info is None or info.uri != archive:
            raise StorageError("not_found", f"{archive}: is a folder, and no archive")
        if info.special:
            raise StorageError("unsupported", f"{archive}: is no file")
        opened = info, self._indexes.begin(info, kind).result().members()
        self._kept[archive] = opened
        self._bytes += opened[1].size_bytes
        while self._bytes > self._most_bytes:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._bytes -= oldest.size_bytes
        return opened
