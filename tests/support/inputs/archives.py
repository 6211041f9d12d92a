"""Archives of images, in memory."""

import io
import tarfile
import zipfile
from pathlib import Path

TAR_FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def tar_of(files, form="pax", *, mode="w", **fields):
    """Files are (name, bytes) pairs or whole `TarInfo`s."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode, format=TAR_FORMATS[form]) as tar:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


class Unseekable(io.RawIOBase):
    """A pipe that somebody writes a zip into."""

    def __init__(self):
        self.written = b""

    def writable(self):
        return True

    def write(self, data):
        self.written += bytes(data)
        return len(data)


def zip_of(files, method=zipfile.ZIP_DEFLATED, *, streamed=False, force_zip64=False):
    made = Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            info.compress_type = method
            with file.open(info, "w", force_zip64=force_zip64) as member:
                member.write(data)
    return made.written if streamed else made.getvalue()


def write_packed(path: Path, files: dict[str, bytes]) -> Path:
    """The files as the archive that its suffix says."""
    mode = "w:gz" if path.suffix == ".tgz" else "w"
    path.write_bytes(zip_of(files) if path.suffix == ".zip" else tar_of(files, mode=mode))
    return path


def write_in_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """The same files, not packed."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
