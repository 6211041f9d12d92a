"""Listings are complete and in order, however they are shared out."""

import hashlib
import threading
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.each import each
from support.storage.s3_objects import error_of, files
from support.storage.s3_servers import fast_s3, s3, s3_endpoints, strict_s3

from brainray.errors import (
    StorageError,
)
from brainray.storage.s3 import listing as s3_listing
from brainray.storage.s3 import requests as s3_requests
from brainray.storage.s3.listing import ListedKey, Page

__all__ = ["fast_s3", "s3", "s3_endpoints", "strict_s3"]  # fixtures


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


def test_more_than_a_thousand_are_listed_and_deleted(fast_s3):
    keys = [f"run/{i:04d}" for i in range(1005)]
    fast_s3.put_many(keys)
    assert [info.uri for info in files().list_files(f"{fast_s3.root}/run")] == [f"{fast_s3.root}/{k}" for k in keys]
    files().delete_tree(f"{fast_s3.root}/run", None)
    assert fast_s3.there() == []
    assert fast_s3.proxy.count("POST") == 2


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


@settings(max_examples=80)
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


@each("fault_at", [1, 3, 18])
def test_a_store_that_gives_a_token_again_is_not_listed_for_ever(fault_at):
    """Some stores, and caches before them, give the same page again and again."""
    bucket = Bucket([f"in/{k:04d}" for k in range(400)], page_keys=7)

    def fetch(prefix, **how):
        page = bucket(prefix, **how)
        return Page(entries=page.entries, next_token="in/0002") if bucket.requests >= fault_at else page

    with pytest.raises(StorageError, match=r"does not go on with its listing of 'in/'"):
        for number, _ in enumerate(s3_listing.list_objects(fetch, "in/")):
            assert number < 10_000


@each("fault_at", [1, 3, 18])
def test_a_store_that_gives_a_page_again_under_a_new_token_is_not_listed_for_ever(fault_at):
    bucket = Bucket([f"in/{k:04d}" for k in range(400)], page_keys=7)
    stuck = bucket("in/").entries

    def fetch(prefix, **how):
        page = bucket(prefix, **how)
        new = f"in/0002{bucket.requests}"
        return Page(entries=stuck, next_token=new) if bucket.requests > fault_at else page

    with pytest.raises(StorageError, match=r"does not go on with its listing of 'in/'"):
        for number, _ in enumerate(s3_listing.list_objects(fetch, "in/")):
            assert number < 10_000


@each("empty_at", [1, 2, 5])
def test_an_empty_page_is_not_the_end(empty_at):
    """S3 may answer with no key and a token, for instance where many were just deleted."""
    bucket = Bucket([f"in/{k:04d}" for k in range(100)], page_keys=7)

    def fetch(prefix, **how):
        page = bucket(prefix, **how)
        if bucket.requests != empty_at:
            return page
        before = how.get("token") or how.get("after") or prefix
        return Page(entries=[], next_token=before + "\0")

    assert [entry.key for entry in s3_listing.list_objects(fetch, "in/")] == bucket.keys
