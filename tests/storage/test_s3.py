"""S3 as a place for files, on two independent servers: the contract of `Backend`, its errors, its requests counted."""

import hashlib
import io
import os
import pickle
import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from types import SimpleNamespace

import botocore.exceptions
import botocore.loaders
import botocore.parsers
import obstore.exceptions
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.ports import free_port
from support.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, fast_s3, s3, s3_endpoints, strict_s3

from brainray.errors import (
    IMAGE_REASONS,
    BadRequest,
    BrainrayError,
    Changed,
    OutputHeld,
    StorageError,
    Throttled,
    WrongRegion,
)
from brainray.scoring.run_folder import delete_run
from brainray.storage.s3 import clients as s3_client
from brainray.storage.s3 import errors
from brainray.storage.s3 import listing as s3_listing
from brainray.storage.s3 import requests as s3_requests
from brainray.storage.s3 import uris as s3_uris
from brainray.storage.s3.backend import S3Objects
from brainray.storage.s3.conditional import ballot
from brainray.storage.s3.errors import S3Answer, S3Request, judge, translate
from brainray.storage.s3.listing import ListedKey, Page

__all__ = ["fast_s3", "s3", "s3_endpoints", "strict_s3"]  # fixtures

ODD_KEYS = (
    "in/a b.jpg",
    "in/100%.jpg",
    "in/%41.jpg",
    "in/a#b.jpg",
    "in/a?b=c&d.jpg",
    "in/a+b.jpg",
    "in/ünï/脳.jpg",
    "in/'q\"<&>.jpg",
    "in/~tilde$@!*().jpg",
    "in/\U0001f9e0.jpg",
)


@pytest.fixture(autouse=True, scope="module")
def _one_loader() -> Iterator[None]:
    """botocore reads its data files once, not for each of the many clients of these tests: 60 ms for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", cache(botocore.loaders.create_loader))
        yield


def files(**how) -> S3Objects:
    """Without waits."""
    return S3Objects(settle_s=0.2, sleep=lambda _: None, **how)


def patient(settle_s: float = 0.3) -> S3Objects:
    """Its claims settle in real time."""
    return S3Objects(settle_s=settle_s)


def held(server, epoch: int = 1) -> str:
    """An output's staging folder, claimed."""
    staging = f"{server.root}/out/.lease/{epoch:08d}"
    server.put(f"out/.lease/{epoch:08d}/holder.json", b"{}")
    return staging


def error_of(action) -> StorageError:
    with pytest.raises(StorageError) as caught:
        action()
    assert_safe(caught.value)
    return caught.value


def assert_safe(exc: BaseException) -> None:
    """One line, and neither it nor the trace of its causes holds what must not be seen."""
    assert len(str(exc).splitlines()) == 1
    shown = "".join(traceback.format_exception(exc))
    for secret in (SECRET_KEY, ACCESS_KEY, "REQUEST-ID", "RequestId", "HostId"):
        assert secret not in shown


# Locations


@pytest.mark.parametrize(
    ("given_uri", "wanted"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket//a//", "s3://bucket/a"),
        ("s3://my.bucket-1/a b/%41#?x", "s3://my.bucket-1/a b/%41#?x"),
    ],
)
def test_a_location_has_one_spelling(given_uri, wanted):
    assert files().normalise(given_uri) == wanted
    assert files().normalise(wanted) == wanted


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///key", "s3://b/key", "s3://no spaces/key", "s3://bucket/a/../b", "s3://_x/y"]
)
def test_a_location_that_names_nothing_is_refused_in_one_line(uri):
    with pytest.raises(BadRequest) as caught:
        files().normalise(uri)
    assert len(str(caught.value).splitlines()) == 1


@given(key=st.text(min_size=1).filter(lambda key: not key.endswith("/")))
def test_a_key_survives_its_uri(key):
    assert s3_uris.split(f"s3://bucket/{key}") == ("bucket", key)
    assert s3_uris.name_of(f"s3://bucket/{key}") == key.rpartition("/")[2]


def test_nothing_is_made_at_import_and_clients_do_not_travel():
    clients = "('botocore', 'obstore', 'boto3')"
    script = f"import sys, brainray.storage.s3.backend; print([m for m in {clients} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_is_that_of_boto3(strict_s3):
    clients = files()._requests.clients
    assert clients.s3.list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert clients.s3.meta.config.user_agent.startswith("Boto3/")


def test_a_copy_by_pickle_works(s3):
    uri = s3.put("a/k", b"data")
    first = S3Objects(settle_s=0.5)
    assert first.read_bytes(uri) == b"data"
    second = pickle.loads(pickle.dumps(first))
    assert second.read_bytes(uri) == b"data"
    assert second._settle_s == 0.5


# Reading


def test_an_image_costs_one_get_and_no_head(s3):
    uris = [s3.put(f"in/{i}.jpg", os.urandom(30_000)) for i in range(50)]
    backend = files()
    with ThreadPoolExecutor(8) as pool:
        data = list(pool.map(backend.read_bytes, uris))
    assert [len(content) for content in data] == [30_000] * 50
    assert s3.proxy.counts == {("GET", f"/{s3.bucket}/in/{i}.jpg"): 1 for i in range(50)}
    assert s3.proxy.connections <= 16  # the pool may open one while another comes free


def test_odd_names_are_listed_and_lead_back_to_their_objects(s3):
    for key in ODD_KEYS:
        s3.put(key, key.encode())
    found = list(files().list_files(f"{s3.root}/in"))
    assert [info.uri for info in found] == [f"{s3.root}/{key}" for key in sorted(ODD_KEYS)]
    backend = files()
    for info in found:
        assert f"{s3.root}/{backend.read_bytes(info.uri).decode()}" == info.uri
    assert {info.folders for info in found} == {(), ("ünï",)}


def test_names_that_the_fast_client_would_alter_are_read_as_they_are(strict_s3):
    for key in ("in/a//b.jpg", "/in/c.jpg", "in/./d.jpg"):
        strict_s3.put(key, key.encode())
        assert files().read_bytes(f"{strict_s3.root}/{key}") == key.encode()
    assert error_of(lambda: files().read_bytes(f"{strict_s3.root}/in//nothing")).reason == "not_found"


def test_an_empty_object_is_read(s3):
    assert files().read_bytes(s3.put("in/empty", b"")) == b""


def test_a_missing_object_is_not_found_and_a_missing_bucket_is_named(s3):
    missing = error_of(lambda: files().read_bytes(f"{s3.root}/nothing.jpg"))
    assert missing.reason == "not_found"
    for action in (files().read_bytes, files().list_names, files().exists, lambda uri: list(files().list_files(uri))):
        error = error_of(lambda action=action: action("s3://no-such-bucket-here/a"))
        assert error.reason == "not_found"
        assert "no bucket no-such-bucket-here" in str(error)


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
    assert error.reason == "forbidden"
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


def test_credentials_come_from_a_profile_too(fast_s3, monkeypatch, tmp_path):
    uri = fast_s3.put("in/a.jpg")
    config = tmp_path / "config"
    config.write_text(
        f"[profile hospital]\nregion = {REGION}\nendpoint_url = {fast_s3.proxy.endpoint}\n"
        f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "hospital")
    assert files().read_bytes(uri) == b"x"
    assert files().list_names(f"{fast_s3.root}/in") == ["a.jpg"]


def test_credentials_that_expire_are_renewed(fast_s3, monkeypatch, tmp_path):
    """By `credential_process`, as single sign-on does: the second answer is the good one."""
    uri = fast_s3.put("in/a.jpg")
    program = tmp_path / "give.py"
    program.write_text(
        "import datetime, json, pathlib\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "n = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(n + 1))\n"
        "late = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1000 * n + 5)\n"
        f"print(json.dumps(dict(Version=1, AccessKeyId={ACCESS_KEY!r}, SecretAccessKey={SECRET_KEY!r},"
        " Expiration=late.isoformat())))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    backend = files()
    assert backend.read_bytes(uri) == b"x"
    assert backend.read_bytes(uri) == b"x"
    assert int((tmp_path / "count").read_text()) >= 2


def table(rows: int) -> pa.Table:
    return pa.table({"a": range(rows), "b": [os.urandom(20) for _ in range(rows)]})


def test_a_parquet_file_is_opened_by_one_request(s3):
    sink = io.BytesIO()
    pq.write_table(table(1000), sink)
    uri = s3.put("run/part.parquet", sink.getvalue())
    with pq.ParquetFile(files().open_seekable(uri)) as file:
        assert file.read().num_rows == 1000
    assert s3.proxy.counts == {("GET", f"/{s3.bucket}/run/part.parquet"): 1}
    assert error_of(lambda: files().open_seekable(f"{s3.root}/run/none.parquet")).reason == "not_found"


def test_a_large_file_is_read_by_ranges_of_one_version(s3, monkeypatch):
    monkeypatch.setattr(s3_requests, "WHOLE_BYTES", 10_000)
    monkeypatch.setattr(s3_requests, "_BUFFER_BYTES", 4096)
    written = table(20_000)
    sink = io.BytesIO()
    pq.write_table(written, sink, row_group_size=1000)
    uri = s3.put("run/big.parquet", sink.getvalue())
    with pq.ParquetFile(files().open_seekable(uri)) as file:
        assert file.read_row_group(3).equals(written.slice(3000, 1000))
        s3.put("run/big.parquet", sink.getvalue()[::-1])
        if s3.conditional:
            assert error_of(lambda: file.read_row_group(9)).reason == "read_failed"


# Listing


def test_a_folder_is_not_its_namesakes(s3):
    for key in ("pre/a", "pre-2/b", "prefix", "pre.x", "other"):
        s3.put(key)
    backend = files()
    assert [info.uri for info in backend.list_files(f"{s3.root}/pre")] == [f"{s3.root}/pre/a"]
    assert backend.list_names(f"{s3.root}/pre") == ["a"]
    assert backend.is_folder(f"{s3.root}/pre")
    assert not backend.is_folder(f"{s3.root}/prefix")
    assert not backend.is_folder(f"{s3.root}/pr")
    assert backend.is_folder(s3.root)
    assert [backend.exists(f"{s3.root}/{key}") for key in ("pre", "pre/a", "prefix", "pr", "pre-", "pre-2")] == [
        *(True, True, True, False, False, True)
    ]
    assert backend.exists(s3.root)


def test_the_uri_of_an_object_lists_it(s3):
    uri = s3.put("in/a.jpg", b"12345")
    (info,) = files().list_files(uri)
    assert (info.uri, info.folders, info.size_bytes, info.special) == (uri, (), 5, False)
    (same,) = files().list_files(f"{s3.root}/in")
    assert info == same
    assert error_of(lambda: list(files().list_files(f"{s3.root}/nothing"))).reason == "not_found"


def test_names_are_without_hidden_ones_and_none_where_there_is_no_folder(s3):
    for key in ("in/b", "in/a/x", "in/a/y", "in/.hidden", "in/.lease/1/holder.json"):
        s3.put(key)
    assert files().list_names(f"{s3.root}/in") == ["a", "b"]
    assert files().list_names(s3.root) == ["in"]
    assert files().list_names(f"{s3.root}/in/.lease") == ["1"]
    assert files().list_names(f"{s3.root}/nothing") == []


def test_folder_markers_are_no_files_and_make_a_folder(strict_s3):
    strict_s3.put("in/", b"")
    strict_s3.put("in/sub/", b"")
    assert list(files().list_files(f"{strict_s3.root}/in")) == []
    assert files().is_folder(f"{strict_s3.root}/in/sub")
    assert files().list_names(f"{strict_s3.root}/in") == ["sub"]


def test_the_version_changes_with_the_content(s3):
    uri = s3.put("in/a.jpg", b"one")
    (one,) = files().list_files(uri)
    s3.put("in/a.jpg", b"two")
    (two,) = files().list_files(uri)
    assert one.version != two.version
    assert '"' not in one.version


def test_pages_are_listed_in_order_while_the_server_falters(s3, monkeypatch):
    monkeypatch.setattr(s3_requests, "PAGE_KEYS", 7)
    monkeypatch.setattr(s3_listing, "_WIDE", 4)  # so that the folders of "many" are listed several to a span
    keys = [f"in/{i % 3}/{i:03d}.jpg" for i in range(60)] + [f"in/x{i}.jpg" for i in range(3)]
    keys += [f"in/many/é {i:02d}/{k}" for i in range(20) for k in range(2)]
    for key in keys:
        s3.put(key)
    s3.proxy.add("503 SlowDown", times=3)
    s3.proxy.add("truncate", times=1)
    found = list(files().list_files(f"{s3.root}/in"))
    assert [info.uri for info in found] == [f"{s3.root}/{key}" for key in sorted(keys)]
    assert found[0].folders == ("0",)
    assert files().list_names(f"{s3.root}/in/many") == [f"é {i:02d}" for i in range(20)]


def test_more_than_a_thousand_are_listed_and_deleted(strict_s3):
    keys = [f"run/{i:04d}" for i in range(1005)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(strict_s3.put, keys))
    assert [info.uri for info in files().list_files(f"{strict_s3.root}/run")] == [f"{strict_s3.root}/{k}" for k in keys]
    files().delete_tree(f"{strict_s3.root}/run", None)
    assert strict_s3.there() == []
    assert strict_s3.proxy.count("POST") == 2


class Bucket:
    """ListObjectsV2 of a set of keys, in memory."""

    def __init__(self, keys, *, page_keys: int = 7) -> None:
        self.keys = sorted(keys)
        self.page_keys = page_keys
        self.requests = 0

    def __call__(self, prefix, *, delimiter="", after="", token=None) -> Page:
        self.requests += 1
        names = []
        for key in self.keys:
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            cut = rest.find(delimiter) if delimiter else -1
            name = (prefix + rest[: cut + 1], True) if cut >= 0 else (key, False)
            if key > after and name not in names[-1:] and (token is None or name[0] > token):
                names.append(name)
        page = names[: self.page_keys]
        entries = [ListedKey(key=name, version=None if folder else "v") for name, folder in page]
        return Page(entries=entries, next_token=page[-1][0] if len(names) > len(page) else None)


PARTS = st.text(alphabet="ab-.0/é\U0001f9e0", min_size=1, max_size=6)


@settings(deadline=None, max_examples=150)
@example(keys={".", "/", "/0"}, wide=1, narrow=0, page_keys=1)
@example(keys={"/", "//0a", "/0/", "/0-a", "/b0", "a", "a-", "b"}, wide=1, narrow=7, page_keys=3)
@given(keys=st.sets(PARTS, max_size=60), wide=st.integers(1, 8), narrow=st.integers(0, 8), page_keys=st.integers(1, 9))
def test_every_key_is_listed_once_in_order_however_the_space_is_split(keys, wide, narrow, page_keys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_listing, "_WIDE", wide)
        patch.setattr(s3_listing, "_NARROW", narrow)
        patch.setattr(s3_listing, "_SHARES", 3)
        patch.setattr(s3_listing, "_FLAT_PAGES", wide % 3 + 1)
        for prefix in ("", "a/"):
            found = [entry.key for entry in s3_listing.list_objects(Bucket(keys, page_keys=page_keys), prefix)]
            assert found == sorted(key for key in keys if key.startswith(prefix))


def test_many_small_folders_cost_few_requests():
    bucket = Bucket([f"in/{i:04d}/{k}" for i in range(2000) for k in range(2)], page_keys=1000)
    assert len(list(s3_listing.list_objects(bucket, "in/"))) == 4000
    assert bucket.requests < 2 + 2 * 16 + 10


@pytest.mark.parametrize(
    "name",
    [lambda i: f"slice-{i:08d}.jpg", lambda i: hashlib.md5(str(i).encode()).hexdigest(), lambda i: f"é{i:05d}"],
    ids=["counted", "hashed", "accents"],
)
def test_a_flat_folder_is_shared_out_too(name):
    """A million keys one page after the other take minutes where each answer takes 0.1 s."""
    bucket = Bucket([f"in/{name(i)}" for i in range(6000)], page_keys=60)
    running, most, lock = [0], [0], threading.Lock()

    def fetch(prefix, **how):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.002)
        page = bucket(prefix, **how)
        with lock:
            running[0] -= 1
        return page

    assert [entry.key for entry in s3_listing.list_objects(fetch, "in/")] == bucket.keys
    assert most[0] >= 6
    assert bucket.requests < 2.5 * 100


def test_a_listing_that_is_given_up_ends_its_threads():
    bucket = Bucket([f"{i}/{k:03d}" for i in range(20) for k in range(100)], page_keys=5)
    before = threading.active_count()
    listing = s3_listing.list_objects(bucket, "")
    next(listing)
    listing.close()
    for thread in threading.enumerate():
        if thread.name.startswith("s3 listing"):
            thread.join(5)
    assert threading.active_count() <= before


def test_a_listing_ahead_waits_for_room(monkeypatch):
    monkeypatch.setattr(s3_listing, "_AHEAD_BYTES", 2000)
    monkeypatch.setattr(s3_listing, "_TURN_BYTES", 500)
    bucket = Bucket([f"{i:02d}/{k:03d}" for i in range(20) for k in range(60)], page_keys=10)
    listing = s3_listing.list_objects(bucket, "")
    first = next(listing)
    threading.Event().wait(0.3)
    assert bucket.requests < 60  # of some 140
    assert [first.key, *(entry.key for entry in listing)] == bucket.keys


def test_an_error_far_into_the_listing_is_raised_in_its_place():
    bucket = Bucket([f"{i}/{k:03d}" for i in range(9) for k in range(30)], page_keys=10)

    def fetch(prefix, **how):
        if prefix == "5/" and how.get("token"):
            raise StorageError("forbidden", "denied")
        return bucket(prefix, **how)

    found = []
    with pytest.raises(StorageError, match="denied"):
        found.extend(entry.key for entry in s3_listing.list_objects(fetch, ""))
    assert found[:150] == bucket.keys[:150]


# Writing


def test_what_is_written_can_be_read_listed_copied_and_deleted(s3):
    backend = files()
    uri, other = f"{s3.root}/run/a b%.bin", f"{s3.root}/run/copy.bin"
    backend.write_bytes(uri, b"one", None)
    assert s3.proxy.counts == {("PUT", f"/{s3.bucket}/run/a b%.bin"): 1}
    backend.write_bytes(uri, b"two", None)
    backend.copy(uri, other, None)
    assert backend.read_bytes(other) == backend.read_bytes(uri) == b"two"
    backend.delete(uri, None)
    backend.delete(uri, None)
    assert not backend.exists(uri)
    assert backend.list_names(f"{s3.root}/run") == ["copy.bin"]
    error = error_of(lambda: backend.copy(uri, other, None))
    assert error.reason == "not_found"
    assert uri in str(error)
    assert backend.read_bytes(other) == b"two"


def test_a_large_file_is_written_in_parts_and_appears_at_once(s3, monkeypatch):
    for module in ("s3_requests", "s3_objects"):
        monkeypatch.setattr(f"brainray.{module}.PART_BYTES", 5 << 20)
    data = random.Random(0).randbytes(12 << 20)
    staging = held(s3)
    s3.proxy.add("503 SlowDown", methods=("PUT", "POST"), times=2)
    backend = files()
    backend.write_bytes(f"{s3.root}/run/big.bin", data, staging)
    assert backend.read_bytes(f"{s3.root}/run/big.bin") == data
    backend.revoke(staging)
    with pytest.raises(OutputHeld):
        backend.write_bytes(f"{s3.root}/run/big-2.bin", data, staging)
    assert not backend.exists(f"{s3.root}/run/big-2.bin")


def test_a_large_write_whose_last_answer_was_lost_is_known_as_done(strict_s3, monkeypatch):
    for module in ("s3_requests", "s3_objects"):
        monkeypatch.setattr(f"brainray.{module}.PART_BYTES", 5 << 20)
    data = random.Random(0).randbytes(6 << 20)
    strict_s3.proxy.add("drop", methods=("POST",), key="uploadId", times=1)
    files().write_bytes(f"{strict_s3.root}/big.bin", data, None)
    assert files().read_bytes(f"{strict_s3.root}/big.bin") == data


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


def test_a_run_is_deleted_beginning_with_what_makes_it_look_complete(s3):
    for key in ("run/parts/1", "run/parts/2", "run/_SUCCESS", "run/run.json", "run-2/a"):
        s3.put(key)
    staging = held(s3)
    writer = SimpleNamespace(delete_tree=lambda uri, first: files().delete_tree(uri, staging, first))
    s3.proxy.add("403 AccessDenied", methods=("GET",), key="list-type")  # the deletion does not get further
    error_of(lambda: delete_run(f"{s3.root}/run", writer))
    assert [key for key in s3.there() if key.startswith("run/")] == ["run/parts/1", "run/parts/2"]
    s3.proxy.clear()
    delete_run(f"{s3.root}/run", writer)
    delete_run(f"{s3.root}/run", writer)
    assert s3.there() == ["out/.lease/00000001/holder.json", "run-2/a"]


def test_a_tree_is_deleted_and_no_whole_bucket(s3):
    for key in ("run/1", "run/2/3", "run-2/a"):
        s3.put(key)
    files().delete_tree(f"{s3.root}/run", None)
    files().delete_tree(f"{s3.root}/run", None)
    assert s3.there() == ["run-2/a"]
    with pytest.raises(BadRequest):
        files().delete_tree(s3.root, None)


def test_only_a_renewal_touches_the_record_of_a_claim(s3):
    """Not a write to a file that happens to have its name."""
    staging = held(s3, 1)
    files().write_bytes(f"{s3.root}/elsewhere/holder.json", b"{}", staging)
    files().renew(staging, b"1")
    files().revoke(staging)
    with pytest.raises(OutputHeld):
        files().renew(staging, b"2")
    assert s3.there() == ["elsewhere/holder.json"]


# Claims


def test_the_server_with_and_the_one_without_conditional_writes_are_told_apart(s3):
    backend = patient(0.05)
    assert backend.claim(f"{s3.root}/out/1", b"{}")
    conditions = backend._probe.ask(backend._requests, f"{s3.root}/out")
    assert (conditions.if_none_match, conditions.if_match) == (s3.conditional, s3.conditional)
    assert s3.there() == ["out/1/holder.json"]  # the probe is gone


def test_of_many_claims_one_succeeds(s3):
    backends = [patient(0.5) for _ in range(8)]
    together = threading.Barrier(8)

    def claim(number: int) -> bool:
        together.wait()
        return backends[number].claim(f"{s3.root}/out/.lease/00000001", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(8)))
    assert sum(won) == 1
    if s3.conditional:
        assert s3.proxy.count("PUT", "holder") == 8
    assert s3.there() == ["out/.lease/00000001/holder.json"]
    assert files().read_bytes(f"{s3.root}/out/.lease/00000001/holder.json") == str(won.index(True)).encode()
    assert not backends[won.index(True)].claim(f"{s3.root}/out/.lease/00000001", b"again")


def test_of_many_creations_one_succeeds(s3):
    backend = files()
    uri = f"{s3.root}/out/.lease/1/mark"
    with ThreadPoolExecutor(8 if s3.conditional else 1) as pool:
        assert sum(pool.map(lambda _: backend.create(uri, None), range(8))) == 1
    assert backend.read_bytes(uri) == b""


def test_a_claim_whose_answer_was_lost_is_known_as_ours(strict_s3):
    backend = files()
    assert backend.claim(f"{strict_s3.root}/out/1", b"{}")
    strict_s3.proxy.add("drop", methods=("PUT",), key="out/2", times=1)
    assert backend.claim(f"{strict_s3.root}/out/2", b"{}")
    strict_s3.put("out/3/holder.json")
    strict_s3.proxy.add("500 InternalError", methods=("PUT",), key="out/3", times=1)
    assert not backend.claim(f"{strict_s3.root}/out/3", b"{}")


def test_a_conflict_is_tried_again(strict_s3):
    strict_s3.proxy.add("409 ConditionalRequestConflict", methods=("PUT",), key="holder", times=2)
    assert files().claim(f"{strict_s3.root}/out/1", b"{}")


def test_a_ballot_goes_to_the_first_candidate_and_later_ones_see_the_holder(fast_s3):
    folder = f"{fast_s3.root}/out/1"
    requests = S3Objects()._requests
    votes = []

    def settle(_: float) -> None:
        if not votes:
            votes.append(ballot(requests, folder, "holder.json", b"late", settle_s=9, sleep=lambda _: None))

    assert ballot(requests, folder, "holder.json", b"early", settle_s=9, sleep=settle)
    assert votes == [False]
    assert files().read_bytes(f"{folder}/holder.json") == b"early"
    assert fast_s3.there() == ["out/1/holder.json"]


def test_a_ballot_with_a_dead_candidate_is_won_by_nobody(fast_s3):
    fast_s3.put("out/1/.candidate-00000000000000000001-dead")
    assert not files().claim(f"{fast_s3.root}/out/1", b"{}")
    assert not files().exists(f"{fast_s3.root}/out/1/holder.json")


# Fencing


def test_a_revoked_owner_changes_nothing(s3):
    backend = files()
    staging = held(s3)
    uri = s3.put("out/part", b"old")
    backend.write_bytes(f"{s3.root}/out/new", b"new", staging)
    backend.revoke(staging)
    before = s3.there()
    for change in (
        partial(backend.write_bytes, uri, b"stale"),
        partial(backend.write_bytes, f"{s3.root}/out/other", b"stale"),
        partial(backend.copy, f"{s3.root}/out/new", uri),
        partial(backend.delete, uri),
        partial(backend.delete_tree, f"{s3.root}/out"),
        partial(backend.write_bytes, f"{staging}/holder.json", b"{}"),
    ):
        with pytest.raises(OutputHeld, match="another run has taken over this output"):
            change(staging=staging)
    with pytest.raises(OutputHeld, match="another run has taken over this output"):
        backend.renew(staging, b"{}")
    assert s3.there() == before
    assert backend.read_bytes(uri) == b"old"


def test_a_heartbeat_renews_the_holder(s3):
    backend = files()
    staging = held(s3)
    for beat in range(3):
        backend.renew(staging, str(beat).encode())
    assert backend.read_bytes(f"{staging}/holder.json") == b"2"


def test_a_heartbeat_that_meets_the_revocation_does_not_bring_the_holder_back(s3):
    """The revocation comes between its look and its write."""
    backend = files()
    staging = held(s3, 1)
    backend.renew(staging, b"1")
    send = backend._requests.put_once

    def late(uri, data, **how):
        held(s3, 2)
        files().revoke(staging)
        send(uri, data, **how)

    backend._requests.put_once = late
    with pytest.raises(OutputHeld):
        backend.renew(staging, b"2")
    assert s3.there() == ["out/.lease/00000002/holder.json"]


def test_a_change_that_was_held_up_after_the_look_looks_again(s3, monkeypatch):
    """As where the process is stopped in between: what it then finds is the revocation."""
    monkeypatch.setattr("brainray.storage.s3.backend._CHECK_HOLDS_S", 0.3)
    backend = files()
    staging = held(s3)
    send = backend._requests.put_once

    def late(uri, data, **how):
        files().revoke(staging)
        threading.Event().wait(0.5)
        send(uri, data, **how)

    backend._requests.put_once = late
    with pytest.raises(OutputHeld):
        backend.write_bytes(f"{s3.root}/out/part", b"stale", staging)
    assert s3.there() == []


def test_a_revocation_takes_the_holder_first(s3):
    staging = held(s3)
    s3.put("out/.lease/00000001/.mark")
    s3.proxy.add("403 AccessDenied", key="list-type")
    error_of(lambda: files().revoke(staging))
    assert s3.there() == ["out/.lease/00000001/.mark"]
    s3.proxy.clear()
    files().revoke(staging)
    files().revoke(staging)
    assert s3.there() == []


# Errors

REQUEST = S3Request(
    action="s3:GetObject", uri="s3://bkt/k", bucket="bkt", endpoint="http://u:p@host:9", region="us-east-1"
)


def subclasses(kind):
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_every_exception_of_botocore_is_translated():
    for kind in subclasses(botocore.exceptions.BotoCoreError) | {botocore.parsers.ResponseParserError}:
        exc = kind.__new__(kind)
        Exception.__init__(exc, f"{SECRET_KEY}\nof {kind.__name__}")
        error = translate(exc, REQUEST)
        assert error.reason in IMAGE_REASONS
        assert_safe(error)
        assert "s3://bkt/k: " in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.reason, str(again)) == (type(error), error.reason, str(error))


def test_every_exception_of_obstore_is_translated():
    for kind in subclasses(obstore.exceptions.BaseError):
        error = translate(kind(f"{SECRET_KEY}\n<RequestId>x</RequestId>"), REQUEST)
        assert error.reason in IMAGE_REASONS
        assert_safe(error)


@given(status=st.integers(300, 599), code=st.text(max_size=20), region=st.none() | st.just("eu-west-1"))
def test_every_answer_is_told_in_one_line(status, code, region):
    error = judge(S3Answer(status=status, code=code, region=region), REQUEST)
    assert error.reason in IMAGE_REASONS
    assert len(str(error).splitlines()) == 1
    assert error.reason == "read_failed" or status < 500 or code in errors._WORDS or code in errors._ELSEWHERE


@pytest.mark.parametrize(
    ("status", "code", "reason", "kind"),
    [
        (404, "NoSuchKey", "not_found", StorageError),
        (404, "404", "not_found", StorageError),
        (403, "403", "forbidden", StorageError),
        (403, "Forbidden", "forbidden", StorageError),
        (503, "SlowDown", "read_failed", Throttled),
        (503, "503", "read_failed", Throttled),
        (429, "TooManyRequests", "read_failed", Throttled),
        (500, "InternalError", "read_failed", StorageError),
        (400, "RequestTimeout", "read_failed", StorageError),
        (412, "PreconditionFailed", "read_failed", Changed),
        (501, "NotImplemented", "read_failed", StorageError),
        (400, "InvalidRequest", "forbidden", StorageError),
    ],
)
def test_answers_have_their_reasons(status, code, reason, kind):
    error = judge(S3Answer(status=status, code=code), REQUEST)
    assert (error.reason, type(error)) == (reason, kind)


def test_what_is_no_fault_of_a_client_is_not_swallowed():
    assert translate(KeyError("a bug"), REQUEST) is None
    with pytest.raises(ZeroDivisionError), errors.translated(lambda: REQUEST):
        _ = 1 / 0
    with pytest.raises(BrainrayError, match="own"), errors.translated(lambda: REQUEST):
        raise BrainrayError("own")


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
