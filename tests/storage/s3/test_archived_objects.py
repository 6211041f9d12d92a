"""Which objects are archived, as a listing and HEAD say: not those that have a restored copy."""

import pytest
from support.each import each

from brainray.errors import StorageError
from brainray.storage.s3 import requests
from brainray.storage.s3.backend import S3Objects
from brainray.storage.s3.listing import FIELD, Page, parse_page

EXPIRY = "<RestoreExpiryDate>2026-12-01T00:00:00.000Z</RestoreExpiryDate>"


def parsed(*contents: str) -> Page:
    body = "".join(f"<Contents><Key>{n}</Key><Size>5</Size>{text}</Contents>" for n, text in enumerate(contents))
    answer: dict = {}
    parse_page({"status_code": 200, "body": f"<ListBucketResult>{body}</ListBucketResult>".encode()}, answer)
    page: Page = answer[FIELD]
    return page


def test_classes_that_need_a_restore_are_archived() -> None:
    classes = ["STANDARD", "GLACIER", "DEEP_ARCHIVE", "GLACIER_IR", "INTELLIGENT_TIERING"]
    page = parsed("", *(f"<StorageClass>{name}</StorageClass>" for name in classes))
    assert [entry.archived for entry in page.entries] == [None, None, "GLACIER", "DEEP_ARCHIVE", None, None]


def test_restored_copy_can_be_read() -> None:
    begun = "<IsRestoreInProgress>true</IsRestoreInProgress>"
    page = parsed(*(f"<StorageClass>GLACIER</StorageClass><RestoreStatus>{s}</RestoreStatus>" for s in (begun, EXPIRY)))
    assert [entry.archived for entry in page.entries] == ["GLACIER", None]


class _Store:
    """Answers listings: with the state of restores where that is asked for, or refuses to be asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, storage_class: str, *, refuses: bool = False) -> None:
        self.asked: list[bool] = []
        self._class, self._refuses = storage_class, refuses
        monkeypatch.setattr(requests.Requests, "once", self.answer)
        monkeypatch.setattr(requests.Clients, "is_aws", False)

    def answer(self, operation: str, action: str, uri: str, **parameters: object) -> dict:
        wants_restores = "OptionalObjectAttributes" in parameters
        self.asked.append(wants_restores)
        if wants_restores and self._refuses:
            raise StorageError("read_failed", "not implemented")
        status = f"<RestoreStatus>{EXPIRY}</RestoreStatus>" if wants_restores else ""
        return {FIELD: parsed(f"<StorageClass>{self._class}</StorageClass>{status}")}


def archived(files: S3Objects) -> list[str | None]:
    return [file.archived for file in files.list_files("s3://bucket")]


def test_restores_are_asked_for_only_where_objects_are_archived(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = _Store(monkeypatch, "STANDARD")
    assert archived(S3Objects()) == [None] and True not in usual.asked
    restored = _Store(monkeypatch, "GLACIER")
    assert archived(S3Objects()) == [None] and True in restored.asked


def test_store_without_restores_is_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _Store(monkeypatch, "DEEP_ARCHIVE", refuses=True)
    assert archived(S3Objects()) == ["DEEP_ARCHIVE"]


@each(
    ("head", "expected"),
    [
        ({}, None),
        ({"StorageClass": "GLACIER"}, "GLACIER"),
        ({"StorageClass": "GLACIER", "Restore": 'ongoing-request="true"'}, "GLACIER"),
        ({"StorageClass": "GLACIER", "Restore": 'ongoing-request="false", expiry-date="Fri"'}, None),
        ({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "ARCHIVE_ACCESS"}, "INTELLIGENT_TIERING"),
        ({"StorageClass": "INTELLIGENT_TIERING"}, None),
    ],
)
def test_single_object_is_judged_by_its_head(monkeypatch: pytest.MonkeyPatch, head: dict, expected: str | None) -> None:
    found = {"ContentLength": 5, "ETag": '"e"'} | head
    monkeypatch.setattr(requests.Requests, "head", lambda self, uri: found)
    assert S3Objects()._file("s3://bucket/a.jpg").archived == expected
