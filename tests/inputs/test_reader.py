"""Reading images: in order, tried again where that may help, and an outage told from bad images."""

import io
import pickle
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.each import each
from support.inputs.reading import Disk, all_fail, names, read_all, read_until_outage, reader, whole

from brainray.errors import BrainrayError, ImageError, Outage, Throttled
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


@each(("size_bytes", "most"), [(AHEAD_BYTES // 4, 4), (AHEAD_BYTES * 2, 1), (None, 20)])
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


@each("reason", ["not_found", "forbidden"])
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


@each("reason", ["forbidden", "read_failed"])
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


@each(("share", "stops"), [(0.0, True), (0.3, True), (0.4, False), (1.0, False)])
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
