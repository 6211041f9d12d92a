"""Fuzzes the readers of headers and indexes, guided by what their code covers. By hand, for as long as wanted:

    python -m venv fuzzing && fuzzing/bin/pip install atheris '.[dicom,nifti,heif]'
    fuzzing/bin/python tests/bench/fuzz_coverage.py all -max_total_time=600 -artifact_prefix=/tmp/found- /tmp/corpus

The first argument is a target below, or `all`; the others are libFuzzer's (https://llvm.org/docs/LibFuzzer.html).
atheris is no dependency of the project. What a reader may raise is an `ImageError`, and of an archive a row that tells
its damage; anything else, a hang or more than 2 GB of memory ends the fuzzer, which keeps the bytes that did it.
"""

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["brainray", "pydicom.filereader", "pydicom.fileutil", "pydicom.filebase"]):
    from brainray.config import ImageSpec
    from brainray.errors import ImageError
    from brainray.imaging.decode import Excluded, decode, read_header
    from brainray.inputs import archives
    from brainray.inputs.frames.header import frames_in
    from brainray.inputs.frames.nifti.listing import rows_of, slices_in
    from brainray.inputs.frames.pages import pages_in, read_pages
    from brainray.inputs.frames.reading import read_frames
    from brainray.inputs.frames.sources import within
    from brainray.inputs.listed_image import ListedImage
    from brainray.inputs.unnamed_files import format_of

SPEC = ImageSpec(image_px=32, max_pixels=1_000_000)
_MOST_FRAMES = 4


def dicom_frames(data: bytes) -> None:
    """The number of frames by the first bytes, and the first of them."""
    frames = frames_in(data)
    if frames:
        read_frames(within(data), len(data), range(min(frames, _MOST_FRAMES)))


def pictures(data: bytes) -> None:
    """Every format that is told by its first bytes: header, eligibility, pixels."""
    format_of(data)
    read_header(data)
    with suppress(Excluded):
        decode(data, SPEC, excluding=("not_mr", "localizer"))


def pages(data: bytes) -> None:
    """Pages of TIFF and GIF, each as a picture of its own."""
    count = pages_in(within(data), len(data))
    for page in read_pages(within(data), len(data), list(range(min(count, _MOST_FRAMES))), lambda make: make()):
        if isinstance(page, bytes):
            with suppress(ImageError):
                decode(page, SPEC)


def nifti(data: bytes) -> None:
    """The header of a volume, the rows of its slices, and the picture of a file with one."""
    for name in ("a.nii", "a.nii.gz"):
        slices = slices_in(name, data, len(data), "all")
        if slices is not None and slices < 10_000:
            rows_of(ListedImage(name, len(data)), slices)
    with suppress(Excluded):
        decode(data, SPEC)


def _members(kind: archives.Kind, data: bytes) -> None:
    """The index of an archive, and its first members."""
    with suppress(archives.NotAnArchive):
        for table in archives.list_members(kind, io.BytesIO(data), most=1000):
            for row in table.slice(0, _MOST_FRAMES).to_pylist():
                if row["refused"] is None and row["offset"] is not None and kind != "parquet":
                    stored = data[row["offset"] : row["offset"] + row["stored_bytes"]]
                    with suppress(ImageError):
                        archives.unpack(kind, row["name"], row["size_bytes"], stored)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "dicom_frames": dicom_frames,
    "pictures": pictures,
    "pages": pages,
    "nifti": nifti,
    "tar": lambda data: _members("tar", data),
    "compressed_tar": lambda data: _members("compressed tar", data),
    "zip": lambda data: _members("zip", data),
    "parquet": lambda data: _members("parquet", data),
}


def seeds() -> dict[str, bytes]:
    """Sound files of every kind, to begin with."""
    from support.archives import tar_of, zip_of
    from support.hostile import sound_images
    from support.niftis import nifti as drawn

    volumes = {"nii": drawn(packed=False), "nii 2": drawn(packed=False, version=2), "nii.gz": drawn()}
    files = {"glioma/a.png": b"pixels " * 30, "b.dcm": sound_images()["DICOM frames"]}
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": b"pixels", "path": "a.png"}], "label": [1]}), table)
    packed = {
        "tar": tar_of(files),
        "tar.gz": tar_of(files, mode="w:gz"),
        "tar of long names": tar_of({"a" * 200: b"x"}, "gnu"),
        "zip": zip_of(files),
        "zip, streamed": zip_of(files, streamed=True, force_zip64=True),
        "parquet": table.getvalue(),
    }
    return sound_images() | volumes | packed


def main() -> None:
    target, *options = sys.argv[1:]
    chosen = list(TARGETS.values()) if target == "all" else [TARGETS[target]]
    folders = [Path(option) for option in options if not option.startswith("-")]
    for folder in folders[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(seeds().values()):
            for first in range(len(chosen)) if len(chosen) > 1 else [None]:
                marked = content if first is None else bytes([first]) + content
                (folder / f"seed-{number}-{first}").write_bytes(marked)

    def one_input(data: bytes) -> None:
        if len(chosen) > 1:
            which, data = (data[0] % len(chosen), data[1:]) if data else (0, b"")
        else:
            which = 0
        with suppress(ImageError):
            chosen[which](data)

    atheris.Setup([sys.argv[0], "-rss_limit_mb=2048", "-timeout=20", "-max_len=65536", *options], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
