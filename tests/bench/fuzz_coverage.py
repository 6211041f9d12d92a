"""Fuzzes the readers of headers and indexes, guided by what their code covers. By hand, for as long as wanted:

    python -m venv fuzzing && fuzzing/bin/pip install atheris '.[dicom,nifti,heif]'
    fuzzing/bin/python tests/bench/fuzz_coverage.py all -max_total_time=600 -artifact_prefix=/tmp/found- /tmp/corpus

The first argument is a target below, or `all`; the others are libFuzzer's (https://llvm.org/docs/LibFuzzer.html).
atheris is no dependency of the project. What a reader may raise is an `ImageError`, and of an archive a row that tells
its damage; anything else, a hang or more than 2 GB of memory ends the fuzzer, which keeps the bytes that did it.
"""

import gzip
import io
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import atheris
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["brainray", "pydicom.filereader", "pydicom.fileutil", "pydicom.filebase"]):
    from brainray.config import ImageSpec
    from brainray.errors import ImageError
    from brainray.imaging.decode import Excluded, decode, read_header
    from brainray.inputs import archives
    from brainray.inputs.archives.inflating import Inflating
    from brainray.inputs.archives.member import frames_by_row
    from brainray.inputs.frames.header import frames_in
    from brainray.inputs.frames.inflated import InflatedFile
    from brainray.inputs.frames.members import frames_of_member, read_member_frames
    from brainray.inputs.frames.nifti.file import NiftiFile
    from brainray.inputs.frames.nifti.header import Header
    from brainray.inputs.frames.nifti.listing import chosen_slices, places_of, rows_of, slices_in
    from brainray.inputs.frames.packed import frames_of_head, is_packed, unpack
    from brainray.inputs.frames.pages import is_paged, pages_in, read_pages
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
    _pages(data, pages_in(within(data), len(data)))


def _pages(data: bytes, count: int) -> None:
    for page in read_pages(within(data), len(data), list(range(min(count, _MOST_FRAMES))), lambda make: make()):
        if isinstance(page, bytes):
            with suppress(ImageError):
                decode(page, SPEC)


def packed(data: bytes) -> None:
    """DICOM files that are packed as a whole: their frames by the first bytes, and unpacked."""
    frames = frames_of_head(data)
    if is_packed(data):
        unpack(within(data), len(data))
    if frames:
        read_frames(within(data), len(data), range(min(frames, _MOST_FRAMES)))


def inflated(data: bytes) -> None:
    """Parts of a deflated file in the order that the first bytes say, forwards and back."""
    jumps, begin, stream = data[:16], data[16:20], data[20:]
    file = InflatedFile(begin, memoryview(stream), 1 << 20)
    for jump in jumps[:8]:
        with suppress(OSError):
            file.seek(jump - 64, 1)
        assert len(file.read(jump * jump)) <= jump * jump
    fetch, there = Inflating(within(stream), len(stream)), _unpacked(stream)
    for jump in jumps[8:]:
        start, length = jump << 6, jump
        part = fetch(start, length)
        assert part == b"" or there is None or part == there[start : start + length]


def _unpacked(stream: bytes) -> bytes | None:
    """What a sound stream unpacks to, if that is little."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = unpacker.decompress(stream, 1 << 20)
    except zlib.error:
        return None
    return found if unpacker.eof else None


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
                        _member(row, archives.unpack(kind, row["name"], row["size_bytes"], stored))


def _member(row: dict[str, Any], data: bytes) -> None:
    """The rows of frames, pages or slices of a member, and the first of their pictures."""
    image = ListedImage(row["name"], row["size_bytes"], container="a", offset=0, stored_bytes=row["stored_bytes"])
    if row["volume"] is not None:
        header = Header.from_text(row["volume"])
        slices = chosen_slices(header, len(data), "first", packed=row["name"].lower().endswith(".gz"))
        if slices < 10_000:
            list(frames_of_member(image, image.uri, slices))
        NiftiFile(within(data), len(data), {"name": "", "sidecar": {}}).slice_at(places_of(header, slices)[0])
        return
    frames = frames_by_row(row["frames"], row["frame_bytes"])
    rows = list(frames_of_member(image, image.uri, frames)) if frames < 10_000 else []
    if len(rows) > 1 and is_paged(row["name"]):
        _pages(data, frames)
    elif len(rows) > 1:
        read_member_frames(lambda: data, range(_MOST_FRAMES), lambda make: make(), lambda make: make())


TARGETS: dict[str, Callable[[bytes], None]] = {
    "dicom_frames": dicom_frames,
    "pictures": pictures,
    "pages": pages,
    "packed": packed,
    "inflated": inflated,
    "nifti": nifti,
    "tar": lambda data: _members("tar", data),
    "compressed_tar": lambda data: _members("compressed tar", data),
    "zip": lambda data: _members("zip", data),
    "parquet": lambda data: _members("parquet", data),
}


def seeds() -> dict[str, bytes]:
    """Sound files of every kind, to begin with."""
    from support.imaging.hostile import sound_images
    from support.imaging.niftis import nifti as drawn
    from support.imaging.paged import gif, moving, tiff
    from support.imaging.paged import pages as pictures_of
    from support.inputs.archives import tar_of, zip_of

    packs = {"zip": zip_of, "tar": tar_of, "tar.gz": partial(tar_of, mode="w:gz")}
    volumes = {"nii": drawn(packed=False), "nii 2": drawn(packed=False, version=2), "nii.gz": drawn()}
    several = {
        "b.dcm": sound_images()["DICOM frames"],
        "c.tif": tiff(pictures_of(2, 12, 12)),
        "d.gif": gif(moving(2)),
        "e.nii.gz": drawn(),
        "f.dcm.gz": gzip.compress(sound_images()["DICOM frames"]),
    }
    files = {"glioma/a.png": b"pixels " * 30, **several}
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
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = bytes(range(0, 160, 10)) + b"head" + deflater.compress(bytes(range(256)) * 80) + deflater.flush()
    each = {
        f"{kind} of {name}": pack({name: content}) for name, content in several.items() for kind, pack in packs.items()
    }
    zipped = {f"{name} in gzip": gzip.compress(sound_images()[name]) for name in ("DICOM", "DICOM frames")}
    return sound_images() | volumes | packed | each | zipped | {"deflated": deflated}


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
