"""The paths of listed images: within their archives, and their folders, of which an archive is one."""

from . import archives
from .frames.listing import is_frame
from .listed_image import ListedImage


def inner_path(image: ListedImage, path: str) -> str:
    """The path of a member within its archive; of a file or frame, `path`, that below its input."""
    name = _member_name(image)
    return path if name is None else archives.inner_path(image.container or "", name)


def folders_of(image: ListedImage, path: str) -> tuple[str, ...]:
    """The folders of an image at `path` below its input, outermost first; archives are folders without their suffix."""
    name = _member_name(image)
    if name is None:
        return tuple(path.split("/")[:-1])
    *above, archive = path.removesuffix(f"#{name}").split("/")
    return (*above, archives.stem(archive), *inner_path(image, path).split("/")[:-1])


def _member_name(image: ListedImage) -> str | None:
    """The name of a member in its archive; None for a file or a frame of one."""
    if image.container is None:
        return None
    name = image.uri[len(image.container) + 1 :]
    in_file = is_frame(image.container, name, image.offset or 0, image.size_bytes, image.stored_bytes)
    return None if in_file else name
