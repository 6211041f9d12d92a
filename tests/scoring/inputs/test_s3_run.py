"""Runs whose input or output is a bucket, scored in this process while the network and the store fail in their ways.

Whatever happens, the rows are those of a run of the same files on a local disk.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.scoring.runs import Stopped, brightness, contents, engine_of, request_for, score_here
from support.storage.s3_servers import Server, decided_s3, fast_s3, s3_endpoints

from brainray import storage
from brainray.errors import BrainrayError, Outage
from brainray.inputs.ranges import RangeRead
from brainray.inputs.reader import BUCKET_READS_IN_FLIGHT, Reader
from brainray.models.bundle import Bundle
from brainray.scoring.run_folder import verify_run
from brainray.storage.retry import RetryPolicy
from brainray.storage.s3 import clients
from brainray.storage.s3.backend import S3Objects

__all__ = ["decided_s3", "fast_s3", "s3_endpoints"]  # fixtures

FILES = {f"{name}/{i}.jpg": image_bytes(100 * k + i) for k, name in enumerate(CLASSES) for i in range(6)}
FILES["glioma/5.jpg"] = b"no image"
SHARD_SIZE = 6
ANY_IMAGE = r"/in/.*\.jpg$"
EVERY_METHOD = ("GET", "HEAD", "PUT", "POST", "DELETE")


class BucketRun:
    """The archive in a bucket, and a run of it, in the same bucket unless `run` says where."""

    def __init__(self, server: Server, bundle: Bundle, run: str | None = None) -> None:
        self.server, self.proxy, self.bundle = server, server.proxy, bundle
        self.root, self.run = f"{server.root}/in", run or f"{server.root}/run"
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.put, FILES, FILES.values()))

    def put(self, name: str, data: bytes) -> None:
        self.server.put(f"in/{name}", data)

    def delete(self, name: str) -> None:
        self.server.client.delete_object(Bucket=self.server.bucket, Key=f"in/{name}")

    def score(self, *, only: int | None = None, on_shard: Callable[[str], None] | None = None, **options):
        request = request_for(self.root, self.run, self.bundle, shard_size=SHARD_SIZE, **options)
        return score_here(request, engine_of(self.bundle, only=only, on_shard=on_shard, predict=brightness))

    def rows(self) -> dict[str, dict]:
        """By name below the input, without what is the bucket's own."""
        return as_local(self.root, self.run)

    def retries(self) -> int:
        return storage.read_json(f"{self.run}/summary/summary.json")["throughput"]["read_retries"]

    def asked_for(self) -> Counter[tuple[str, str]]:
        """Requests for images, by method and name."""
        prefix = f"/{self.server.bucket}/in/"
        counts = self.proxy.counts.items()
        return Counter(
            {(verb, path.removeprefix(prefix)): n for (verb, path), n in counts if path.removeprefix(prefix) in FILES}
        )

    def check_whole(self, expected: dict[str, dict], failed: int = 1) -> None:
        assert self.rows() == expected
        verification = verify_run(self.run)
        assert (verification.rows, verification.failed, verification.problems) == (len(expected), failed, ())
        assert storage.exists(f"{self.run}/_SUCCESS")


def as_local(root: str, run: str) -> dict[str, dict]:
    found = contents(run)
    own = ("uri", "version")
    return {uri.removeprefix(f"{root}/"): {k: v for k, v in row.items() if k not in own} for uri, row in found.items()}


def gets(names) -> Counter:
    return Counter({("GET", name): 1 for name in names})


@pytest.fixture(scope="module")
def expected(bundle, tmp_path_factory) -> dict[str, dict]:
    """The rows of a run on a local disk."""
    root = tmp_path_factory.mktemp("local")
    for name, data in FILES.items():
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "in" / name).write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.scoring.summary.build.draw_confusion", lambda *_: b"")
        request = request_for(root / "in", root / "run", bundle, shard_size=SHARD_SIZE)
        score_here(request, engine_of(bundle, predict=brightness))
    return as_local(f"{root}/in", f"{root}/run")


@pytest.fixture
def bucket_run(bundle, monkeypatch, no_plot) -> Callable[[Server], BucketRun]:
    """Without waits, and without the picture, which takes 0.2 s."""
    backend = S3Objects(settle_s=0.2, sleep=lambda _: None)
    monkeypatch.setattr(storage, "_s3", lambda: backend)
    return lambda server, run=None: BucketRun(server, bundle, run)


@pytest.fixture
def site(decided_s3, bucket_run) -> BucketRun:
    return bucket_run(decided_s3)


@pytest.fixture
def source(fast_s3, bucket_run, tmp_path) -> BucketRun:
    """For faults of reading: the output is a local folder, which saves three of four requests."""
    return bucket_run(fast_s3, str(tmp_path / "run"))


def test_an_image_costs_one_get_and_no_head(site, expected):
    """Of the reads alone `tests/storage/s3/test_backend.py` shows it with both servers."""
    site.score()
    assert site.asked_for() == gets(FILES)
    assert site.retries() == 0
    site.check_whole(expected)
    site.proxy.clear()
    assert site.score().scored == 0
    assert site.asked_for() == Counter()


UNLUCKY = {
    "glioma/0.jpg": ("503 SlowDown", 9),
    "meningioma/1.jpg": ("500 InternalError", 3),
    "notumor/4.jpg": ("truncate", 3),
    "pituitary/5.jpg": ("403 AccessDenied", 2),
}


def test_images_whose_reads_fail_for_a_while_are_scored_like_the_others(source, expected):
    for name, (kind, times) in UNLUCKY.items():
        source.proxy.add(kind, key=f"/in/{name}", times=times)
    source.score()
    source.check_whole(expected)
    again = Counter({("GET", name): times for name, (_, times) in UNLUCKY.items()})
    assert source.asked_for() == gets(FILES) + again
    assert source.retries() == again.total()


def test_a_slow_body_is_waited_for_and_one_that_stalls_is_read_again(source, expected, monkeypatch):
    monkeypatch.setattr(clients, "READ_TIMEOUT_S", 1)
    source.proxy.add("slow", key="/in/glioma/0.jpg", delay_s=0.5, times=1)
    source.proxy.add("slow", key="/in/glioma/1.jpg", delay_s=1.5, times=1)
    source.score()
    source.check_whole(expected)
    assert source.retries() == 1


def test_a_store_that_fails_at_every_corner_gives_the_same_rows(site, expected):
    """Listing, claims, manifests, parts and small files meet the faults, too."""
    faults = {"503 SlowDown": 0.04, "500 InternalError": 0.01, "reset": 0.01, "drop": 0.01, "truncate": 0.01}
    for kind, share in faults.items():
        methods = ("GET",) if kind == "truncate" else EVERY_METHOD
        site.proxy.add(kind, methods=methods, share=share)
    site.score()
    assert sum(fault.done for fault in site.proxy.faults) > 5
    site.proxy.faults.clear()
    site.check_whole(expected)
    assert site.retries() == sum(site.asked_for().values()) - len(FILES)


def test_an_image_that_is_always_refused_keeps_its_row(source, expected):
    source.proxy.add("403 AccessDenied", key="/in/notumor/4.jpg")
    source.score()
    rows = source.rows()
    refused = rows.pop("notumor/4.jpg")
    assert (refused["status"], refused["error"]) == ("error", "forbidden")
    assert "s3:GetObject" in refused["error_detail"] and "tried 3 times" in refused["error_detail"]
    assert rows == {name: row for name, row in expected.items() if name != "notumor/4.jpg"}
    assert verify_run(source.run).failed == 2
    source.proxy.clear()
    source.score(retry_unread=True)
    assert source.asked_for() == gets(["notumor/4.jpg"])
    source.check_whole(expected)


def test_an_object_deleted_since_the_listing_is_asked_for_once_and_not_found(source):
    source.score(on_shard=lambda _: source.delete("pituitary/3.jpg"))
    assert source.rows()["pituitary/3.jpg"]["error"] == "not_found"
    assert source.asked_for() == gets(FILES)
    assert verify_run(source.run).rows == len(FILES)


def test_an_object_changed_since_the_listing_gets_the_row_of_its_new_content(source):
    """And as its version is not the one listed, the next run reads it again."""
    new = image_bytes(7777)
    source.score(on_shard=lambda _: source.put("pituitary/3.jpg", new))
    row = source.rows()["pituitary/3.jpg"]
    assert (row["status"], row["content_hash"]) == ("ok", hashlib.sha256(new).hexdigest())
    source.proxy.clear()
    assert source.score().scored == 1
    assert source.asked_for() == gets(["pituitary/3.jpg"])
    again = source.rows()["pituitary/3.jpg"]
    assert again["size_bytes"] == len(new)
    assert {k: v for k, v in again.items() if k != "size_bytes"} == {k: v for k, v in row.items() if k != "size_bytes"}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("403 AccessDenied", "s3:GetObject"),
        ("503 SlowDown", "fewer requests"),
        ("reset", "the transfer failed"),
    ],
)
def test_a_store_that_fails_for_good_half_way_makes_no_error_rows(source, expected, kind, words):
    begun = []

    def fail_from_the_third(shard_id: str) -> None:
        begun.append(shard_id)
        if len(begun) == 3:
            source.proxy.add(kind, key=ANY_IMAGE)

    with pytest.raises(Outage, match=words) as outage:
        source.score(on_shard=fail_from_the_third)
    assert len(str(outage.value).splitlines()) == 1
    assert not storage.exists(f"{source.run}/_SUCCESS")
    kept = source.rows()
    assert len(kept) == 2 * SHARD_SIZE and kept.items() <= expected.items()
    source.proxy.clear()
    source.score()
    assert source.asked_for() == gets(FILES.keys() - kept.keys())
    source.check_whole(expected)


def test_a_bucket_that_is_gone_half_way_is_an_outage(site):
    def remove(_: str) -> None:
        site.proxy.add("404 NoSuchBucket", key="[/=]in")

    with pytest.raises(Outage, match=r"the input .*no bucket"):
        site.score(on_shard=remove)
    assert storage.list_names(f"{site.run}/predictions") == []


def test_an_interrupted_run_reads_only_what_is_left(site, expected):
    with pytest.raises(Stopped):
        site.score(only=2)
    done = site.rows()
    assert len(done) == 2 * SHARD_SIZE
    site.proxy.clear()
    assert site.score().scored == len(FILES) - len(done)
    assert site.asked_for() == gets(FILES.keys() - done.keys())
    site.check_whole(expected)


def test_a_changed_object_alone_is_read_again(source, expected):
    source.score()
    source.put("glioma/5.jpg", image_bytes(8888))
    source.proxy.clear()
    assert source.score().scored == 1
    assert source.asked_for() == gets(["glioma/5.jpg"])
    rows = source.rows()
    assert rows.pop("glioma/5.jpg")["status"] == "ok"
    assert rows == {name: row for name, row in expected.items() if name != "glioma/5.jpg"}


def test_a_clock_that_is_wrong_ends_the_run_with_one_line_that_says_so(site):
    site.proxy.add("403 RequestTimeTooSkewed", methods=EVERY_METHOD)
    with pytest.raises(BrainrayError, match="clock differs too much") as told:
        site.score()
    assert len(str(told.value).splitlines()) == 1
    site.proxy.clear()
    assert not storage.exists(site.run)


def test_a_burst_of_slow_downs_slows_every_thread_of_a_worker(fast_s3, bucket_run):
    """The first answers are nothing but 503: all are read in the end, and few requests are wasted."""
    site = bucket_run(fast_s3)
    fault = site.proxy.add("503 SlowDown", key=ANY_IMAGE, times=150)
    reader, uris = Reader(policy=RetryPolicy(longest_wait_s=1)), [f"{site.root}/{name}" for name in FILES]
    pieces = [RangeRead(uri, None) for uri in uris]
    with ThreadPoolExecutor(2) as shards, ThreadPoolExecutor(BUCKET_READS_IN_FLIGHT) as pool:
        both = shards.map(lambda _: list(reader.read_ahead(pieces, pool, ahead=BUCKET_READS_IN_FLIGHT)), range(2))
        found = [[content.images[0] for content in contents] for contents in both]
    assert found == [list(FILES.values())] * 2
    assert fault.done == 150
    # What the burst brought it down to; by now it may have grown again.
    assert reader._limit._slowed_to <= BUCKET_READS_IN_FLIGHT / 2
