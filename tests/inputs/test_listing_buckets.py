"""A bucket's compressed tars and files without suffix are read as those of a disk."""

import gzip

from support.imaging.images import image_bytes
from support.inputs.archives import tar_of
from support.storage.s3_servers import decided_s3, s3_endpoints

from brainray import storage
from brainray.inputs.archives.index import ArchiveIndexes
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
