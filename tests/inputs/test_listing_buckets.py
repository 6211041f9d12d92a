"""A bucket's compressed tars and files without suffix are read as those of a disk."""

import gzip

import pytest
from support.imaging.images import image_bytes
from support.inputs.archives import tar_of
from support.machine.ports import free_port
from support.storage.s3_servers import decided_s3, s3_endpoints

from brainray import storage
from brainray.errors import BadRequest, Outage
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.listing import Lister, scan
from brainray.inputs.ranges import RangeReader, plan_reads
from brainray.storage.s3.backend import S3Objects

__all__ = ["decided_s3", "s3_endpoints"]  # fixtures


def test_compressed_tars_and_files_without_suffix(decided_s3, monkeypatch, tmp_path):
    backend = S3Objects()
    monkeypatch.setattr(storage, "_s3", lambda: backend)
    images = {f"{number}.jpg": image_bytes(number) for number in range(3)}
    decided_s3.put("in/glioma.tgz", gzip.compress(tar_of(images)))
    decided_s3.put("in/label=no%20tumor/1.2.840.1", images["0.jpg"])
    decided_s3.put("in/label=no%20tumor/1.2.840.2", b"text")
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        lister = Lister([f"{decided_s3.root}/in"], indexes, classes=("glioma", "notumor"))
        found = scan(lister, str(tmp_path / "listing.parquet"))
    (table,) = found.batches()
    names = [uri.removeprefix(f"{decided_s3.root}/in/") for uri in table["uri"].to_pylist()]
    assert names == ["glioma.tgz#0.jpg", "glioma.tgz#1.jpg", "glioma.tgz#2.jpg", "label=no%20tumor/1.2.840.1"]
    assert table["label"].to_pylist() == ["glioma"] * 3 + ["notumor"]
    assert found.skipped == {"no suffix": 1}
    reader = RangeReader()
    assert [image for read in plan_reads(table) for image in reader(read)] == [*images.values(), images["0.jpg"]]


@pytest.fixture
def listed(monkeypatch, tmp_path):
    """Lists a folder of a bucket without waits."""
    backend = S3Objects(sleep=lambda _: None)
    monkeypatch.setattr(storage, "_s3", lambda: backend)

    def run(uri: str) -> int:
        with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
            lister = Lister(distinct_inputs([uri]), indexes, classes=("glioma", "notumor"))
            return scan(lister, str(tmp_path / "listing.parquet")).images

    return run


@pytest.mark.parametrize("kind", ["503 SlowDown", "500 InternalError", "reset"])
@pytest.mark.parametrize("key", ["list-type=2", "list-type=2.*delimiter"])  # at the first look; when it is listed
def test_a_store_that_fails_is_an_outage_after_which_the_command_is_tried_again(decided_s3, listed, kind, key):
    """With code 2 a nightly run would wait for somebody to correct a command that is right."""
    decided_s3.put("in/1.jpg")
    decided_s3.proxy.add(kind, key=key)
    with pytest.raises(Outage, match=r"^--input s3://.*/in: .*; run the same command again$") as told:
        listed(f"{decided_s3.root}/in")
    assert told.value.exit_code == 1
    decided_s3.proxy.clear()
    assert listed(f"{decided_s3.root}/in") == 1


def test_a_store_that_does_not_answer_is_an_outage(decided_s3, listed, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Outage, match="cannot be reached"):
        listed("s3://bucket/in")


@pytest.mark.parametrize(("kind", "words"), [("403 AccessDenied", "s3:ListBucket"), ("404 NoSuchBucket", "no bucket")])
def test_what_the_user_must_change_stays_a_wrong_request(decided_s3, listed, kind, words):
    decided_s3.put("in/1.jpg")
    decided_s3.proxy.add(kind, key="list-type=2")
    with pytest.raises(BadRequest, match=words) as told:
        listed(f"{decided_s3.root}/in")
    assert told.value.exit_code == 2
