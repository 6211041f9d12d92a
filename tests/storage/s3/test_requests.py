"""Requests that fail are tried again or not, and say what to do."""

import os

import pytest
from support.machine.ports import free_port
from support.storage.s3_objects import error_of, files, held
from support.storage.s3_servers import SECRET_KEY, fast_s3, s3, s3_endpoints, strict_s3

from brainray.errors import (
    StorageError,
    Throttled,
    Unavailable,
    WrongRegion,
)
from brainray.storage.s3 import clients as s3_client
from brainray.storage.s3 import requests as s3_requests
from brainray.storage.s3.backend import S3Objects

__all__ = ["fast_s3", "s3", "s3_endpoints", "strict_s3"]  # fixtures


@pytest.mark.parametrize(
    "kind", ["reset", "truncate", "drop", "500 InternalError", "503 SlowDown", "429 TooManyRequests"]
)
def test_a_read_that_may_pass_is_tried_once_and_says_so(fast_s3, kind):
    uri = fast_s3.put("in/a.jpg", os.urandom(60_000))
    fast_s3.proxy.add(kind, times=1)
    error = error_of(lambda: files().read_once(uri))
    assert error.reason == "read_failed"
    assert isinstance(error, Throttled) == (kind[:3] in ("503", "429"))
    assert fast_s3.proxy.count("GET") == 1


def test_a_body_that_stalls_is_given_up(fast_s3, monkeypatch):
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 1)
    uri = fast_s3.put("in/a.jpg", os.urandom(60_000))
    fast_s3.proxy.add("slow", delay_s=3, times=1)
    assert error_of(lambda: files().read_once(uri)).reason == "read_failed"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("403 AccessDenied", "s3:GetObject"),
        ("403 InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        ("403 SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("400 ExpiredToken", "log in again"),
        ("403 RequestTimeTooSkewed", "clock"),
        ("403 InvalidObjectState", "archived"),
    ],
)
@pytest.mark.parametrize("key", ["in/a.jpg", "in//a.jpg"])  # by obstore, by botocore
def test_a_refusal_says_what_to_do(strict_s3, code, words, key):
    uri = strict_s3.put(key)
    strict_s3.proxy.add(code)
    error = error_of(lambda: files().read_bytes(uri))
    assert error.reason == ("archived" if words == "archived" else "forbidden")
    assert words in str(error)


@pytest.mark.parametrize("key", ["in/a.jpg", "in//a.jpg"])
def test_a_wrong_region_names_the_right_one(strict_s3, key):
    uri = strict_s3.put(key)
    strict_s3.proxy.add(
        "301 PermanentRedirect", methods=("GET", "HEAD", "PUT"), headers=(("x-amz-bucket-region", "eu-west-3"),)
    )
    for action in (
        lambda: files().read_bytes(uri),
        lambda: files().list_names(strict_s3.root),
        lambda: files().write_bytes(uri, b"", None),
    ):
        error = error_of(action)
        assert isinstance(error, WrongRegion)
        assert "is in eu-west-3, not in us-east-1; set AWS_REGION=eu-west-3" in str(error)


def test_the_region_that_the_message_asks_for_is_used(strict_s3, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert files()._requests.clients.region == "eu-west-3"


def test_a_region_that_only_the_body_names_is_found(strict_s3):
    uri = strict_s3.put("in/a.jpg")
    strict_s3.proxy.add("400 AuthorizationHeaderMalformed", body="<Region>eu-north-1</Region>")
    assert "AWS_REGION=eu-north-1" in str(error_of(lambda: files().read_bytes(uri)))
    assert "AWS_REGION=eu-north-1" in str(error_of(lambda: files().list_names(strict_s3.root)))


def test_a_proxy_that_sends_every_request_to_its_login_page_is_an_error_in_one_line(fast_s3):
    """botocore would look for the bucket's region until Python's stack ends."""
    fast_s3.proxy.add("302 Found", methods=("GET", "HEAD", "PUT"), headers=(("Location", "http://login"),))
    for action in (
        lambda: files().list_names(fast_s3.root),
        lambda: files().write_bytes(f"{fast_s3.root}/a", b"", None),
    ):
        assert error_of(action).reason == "forbidden"


@pytest.mark.parametrize("key", ["in/a.jpg", "in//a.jpg"])
def test_a_login_page_in_place_of_an_image_is_no_image(fast_s3, key):
    """Else all images of an archive get rows that call them broken, because a session at a proxy has ended."""
    uri = f"{fast_s3.root}/{key}"
    fast_s3.proxy.add("login")
    for read in (
        lambda: files().read_once(uri),
        lambda: files().read_range(uri, 0, 4, None),
        lambda: files().read_tail(uri, 4, None),
        lambda: files().open_seekable(uri),
        lambda: files().list_names(fast_s3.root),
    ):
        assert isinstance(error_of(read), Unavailable)


def test_the_wrong_secret_is_told(fast_s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    uri = fast_s3.put("in/a.jpg")
    for action in (lambda: files().read_bytes(uri), lambda: files().list_names(fast_s3.root)):
        error = error_of(action)
        assert error.reason == "forbidden"
        assert "secret key" in str(error)


def test_no_credentials_are_told(fast_s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for action in (lambda: files().read_bytes(f"{fast_s3.root}/k"), lambda: files().exists(f"{fast_s3.root}/k")):
        error = error_of(action)
        assert error.reason == "forbidden"
        assert "no credentials were found" in str(error)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "AWS_PROFILE" in str(error_of(lambda: files().read_bytes(f"{fast_s3.root}/k")))


def test_an_endpoint_that_cannot_be_reached_is_named_without_its_password(fast_s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET_KEY[:6]}@127.0.0.1:{free_port()}")
    for action in (lambda: files().read_bytes(f"{fast_s3.root}/k"), lambda: files().exists(f"{fast_s3.root}/k")):
        error = error_of(action)
        assert error.reason == "read_failed"
        assert "http://127.0.0.1:" in str(error)
        assert "cannot be reached" in str(error)
        assert SECRET_KEY[:6] not in str(error)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no endpoint")
    assert "AWS_ENDPOINT_URL" in str(error_of(lambda: files().exists(f"{fast_s3.root}/k")))


def test_a_missing_file_of_the_configuration_is_no_missing_image(fast_s3, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
    error = error_of(lambda: files().read_bytes(f"{fast_s3.root}/k"))
    assert error.reason == "forbidden"
    assert "/nowhere/ca.pem" in str(error)


def test_a_write_outlasts_a_burst_of_errors(s3):
    for kind in ("503 SlowDown", "500 InternalError", "drop"):
        s3.proxy.add(kind, methods=("PUT",), times=1)
    waits = []
    backend = S3Objects(sleep=waits.append)
    backend.write_bytes(f"{s3.root}/run/a", b"data", None)
    assert backend.read_bytes(f"{s3.root}/run/a") == b"data"
    assert s3.proxy.count("PUT") == 4
    assert len(waits) == 3
    assert max(waits) <= 1


def test_a_write_gives_up_in_the_end_and_at_once_where_it_is_refused(s3):
    s3.proxy.add("500 InternalError", methods=("PUT",))
    assert error_of(lambda: files().write_bytes(f"{s3.root}/a", b"", None)).reason == "read_failed"
    assert s3.proxy.count("PUT") == s3_requests.POLICY.attempts == 4
    s3.proxy.clear()
    s3.proxy.add("403 AccessDenied", methods=("PUT",))
    assert "s3:PutObject" in str(error_of(lambda: files().write_bytes(f"{s3.root}/a", b"", None)))
    assert s3.proxy.count("PUT") == 1


def test_a_store_that_asks_for_fewer_requests_is_waited_for(s3):
    s3.proxy.add("503 SlowDown", methods=("PUT",))
    waits = []
    error = error_of(lambda: S3Objects(sleep=waits.append).write_bytes(f"{s3.root}/a", b"", None))
    assert isinstance(error, Throttled)
    assert sum(waits) >= s3_requests.POLICY.patience_s > sum(waits[:-1])
    assert s3.proxy.count("PUT") == len(waits) + 1


def test_retries_are_not_nested_where_a_change_looks_for_who_has_followed(s3):
    """The holder is hidden, and whether another has followed cannot be listed: four tries, not four times four."""
    staging = held(s3)
    s3.proxy.counts.clear()
    s3.proxy.add("404 NoSuchKey", methods=("HEAD",))
    s3.proxy.add("500 InternalError", key="list-type")
    assert error_of(lambda: files().write_bytes(f"{s3.root}/a", b"", staging)).reason == "read_failed"
    assert (s3.proxy.count("HEAD"), s3.proxy.count("GET"), s3.proxy.count("PUT")) == (4, 4, 0)


@pytest.mark.parametrize(
    ("methods", "write", "action"),
    [(("GET",), False, "s3:GetObject"), (("PUT",), True, "s3:PutObject"), (("DELETE",), True, "s3:DeleteObject")],
)
def test_a_missing_permission_is_named_before_a_run_begins(strict_s3, methods, write, action):
    backend = S3Objects()
    backend.check_access(f"{strict_s3.root}/in", write=write)
    assert strict_s3.there() == []
    strict_s3.proxy.add("403 AccessDenied", methods=methods)
    with pytest.raises(StorageError, match=action) as denied:
        backend.check_access(f"{strict_s3.root}/in", write=write)
    assert denied.value.reason == "forbidden"
