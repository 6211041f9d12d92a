"""Files that are missing, archived or too large are rows, however many; a storage that is lost is an outage."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.each import each

from brainray import storage
from brainray.errors import ImageError, Outage, StorageError
from brainray.inputs.ranges import Member, RangeRead
from brainray.inputs.reader import OUTAGE_WINDOW, Reader, ReadResult

COUNT = 4 * OUTAGE_WINDOW


def read_all(reader: Reader, uris: Sequence[str]) -> list[ReadResult]:
    with ThreadPoolExecutor(4) as pool:
        return list(reader.read_ahead([RangeRead(uri, None) for uri in uris], pool, ahead=3))


def reasons(results: Sequence[ReadResult]) -> set[str | None]:
    images = [result.images[0] for result in results]
    return {image.reason if isinstance(image, ImageError) else None for image in images}


def listed_files(folder: Path, *, there: int) -> list[str]:
    """The names in a list of many files, of which the first few exist."""
    folder.mkdir()
    for number in range(there):
        (folder / f"{number}.jpg").write_bytes(b"pixels")
    (folder / "other.txt").write_bytes(b"")
    return [f"{folder}/{number}.jpg" for number in range(COUNT)]


@each("there", [0, 3])
def test_list_of_mostly_missing_files_gives_rows(tmp_path: Path, there: int) -> None:
    uris = listed_files(tmp_path / "scans", there=there)
    (tmp_path / "list.csv").write_text("uri")
    results = read_all(Reader(roots=[f"{tmp_path}/list.csv"]), uris)
    assert len(results) == COUNT and reasons(results[there:]) == {"not_found"}


def test_list_whose_mount_point_is_empty_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "nas").mkdir()
    (tmp_path / "list.csv").write_text("uri")
    uris = [f"{tmp_path}/nas/a/{number}.jpg" for number in range(COUNT)]
    with pytest.raises(Outage, match=f"the folder {tmp_path}/nas is empty"):
        read_all(Reader(roots=[f"{tmp_path}/list.csv"]), uris)


def test_files_that_go_with_their_storage_are_an_outage(tmp_path: Path) -> None:
    uris = listed_files(tmp_path / "scans", there=COUNT)
    reader = Reader(roots=[str(tmp_path)])
    with ThreadPoolExecutor(1) as pool, pytest.raises(Outage, match="what could be read before can not be read now"):
        for number, _ in enumerate(reader.read_ahead([RangeRead(uri, None) for uri in uris], pool, ahead=0)):
            if number == OUTAGE_WINDOW:
                (tmp_path / "scans").rename(tmp_path / "away")


def test_one_archive_that_is_removed_is_no_outage(tmp_path: Path) -> None:
    """That its members could be read before says nothing of other files; it would end the run."""
    for name in ("a.tar", "b.jpg"):
        (tmp_path / name).write_bytes(bytes(1024))
    members = [Member(f"{number}.jpg", number, 1, 1) for number in range(COUNT)]
    reads = [RangeRead(f"{tmp_path}/a.tar", 1, None, (member,)) for member in members]
    reader = Reader(roots=[str(tmp_path)])
    results = []
    with ThreadPoolExecutor(1) as pool:
        for result in reader.read_ahead([*reads, RangeRead(f"{tmp_path}/b.jpg", 1), reads[0]], pool, ahead=0):
            results.append(result)
            (tmp_path / "a.tar").unlink(missing_ok=True)
    assert len(results) == COUNT + 2
    assert reasons(results[1:COUNT]) == reasons(results[-1:]) == {"not_found"}
    assert reasons(results[:1]) == reasons(results[COUNT : COUNT + 1]) == {None}


@each("bucket_exists", [True, False])
def test_missing_objects_are_an_outage_only_with_their_bucket(
    monkeypatch: pytest.MonkeyPatch, bucket_exists: bool
) -> None:
    def read(piece: RangeRead) -> tuple[bytes, ...]:
        raise StorageError("not_found", f"{piece.uri}: is not there")

    def exists(uri: str) -> bool:
        if not bucket_exists:
            raise StorageError("not_found", f"{uri}: there is no bucket")
        return False

    monkeypatch.setattr(storage, "exists", exists)
    reader = Reader(read=read, sleep=lambda _: None)
    uris = [f"s3://bucket/{number}.jpg" for number in range(COUNT)]
    if bucket_exists:
        assert reasons(read_all(reader, uris)) == {"not_found"}
    else:
        with pytest.raises(Outage, match="there is no bucket"):
            read_all(reader, uris)


@each("reason", ["archived", "too_large"])
def test_images_that_are_not_to_be_read_are_no_outage(reason: str) -> None:
    attempts: list[str] = []

    def read(piece: RangeRead) -> tuple[bytes, ...]:
        attempts.append(piece.uri)
        raise StorageError(reason, f"{piece.uri}: not read")

    results = read_all(Reader(read=read, outage_share=0.0), [f"s3://bucket/{n}.jpg" for n in range(COUNT)])
    assert reasons(results) == {reason} and len(attempts) == COUNT
