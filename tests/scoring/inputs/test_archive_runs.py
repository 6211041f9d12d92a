"""Runs whose images lie in tar, zip and Parquet files, scored in this process."""

import io
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes
from support.inputs.archives import tar_of, zip_of
from support.models.bundles import CLASSES
from support.scoring.runs import brightness, contents, engine_of, request_for, score_here
from support.storage.s3_servers import fast_s3, s3, s3_endpoints, strict_s3

from brainray import storage
from brainray.config import MaxFailed
from brainray.errors import StorageError
from brainray.inputs import archives, ranges
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.reader import Reader
from brainray.scoring.run_folder import verify_run
from brainray.storage.retry import ConcurrencyLimit
from brainray.storage.s3.backend import S3Objects

__all__ = ["fast_s3", "s3", "s3_endpoints", "strict_s3"]  # fixtures

FILES = {f"{name}/{i}.jpg": image_bytes(100 * k + i) for k, name in enumerate(CLASSES) for i in range(5)}
FILES["glioma/4.jpg"] = b"no image"
OWN = ("uri", "version", "size_bytes")  # what differs from the row of a file in a folder


def parquet(files):
    buffer = io.BytesIO()
    labels = [name.split("/")[0] for name in files]
    pq.write_table(pa.table({"image": list(files.values()), "label": labels}), buffer, row_group_size=7)
    return buffer.getvalue()


MAKE = {"tar": tar_of, "zip": zip_of, "parquet": parquet}


pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture
def run(bundle, tmp_path):
    """Scores into one output, with nothing but the image to tell rows apart."""

    def start(root, *, output=str(tmp_path / "run"), shard_size=4, on_shard=None, **options):
        request = request_for(root, output, bundle, shard_size=shard_size, **options)
        return score_here(request, engine_of(bundle, predict=brightness, on_shard=on_shard))

    start.uri = str(tmp_path / "run")
    return start


def rows(uri, root):
    found = contents(uri)
    return {name.removeprefix(f"{root}/"): row for name, row in found.items()}


@pytest.fixture(scope="module")
def expected(bundle, tmp_path_factory):
    """The rows of the same images in a folder."""
    place = tmp_path_factory.mktemp("expected")
    for name, data in FILES.items():
        path = place / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.scoring.summary.build.draw_confusion", lambda *_: b"no plot")
        request = request_for(place / "folder", place / "run", bundle, shard_size=4)
        score_here(request, engine_of(bundle, predict=brightness))
    found = rows(str(place / "run"), place / "folder")
    return [{k: v for k, v in found[name].items() if k not in OWN} for name in FILES]


def member(kind, number, name):
    return str(number) if kind == "parquet" else name


def check_same(found, expected, *own):
    """Whether the images of each kind of container have the rows that they have in a folder."""
    for kind in MAKE:
        names = [f"all.{kind}#{member(kind, number, name)}" for number, name in enumerate(FILES)]
        rows = [{k: v for k, v in found[name].items() if k not in (*OWN, *own)} for name in names]
        assert rows == [{k: v for k, v in row.items() if k not in own} for row in expected], kind


def test_images_in_a_container_get_the_rows_of_images_in_a_folder(run, expected, tmp_path):
    (tmp_path / "in").mkdir()
    for kind, make in MAKE.items():
        (tmp_path / "in" / f"all.{kind}").write_bytes(make(FILES))
    outcome = run(tmp_path / "in")
    check_same(rows(run.uri, tmp_path / "in"), expected, "shard_id")
    assert outcome.failed == len(MAKE)
    verification = verify_run(run.uri)
    assert (verification.rows, verification.failed) == (len(MAKE) * len(FILES), len(MAKE))
    assert verification.problems == ()
    assert run(tmp_path / "in").scored == 0


def test_a_container_may_be_the_input_itself_and_lie_among_images(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(image_bytes(1))
    (tmp_path / "in" / "b.tar").write_bytes(tar_of({"x/1.jpg": image_bytes(2), "x/readme.txt": b"text"}))
    (tmp_path / "in" / "c.jpg").write_bytes(image_bytes(3))
    (tmp_path / "glioma.zip").write_bytes(zip_of({"1.jpg": image_bytes(4)}))
    outcome = run((tmp_path / "in", tmp_path / "glioma.zip"), shard_size=2)
    assert sorted(uri.removeprefix(f"{tmp_path}/") for uri in contents(run.uri)) == [
        "glioma.zip#1.jpg",
        "in/a.jpg",
        "in/b.tar#x/1.jpg",
        "in/c.jpg",
    ]
    assert contents(run.uri)[f"{tmp_path}/glioma.zip#1.jpg"]["label"] == "glioma", "a container counts as a folder"
    assert outcome.plan.listing.skipped == {"suffix .txt": 1}
    assert {row["status"] for row in contents(run.uri).values()} == {"ok"}


def test_a_shard_reads_its_stretch_of_a_container_once(run, tmp_path, monkeypatch):
    (tmp_path / "all.tar").write_bytes(tar_of(FILES))
    asked = []
    read_range = storage.read_range
    monkeypatch.setattr(
        storage, "read_range", lambda *args, **options: asked.append(args) or read_range(*args, **options)
    )
    run(tmp_path / "all.tar")
    assert len(asked) == 5, "20 images in shards of 4"


def test_a_container_is_listed_once_for_each_version_of_it(run, tmp_path, monkeypatch):
    path = tmp_path / "in" / "all.zip"
    path.parent.mkdir()
    path.write_bytes(zip_of(FILES))
    (tmp_path / "in" / "labels.parquet").write_bytes(storage_bytes({"file": ["x"], "label": ["glioma"]}))
    listed = []
    list_members = archives.list_members
    monkeypatch.setattr(
        archives, "list_members", lambda kind, file, **how: listed.append(kind) or list_members(kind, file)
    )
    assert run(path.parent).plan.listing.skipped == {"Parquet without images": 1}
    assert sorted(listed) == ["parquet", "zip"]
    run(path.parent)
    (path.parent / "new.jpg").write_bytes(image_bytes(1))
    assert run(path.parent).scored == 1
    assert len(listed) == 2
    path.write_bytes(zip_of({"glioma/0.jpg": image_bytes(77)}))
    outcome = run(path.parent)
    assert len(listed) == 3
    assert outcome.scored == 1
    assert outcome.plan.changes.gone == len(FILES) - 1, "their rows are kept"
    assert len(storage.list_names(f"{run.uri}/containers")) == 2, "the index of the old version goes"
    assert verify_run(run.uri).rows == len(FILES) + 1


def storage_bytes(columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def test_a_container_that_changes_while_it_is_read_gives_no_mixture(run, tmp_path):
    path = tmp_path / "all.tar"
    path.write_bytes(tar_of(FILES))
    later = tar_of({name: image_bytes(900 + number) for number, name in enumerate(FILES)})
    shards = []

    def replace(_):
        shards.append(1)
        if len(shards) == 3:
            path.write_bytes(later)
            os.utime(path, ns=(5, 5))

    run(path, on_shard=replace, max_unread=1.0, max_failed=MaxFailed(count=99))
    found = [row["error"] for row in contents(run.uri).values()]
    assert found.count("not_found") == 12
    assert "run the same command again" in next(
        row["error_detail"] for row in contents(run.uri).values() if row["error"] == "not_found"
    )
    assert run(path).scored == len(FILES)
    assert {row["error"] for row in contents(run.uri).values()} == {None}


def test_what_is_wrong_with_a_container_has_rows_that_say_so(run, tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    good = {"ok.jpg": image_bytes(1)}
    (root / "bad-names.tar").write_bytes(tar_of(good | {"../../up.jpg": image_bytes(2), "/abs.jpg": image_bytes(3)}))
    (root / "cut.tar").write_bytes(tar_of(good | {"cut.jpg": image_bytes(4)})[:2_000])
    (root / "nested.zip").write_bytes(zip_of(good | {"more.zip": zip_of(good)}))
    (root / "none.zip").write_bytes(b"no zip")
    (root / "twice.tar").write_bytes(tar_of(good)[:-10240] + tar_of({"ok.jpg": image_bytes(5)}))
    found = {name: row["error"] for name, row in (run(root), rows(run.uri, root))[1].items()}
    assert found.pop("none.zip") == "not_an_image"
    assert {found.pop(name) for name in ("bad-names.tar#../../up.jpg", "bad-names.tar#/abs.jpg")} == {"unsupported"}
    assert found.pop("nested.zip#more.zip") == "unsupported"
    assert {name for name in found if name.startswith("cut.tar")} >= {"cut.tar#ok.jpg"}
    assert "truncated" in {found.pop(name) for name in list(found) if name.startswith("cut.tar")}
    assert {found[name] for name in ("bad-names.tar#ok.jpg", "nested.zip#ok.jpg")} == {None}
    assert verify_run(run.uri).problems == ()
    assert run(root).scored == 0


def test_labels_may_name_members_by_uri_path_or_name(run, tmp_path, bundle):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tar_of({f"x/{i}.jpg": image_bytes(i) for i in range(3)}))
    (tmp_path / "labels.csv").write_text(
        f"file,label\n{tmp_path}/in/a.tar#x/0.jpg,glioma\na.tar#x/1.jpg,notumor\n2.jpg,pituitary\n"
    )
    run(tmp_path / "in", label_file=read_label_file(str(tmp_path / "labels.csv"), bundle.classes))
    assert [row["label"] for _, row in sorted(contents(run.uri).items())] == ["glioma", "notumor", "pituitary"]


def test_globs_and_groups_see_members_too(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tar_of(FILES))
    (tmp_path / "in" / "b.tar").write_bytes(tar_of({"x.jpg": image_bytes(1)}))
    outcome = run(tmp_path / "in", include=("*.jpg",), exclude=("*glioma/*", "b.tar"), group_by="folder")
    assert outcome.plan.listing.skipped == {"in --exclude": 6}
    assert {row["group"] for row in contents(run.uri).values()} == {"a"}


def test_containers_in_a_bucket_cost_a_request_a_shard(fast_s3, run, monkeypatch, expected):
    backend = S3Objects(settle_s=0.2, sleep=lambda _: None)
    monkeypatch.setattr(storage, "_s3", lambda: backend)
    for kind, make in MAKE.items():
        fast_s3.put(f"in/all.{kind}", make(FILES))
    fast_s3.proxy.counts.clear()
    root, output = f"{fast_s3.root}/in", f"{fast_s3.root}/run"
    run(root, output=output, shard_size=10)
    check_same(rows(output, root), expected, "shard_id")
    for kind in MAKE:
        asked = {method: n for (method, path), n in fast_s3.proxy.counts.items() if path.endswith(f"in/all.{kind}")}
        assert asked == {"GET": 1 + 2}, f"of {kind} one for the index, one for each stretch"
    assert verify_run(output).problems == ()


def parquet_of_ten_groups():
    """Of four images each, 6 MB together: (its bytes, the images)."""
    images = [image_bytes(i) + random.Random(i).randbytes(150_000) for i in range(40)]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": ["glioma"] * 40}), buffer, row_group_size=4, compression="none")
    assert pq.ParquetFile(buffer).metadata.num_row_groups == 10
    return buffer.getvalue(), images


def test_a_shard_reads_its_row_groups_by_one_request(fast_s3, run, monkeypatch):
    backend = S3Objects(settle_s=0.2, sleep=lambda _: None)
    monkeypatch.setattr(storage, "_s3", lambda: backend)
    fast_s3.put("in/all.parquet", parquet_of_ten_groups()[0])
    fast_s3.proxy.counts.clear()
    run(f"{fast_s3.root}/in", output=f"{fast_s3.root}/run", shard_size=20)
    assert {row["status"] for row in contents(f"{fast_s3.root}/run").values()} == {"ok"}
    assert fast_s3.proxy.count("GET", "all.parquet") == 1 + 1 + 2, "the listing, the footer, two shards"


def pieces_of(uri, data, version):
    """The reads for all rows of a Parquet file, as a shard of them has it."""
    index = pa.concat_tables(archives.list_members("parquet", io.BytesIO(data)))
    size = len(index)
    rows = pa.table(
        {
            "uri": [f"{uri}#{name}" for name in index["name"].to_pylist()],
            "size_bytes": pa.nulls(size, pa.int64()),
            "version": [version] * size,
            "container": [uri] * size,
            "offset": index["offset"],
            "stored_bytes": index["stored_bytes"],
        }
    )
    return list(ranges.plan_reads(rows))


def test_row_groups_are_read_together_up_to_what_one_read_may_hold(monkeypatch):
    data, _ = parquet_of_ten_groups()
    (piece,) = pieces_of("s3://bucket/all.parquet", data, "1")
    assert len(piece.members) == 40
    assert 6_000_000 < piece.size_bytes < 6_500_000
    monkeypatch.setattr(ranges, "RANGE_BYTES", 2 << 20)
    parts = pieces_of("s3://bucket/all.parquet", data, "1")
    assert [len(part.members) for part in parts] == [12, 12, 12, 4]
    assert all(part.size_bytes <= 2 << 20 for part in parts)
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1000)
    assert [len(part.members) for part in pieces_of("s3://bucket/all.parquet", data, "1")] == [4] * 10


def read_in_bucket(s3, *, limit=None):
    """Ten row groups read by one reader, with what came of them, and the images."""
    data, images = parquet_of_ten_groups()
    uri = s3.put("all.parquet", data)
    version = next(storage.list_files(uri)).version
    s3.proxy.counts.clear()
    with ThreadPoolExecutor(4) as pool:
        reader = Reader(outage_share=1.0, limit=limit, sleep=lambda _: None)
        return list(reader.read_ahead(pieces_of(uri, data, version), pool)), images


def test_a_store_that_fails_is_asked_four_times_for_a_stretch_of_parquet(s3):
    s3.proxy.add("500 InternalError", key=r"/all\.parquet$")
    (content,), _ = read_in_bucket(s3)
    assert s3.proxy.count("GET", "all.parquet") == 4
    assert content.retries == 3
    assert {image.reason for image in content.images} == {"read_failed"}


def test_a_throttled_read_of_parquet_slows_the_process_down(s3):
    s3.proxy.add("503 SlowDown", key=r"/all\.parquet$", times=3)
    limit = ConcurrencyLimit(clock=lambda: 1000.0)
    (content,), images = read_in_bucket(s3, limit=limit)
    assert list(content.images) == images
    assert content.retries == 3
    assert limit.limit < 64


def test_a_large_footer_is_read_once_by_all_threads(s3, monkeypatch):
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1000)
    monkeypatch.setattr(ranges, "_TAIL_BYTES", 100)
    found, images = read_in_bucket(s3)
    assert [image for content in found for image in content.images] == images
    assert s3.proxy.count("GET", "all.parquet") == 2 + 10


def test_remembered_footers_are_bounded(tmp_path, monkeypatch):
    data, images = parquet_of_ten_groups()
    monkeypatch.setattr(ranges, "_TAILS_BYTES", 600_000)
    asked = []
    read_tail = storage.read_tail
    monkeypatch.setattr(storage, "read_tail", lambda *args, **how: asked.append(args[0]) or read_tail(*args, **how))
    read = ranges.RangeReader()
    for name in "aabcabbcc":
        path = tmp_path / f"{name}.parquet"
        if not path.exists():
            path.write_bytes(data)
        (piece,) = pieces_of(str(path), data, str(path.stat().st_mtime_ns))
        assert list(read(piece)) == images
    assert [os.path.basename(uri)[0] for uri in asked] == ["a", "b", "c", "a", "b", "c"]


def test_a_parquet_file_that_has_changed_is_not_read(s3):
    data, _ = parquet_of_ten_groups()
    uri = s3.put("all.parquet", data)
    (piece,) = pieces_of(uri, data, "0" * 32)
    with pytest.raises(StorageError, match="has changed since it was listed"):
        ranges.RangeReader()(piece)
