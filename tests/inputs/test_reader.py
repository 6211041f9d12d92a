"""Reading images: in order, tried again where that may help, and an outage told from bad images."""

import io
import os
import pickle
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from brainray import storage
from brainray.errors import BrainrayError, ImageError, Outage, StorageError, Throttled
from brainray.inputs.ranges import RangeRead
from brainray.inputs.reader import (
    AHEAD_BYTES,
    BUCKET_READS_IN_FLIGHT,
    OUTAGE_WINDOW,
    READS_IN_FLIGHT,
    Reader,
    reads_in_flight,
)
from brainray.storage import local
from brainray.storage.retry import RetryPolicy


class Disk:
    """A storage whose files fail as told: a reason for each attempt, the last one for ever; None is a success."""

    def __init__(self, failures=None):
        self.failures = failures or {}
        self.attempts = Counter()
        self._lock = threading.Lock()

    def read(self, piece):
        uri = piece.uri
        with self._lock:
            attempt = self.attempts[uri]
            self.attempts[uri] += 1
        reasons = self.failures.get(uri, [None])
        reason = reasons[min(attempt, len(reasons) - 1)]
        if reason == "throttled":
            raise Throttled("read_failed", f"{uri}: fewer requests, please")
        if reason:
            raise StorageError(reason, f"{uri}: broken")
        return (uri.encode(),)


def whole(uris):
    return [RangeRead(uri, None) for uri in uris]


def reader(disk=None, **options):
    read = {"read": disk.read} if disk else {}
    return Reader(**{"sleep": lambda seconds: None} | read | options)


def read_all(reader, uris):
    with ThreadPoolExecutor(READS_IN_FLIGHT) as pool:
        return list(reader.read_ahead(whole(uris), pool))


def read_until_outage(reader, uris, match):
    contents = []
    with ThreadPoolExecutor(READS_IN_FLIGHT) as pool, pytest.raises(Outage, match=match):
        contents.extend(reader.read_ahead(whole(uris), pool))
    return contents


def names(count, prefix="/in/"):
    return [f"{prefix}{i:03}" for i in range(count)]


def all_fail(uris, reason):
    return Disk({uri: [reason] for uri in uris})


def test_contents_come_in_order_however_late_they_are_read():
    def read(piece):
        time.sleep(0.002 * (int(piece.uri[-3:]) % 7 == 0))
        return (piece.uri.encode(),)

    contents = read_all(Reader(read=read), names(60))
    assert [content.images[0] for content in contents] == [uri.encode() for uri in names(60)]
    assert {content.retries for content in contents} == {0}


def test_no_more_is_read_than_asked_for():
    disk = Disk()
    with ThreadPoolExecutor(READS_IN_FLIGHT) as pool:
        for taken, _ in enumerate(reader(disk).read_ahead(whole(names(50)), pool, ahead=3), start=1):
            assert sum(disk.attempts.values()) <= taken + 3
    assert sum(disk.attempts.values()) == 50


@pytest.mark.parametrize(("size_bytes", "most"), [(AHEAD_BYTES // 4, 4), (AHEAD_BYTES * 2, 1), (None, 20)])
def test_contents_that_wait_are_bounded_in_bytes(size_bytes, most):
    disk = Disk()
    with ThreadPoolExecutor(READS_IN_FLIGHT) as pool:
        contents = reader(disk).read_ahead([RangeRead(uri, size_bytes) for uri in names(50)], pool, ahead=19)
        for taken, _ in enumerate(contents, start=1):
            assert sum(disk.attempts.values()) < taken + most
    assert sum(disk.attempts.values()) == 50


def test_a_large_file_among_small_ones_waits_for_room():
    disk, uris = Disk(), names(9)
    sizes = [1000] * 4 + [AHEAD_BYTES] + [1000] * 4
    with ThreadPoolExecutor(READS_IN_FLIGHT) as pool:
        contents = reader(disk).read_ahead(list(map(RangeRead, uris, sizes)), pool)
        begun = [set(disk.attempts) for _ in contents]
    assert all(uris[4] not in seen for seen in begun[:4])
    assert [content.images[0] for content in read_all(reader(Disk()), uris)] == [uri.encode() for uri in uris]


def test_a_bucket_is_asked_for_more_at_once_than_a_disk():
    assert reads_in_flight(names(3)) == READS_IN_FLIGHT
    assert reads_in_flight(names(3, "s3://bucket/")) == BUCKET_READS_IN_FLIGHT > READS_IN_FLIGHT


def test_an_empty_shard_has_no_contents():
    assert read_all(reader(roots=["/nowhere"]), []) == []


def test_a_flaky_read_succeeds_and_its_retries_are_counted():
    disk = Disk({"/in/001": ["read_failed", "read_failed", None]})
    first, flaky, last = read_all(reader(disk), names(3))
    assert (flaky.images[0], flaky.retries) == (b"/in/001", 2)
    assert first.retries == last.retries == 0


def test_what_stays_unreadable_is_an_error_that_tells_the_tries():
    disk = all_fail(["/in/001"], "read_failed")
    _, bad, _ = read_all(reader(disk), names(3))
    assert isinstance(bad.images[0], ImageError)
    assert (bad.images[0].reason, bad.images[0].detail, bad.retries) == (
        "read_failed",
        "/in/001: broken (tried 4 times)",
        3,
    )
    assert disk.attempts["/in/001"] == 4


@pytest.mark.parametrize("reason", ["not_found", "forbidden"])
def test_what_no_patience_mends_is_not_tried_again(reason):
    disk = all_fail(["/in/000"], reason)
    (bad,) = read_all(reader(disk), names(1))
    assert (bad.images[0].reason, bad.images[0].detail, bad.retries) == (reason, "/in/000: broken", 0)
    assert disk.attempts["/in/000"] == 1


def test_a_store_may_refuse_now_and_then_but_not_for_ever():
    uris = names(2, "s3://bucket/")
    disk = Disk({uris[0]: ["forbidden", "forbidden", None], uris[1]: ["forbidden"]})
    passing, lasting = read_all(reader(disk), uris)
    assert (passing.images[0], passing.retries) == (uris[0].encode(), 2)
    assert (lasting.images[0].reason, lasting.retries) == ("forbidden", 2)
    assert lasting.images[0].detail == f"{uris[1]}: broken (tried 3 times)"


def test_a_missing_object_is_asked_for_once():
    (uri,) = names(1, "s3://bucket/")
    disk = all_fail([uri], "not_found")
    assert read_all(reader(disk), [uri])[0].images[0].reason == "not_found"
    assert disk.attempts[uri] == 1


def test_a_store_that_throttles_for_half_a_minute_costs_no_image():
    """Time passes only while somebody waits."""
    waited, uris = Counter(), names(40, "s3://bucket/")

    def sleep(seconds):
        waited[threading.get_ident()] += seconds

    def read(piece):
        if waited[threading.get_ident()] < 30:
            raise Throttled("read_failed", f"{piece.uri}: fewer requests, please")
        waited[threading.get_ident()] = 0
        return (piece.uri.encode(),)

    contents = read_all(Reader(read=read, sleep=sleep), uris)
    assert all(content.images[0] == uri.encode() for content, uri in zip(contents, uris, strict=True))


def test_a_store_that_throttles_for_ever_is_given_up_after_a_minute_of_waits():
    waits = []
    disk = all_fail(["s3://bucket/000"], "throttled")
    (content,) = read_all(Reader(read=disk.read, sleep=waits.append), names(1, "s3://bucket/"))
    assert content.images[0].reason == "read_failed"
    assert 60 <= sum(waits) <= 70
    assert content.retries == len(waits)


def test_waits_grow_differ_and_end_somewhere():
    waits = {}

    def sleep(seconds):
        waits.setdefault(threading.get_ident(), []).append(seconds)

    uris = names(20)
    policy = RetryPolicy(attempts=8, first_wait_s=1, longest_wait_s=10)
    read_all(Reader(policy=policy, sleep=sleep, outage_share=1.0, read=all_fail(uris, "read_failed").read), uris)
    rounds = [list(wait) for thread in waits.values() for wait in zip(*[iter(thread)] * 7, strict=True)]
    by_attempt = list(zip(*rounds, strict=True))
    for wait, longest in zip(by_attempt, [1, 2, 4, 8, 10, 10, 10], strict=True):
        assert 0 <= min(wait) < longest / 2 < max(wait) <= longest
        assert len(set(wait)) == 20


def cut_short(monkeypatch, times):
    """The first reads of the test lack two bytes, as on a network share that drops the rest."""
    remaining = iter(range(times))

    class Flaky(io.FileIO):
        def read(self, size):
            data = super().read(size)
            return data[:-2] if data and next(remaining, None) is not None else data

    monkeypatch.setattr(local, "open", lambda path, mode, buffering: Flaky(path, mode), raising=False)


def test_a_short_read_is_tried_again(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    cut_short(monkeypatch, 1)
    (content,) = read_all(reader(), [f"{tmp_path}/a.jpg"])
    assert (content.images[0], content.retries) == (b"0123456789", 1)


def test_a_file_that_stays_short_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    cut_short(monkeypatch, 100)
    (content,) = read_all(reader(), [f"{tmp_path}/a.jpg"])
    assert content.images[0].detail == f"{tmp_path}/a.jpg: short read, got 8 of 10 bytes (tried 4 times)"


@pytest.mark.parametrize("reason", ["forbidden", "read_failed"])
def test_failure_upon_failure_is_an_outage(reason):
    uris = names(500)
    disk = all_fail(uris, reason)
    with pytest.raises(Outage) as outage:
        read_all(reader(disk), uris)
    message = str(outage.value)
    assert message.startswith("32 of the last 32 images could not be read (the last: /in/0")
    assert "--max-unread 100%" in message
    assert "\n" not in message
    assert len(disk.attempts) <= OUTAGE_WINDOW + 2 * READS_IN_FLIGHT + 1


def test_an_outage_half_way_gives_the_contents_before_it():
    uris = names(200)
    contents = read_until_outage(reader(all_fail(uris[100:], "forbidden")), uris, "17 of the last 32 images")
    assert [content.images[0] for content in contents[:100]] == [uri.encode() for uri in uris[:100]]


def test_scattered_failures_are_no_outage():
    uris = names(300)
    contents = read_all(reader(all_fail(uris[::3], "not_found")), uris)
    assert sum(isinstance(content.images[0], ImageError) for content in contents) == 100


def test_fewer_failures_than_fill_the_window_are_no_outage():
    uris = names(OUTAGE_WINDOW - 1)
    assert len(read_all(reader(all_fail(uris, "forbidden")), uris)) == len(uris)


@pytest.mark.parametrize(("share", "stops"), [(0.0, True), (0.3, True), (0.4, False), (1.0, False)])
def test_the_share_decides(share, stops):
    uris = names(200)
    disk = all_fail(uris[::3], "read_failed")
    if stops:
        with pytest.raises(Outage):
            read_all(reader(disk, outage_share=share), uris)
    else:
        assert len(read_all(reader(disk, outage_share=share), uris)) == len(uris)


def test_at_100_percent_there_is_no_outage(tmp_path):
    uris = names(100)
    contents = read_all(reader(all_fail(uris, "not_found"), outage_share=1.0, roots=[f"{tmp_path}/gone"]), uris)
    assert len(contents) == 100


def vanish(root):
    shutil.rmtree(root)


def unmount(root):
    vanish(root)
    root.mkdir()


def cut_the_link(root):
    os.rename(root, f"{root}.away")
    root.symlink_to("nowhere")


@pytest.fixture
def small_archive(tmp_path):
    """A root with three images, and their URIs."""
    root = tmp_path / "in"
    (root / "glioma").mkdir(parents=True)
    files = [root / "glioma" / f"{i}.jpg" for i in range(3)]
    for file in files:
        file.write_bytes(b"pixels")
    (tmp_path / "other.jpg").write_bytes(b"pixels")
    return root, [str(file) for file in files]


def test_a_loss_near_the_end_of_a_shard_makes_no_error_rows(tmp_path, small_archive):
    """Too few reads are left to fill the window: what could be read before tells that the storage is gone."""
    root, uris = small_archive
    reading = reader(roots=[str(root)])
    with ThreadPoolExecutor(1) as pool:
        contents = reading.read_ahead(whole(uris), pool, ahead=0)
        assert isinstance(next(contents).images[0], bytes)
        (root / "glioma").rename(tmp_path / "away")
        assert next(contents).images[0].reason == "not_found"
        with pytest.raises(Outage, match=r"what could be read before can not be read now \(.*0\.jpg"):
            next(contents)


@pytest.mark.parametrize("lose", [vanish, unmount, cut_the_link])
def test_a_small_archive_whose_root_is_lost_is_an_outage(tmp_path, small_archive, lose):
    root, uris = small_archive
    lose(root)
    message = (
        rf"the last image of a shard could not be read \({root}/.*\) and the input {root} is gone or empty; is the"
    )
    taken = read_until_outage(reader(roots=[str(tmp_path), str(root)]), uris, message)
    assert len(taken) < len(uris), "a shard whose contents were all handed out can be committed"


def test_a_root_that_cannot_be_listed_is_an_outage(tmp_path, monkeypatch):
    def refuse(root):
        raise StorageError("forbidden", f"{root}: Permission denied")

    monkeypatch.setattr(storage, "list_names", refuse)
    with pytest.raises(Outage, match=f"input {tmp_path}: Permission denied; is the input"):
        read_all(reader(roots=[str(tmp_path)]), [f"{tmp_path}/gone.jpg"])


@pytest.mark.parametrize(
    ("there", "fault", "message"),
    [
        (True, None, None),
        (False, None, "the input s3://bucket/in is gone or empty"),
        (True, "forbidden", "the input s3://bucket/in: denied"),
    ],
)
def test_a_bucket_is_looked_for_without_listing_it(monkeypatch, there, fault, message):
    def exists(root):
        if fault:
            raise StorageError(fault, f"{root}: denied")
        return there

    monkeypatch.setattr(storage, "exists", exists)
    monkeypatch.setattr(storage, "list_names", lambda root: pytest.fail("a million names"))
    uris = names(3, "s3://bucket/in/")
    reading = reader(all_fail(uris, "not_found"), roots=["s3://bucket/in"])
    if message is None:
        assert len(read_all(reading, uris)) == 3
    else:
        read_until_outage(reading, uris, message)


def test_deleted_files_of_a_small_archive_are_rows(small_archive):
    root, uris = small_archive
    for uri in uris:
        os.unlink(uri)
    contents = read_all(reader(roots=[str(root)]), uris)
    assert [content.images[0].reason for content in contents] == ["not_found"] * 3


def test_an_unreadable_input_that_is_one_file_is_a_row(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"")
    (content,) = read_all(reader(all_fail([str(file)], "forbidden"), roots=[str(file)]), [str(file)])
    assert content.images[0].reason == "forbidden"


def test_a_shard_that_gave_an_image_is_kept_though_a_root_is_lost(tmp_path, small_archive):
    _, uris = small_archive
    for uri in uris[1:]:
        os.unlink(uri)
    assert len(read_all(reader(roots=[f"{tmp_path}/gone"]), uris)) == 3


def test_once_there_is_an_outage_every_further_shard_stops_at_once():
    uris = names(100)
    disk = all_fail(uris, "forbidden")
    worker = reader(disk)
    with pytest.raises(Outage) as first:
        read_all(worker, uris)
    before = sum(disk.attempts.values())
    with pytest.raises(Outage) as second:
        read_all(worker, names(5, "/healthy/"))
    assert str(second.value) == str(first.value)
    assert sum(disk.attempts.values()) == before


def test_a_thread_that_waits_to_try_again_stops_with_the_other():
    failing = names(100, "/other/")
    disk = Disk({"/mine/000": ["read_failed"]} | {uri: ["forbidden"] for uri in failing})
    worker = Reader(read=disk.read, policy=RetryPolicy(attempts=3, first_wait_s=1000, longest_wait_s=1000))
    raised = []

    def mine():
        try:
            read_all(worker, ["/mine/000"])
        except Outage as exc:
            raised.append(exc)

    thread = threading.Thread(target=mine)
    thread.start()
    while not disk.attempts["/mine/000"]:
        time.sleep(0.001)
    with pytest.raises(Outage):
        read_all(worker, failing)
    thread.join(5)
    assert not thread.is_alive()
    assert raised


def test_who_stops_taking_leaves_no_reads_behind():
    permits, disk = threading.Semaphore(1), Disk()

    def read(piece):
        permits.acquire()
        return disk.read(piece)

    with ThreadPoolExecutor(1) as pool:
        contents = Reader(read=read).read_ahead(whole(names(50)), pool)
        next(contents)
        contents.close()
        permits.release(50)
    assert len(disk.attempts) <= 2


def test_an_error_that_is_no_storage_error_reaches_the_shard():
    def read(piece):
        raise MemoryError

    with pytest.raises(MemoryError):
        read_all(Reader(read=read), names(3))


def test_an_outage_travels_between_processes():
    outage = pickle.loads(pickle.dumps(Outage("the input is gone")))
    assert isinstance(outage, BrainrayError)
    assert (str(outage), outage.exit_code) == ("the input is gone", 1)
