"""What a list names is read exactly as it stands, and what brainray writes, it reads: predictions are a list."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.images import image_bytes
from support.imaging.niftis import nifti
from support.inputs.archives import tar_of, zip_of
from support.scoring.runs import brightness, contents, engine_of, request_for, score_here
from support.storage.s3_servers import s3_endpoints, strict_s3

from brainray import storage
from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.lists.file_lists import open_file_list
from brainray.inputs.lists.resolve import resolve_rows
from brainray.storage.s3 import uris
from brainray.storage.s3.backend import S3Objects

__all__ = ["s3_endpoints", "strict_s3"]  # fixtures

AS_THEY_STAND = ("/a.jpg", "x//b.jpg", "//c.jpg", "x/d.jpg ", " e.jpg", "x/f.jpg/", "g#1%20 (2).jpg", "x/./h.jpg")
PLAIN = ("a.jpg", "x/b.jpg", "c.jpg", "x/d.jpg", "e.jpg", "x/f.jpg", "x/h.jpg")  # what they must not be taken for


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr("brainray.scoring.summary.build.draw_confusion", lambda *_: b"a picture takes 0.2 s")


@pytest.fixture
def score(bundle):
    def start(root, output, **options):
        score_here(request_for(root, output, bundle, **options), engine_of(bundle, predict=brightness))
        return contents(output)

    return start


def listed_uris(path) -> list[str]:
    return [row.uri for row in open_file_list(str(path)).rows()]


def predictions_of(run, path) -> str:
    parts = [storage.read_parquet(f"{run}/predictions/{name}") for name in storage.list_names(f"{run}/predictions")]
    pq.write_table(pa.concat_tables(parts), path)
    return str(path)


@each("suffix", ["csv", "parquet"])
def test_keys_stay_as_they_stand(tmp_path, suffix):
    keys = [f"s3://bucket/{key}" for key in (*AS_THEY_STAND, "y/../i.jpg", "/")]
    listed = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        listed.write_text("\n".join(["uri", *keys, ""]))
    else:
        pq.write_table(pa.table({"uri": keys}), listed)
    assert listed_uris(listed) == keys


def test_keys_of_an_inventory_stay_as_they_stand(tmp_path):
    (tmp_path / "list.csv").write_text("bucket,key\n" + "".join(f"data,{key}\n" for key in AS_THEY_STAND))
    assert listed_uris(tmp_path / "list.csv") == [f"s3://data/{key}" for key in AS_THEY_STAND]


def test_what_a_user_types_is_still_normalised():
    assert storage.normalise("s3://bucket//a/") == "s3://bucket/a"


@each(
    ("path", "uri"),
    [
        ("x.jpg", "s3://b/in/lists/x.jpg"),
        ("./x.jpg", "s3://b/in/lists/x.jpg"),
        ("../x.jpg", "s3://b/in/x.jpg"),
        (".././../x//./y.jpg ", "s3://b/x//./y.jpg "),
        (".x.jpg", "s3://b/in/lists/.x.jpg"),
    ],
)
def test_a_relative_path_leads_from_the_list_in_a_bucket(path, uri):
    assert uris.resolve("s3://b/in/lists", path) == uri


def test_a_relative_path_out_of_the_bucket_is_refused():
    with pytest.raises(BadRequest, match=r"\.\./\.\./x\.jpg: leads out of the bucket b"):
        uris.resolve("s3://b/in", "../../x.jpg")


def test_local_paths_keep_their_blanks_and_signs(tmp_path):
    names = ["a#1.jpg", "b%20.jpg", "c d .jpg ", " e.jpg", "sub/../f.jpg"]
    (tmp_path / "list.csv").write_text("\n".join(["uri", *names, ""]))
    read = [*names[:4], "f.jpg"]
    assert listed_uris(tmp_path / "list.csv") == [f"{tmp_path}/{name}" for name in read]


def test_a_blank_that_the_header_has_too_belongs_to_the_comma(tmp_path):
    (tmp_path / "list.csv").write_text("label, uri\nglioma, a.jpg\nglioma,  b.jpg\nglioma,c.jpg\n")
    assert listed_uris(tmp_path / "list.csv") == [f"{tmp_path}/{name}" for name in ("a.jpg", " b.jpg", "c.jpg")]


def test_a_member_is_named_as_the_archive_names_it(tmp_path):
    members = ("x//1.jpg", "../2.jpg", "./3.jpg", "http://4/5.jpg", "6.jpg ", "7%41.jpg", "8#9.jpg")
    (tmp_path / "list.csv").write_text("\n".join(["uri", *(f"sub/../a.tar#{name}" for name in members), ""]))
    assert listed_uris(tmp_path / "list.csv") == [f"{tmp_path}/a.tar#{name}" for name in members]


def test_a_file_named_like_a_member_is_read(tmp_path):
    """No archive is there, or it has no such member; or it lies in a folder that is named like a member."""
    (tmp_path / "real.zip").write_bytes(zip_of({"1.jpg": b"member"}))
    for name in ("none.zip#1.jpg", "real.zip#2.jpg", "folder.zip#3/4.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"file")
    (tmp_path / "folder.zip#3" / "b.tar").write_bytes(tar_of({"5.jpg": b"member"}))
    (tmp_path / "dir.zip").mkdir()
    (tmp_path / "dir.zip" / "6.jpg").write_bytes(b"file")
    names = [
        "none.zip#1.jpg", "real.zip#1.jpg", "real.zip#2.jpg", "folder.zip#3/4.jpg", "folder.zip#3/b.tar#5.jpg",
        "dir.zip#6.jpg", "real.zip#x://y.jpg",
    ]  # fmt: skip
    (tmp_path / "list.csv").write_text("\n".join(["uri", *names, ""]))
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        images = [image for _, image in resolve_rows(open_file_list(str(tmp_path / "list.csv")), indexes)]
    assert [image.uri for image in images] == [f"{tmp_path}/{name}" for name in names]
    assert [os.path.relpath(image.container, tmp_path) if image.container else None for image in images] == [
        None, "real.zip", None, None, "folder.zip#3/b.tar", None, None
    ]  # fmt: skip
    refused = [(image.refused or "").partition(":")[0] for image in images]
    assert refused == ["", "", "", "", "", "not_found", "not_found"]


def test_the_predictions_of_a_folder_are_a_list(score, tmp_path):
    root = tmp_path / "in"
    for number, name in enumerate(("a#1.jpg", "b%20c.jpg", "glioma /d e.jpg", "f.zip#1.jpg", "g.tar#2/h.jpg")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_bytes(number))
    members = ("x//1.jpg", "x y.jpg", "2#3.jpg", "4%41.jpg", "../unsafe.jpg")
    (root / "m#n%20.tar").write_bytes(tar_of({name: image_bytes(10 + k) for k, name in enumerate(members)}))
    (root / "notumor.zip").write_bytes(zip_of({f"{k}//{k}.jpg": image_bytes(20 + k) for k in range(3)}))
    images = [image_bytes(30), image_bytes(31)]
    pq.write_table(pa.table({"image": images, "label": ["glioma", "notumor"]}), root / "rows #1.parquet")
    latin = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(latin)
    for name, data in ((b"a%.jpg", image_bytes(40)), (b"b.tar", tar_of({"50%25#.jpg": image_bytes(41)}))):
        with open(latin + b"/" + name, "wb") as file:
            file.write(data)
    first = score(root, tmp_path / "run")
    assert len(first) == 17 and sum(row["error"] is not None for row in first.values()) == 1
    again = score(predictions_of(tmp_path / "run", tmp_path / "again.parquet"), tmp_path / "again")
    assert again == {uri: row | {"group": again[uri]["group"]} for uri, row in first.items()}


def test_frames_below_a_path_that_is_not_utf8_are_found_again_by_a_list_of_predictions(score, tmp_path):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    root.mkdir()
    (root / "f#%.dcm").write_bytes(dicom(np.stack([slice_pixels(seed=k) for k in range(2)])))
    (root / "v.nii.gz").write_bytes(nifti())
    first = score(str(root), tmp_path / "run")
    again = score(predictions_of(tmp_path / "run", tmp_path / "again.parquet"), tmp_path / "again")
    assert {uri.partition("#")[2] for uri in first} >= {"1", "2", "z=9"}
    for name in ("status", "content_hash", "predicted"):
        assert {uri: row[name] for uri, row in again.items()} == {uri: row[name] for uri, row in first.items()}


def test_the_predictions_of_a_bucket_are_a_list(strict_s3, score, monkeypatch, tmp_path):
    backend = S3Objects(settle_s=0.2, sleep=lambda _: None)
    monkeypatch.setattr(storage, "_s3", lambda: backend)
    names = [f"in/{key}" for key in (*AS_THEY_STAND, *PLAIN) if key.strip("/ ").endswith("jpg")]
    for number, key in enumerate(names):
        strict_s3.put(key, image_bytes(number))
    strict_s3.put("in/m #1.tar", tar_of({f"x//{k}.jpg": image_bytes(50 + k) for k in range(3)}))
    first = score(f"{strict_s3.root}/in", tmp_path / "run")
    assert all(row["error"] is None for row in first.values())
    assert {f"{strict_s3.root}/in//a.jpg", f"{strict_s3.root}/in/x//b.jpg"} < set(first)
    again = score(predictions_of(tmp_path / "run", tmp_path / "again.parquet"), tmp_path / "again")
    assert again == {uri: row | {"group": again[uri]["group"]} for uri, row in first.items()}
    rows = "".join(f"{strict_s3.bucket},{key}\n" for key in names)
    (tmp_path / "inventory.csv").write_text(f"bucket,key\n{rows}{strict_s3.bucket},/\n")
    listed = score(tmp_path / "inventory.csv", tmp_path / "listed")
    for uri in first.keys() & listed.keys():
        assert listed[uri]["content_hash"] == first[uri]["content_hash"]
    assert listed[f"{strict_s3.root}//"]["error"] == "not_found"
    own = [listed[f"{strict_s3.root}/{name}"]["content_hash"] for name in names]
    assert len(set(own)) == len(names), "each key is an object of its own"


def test_a_bucket_is_no_image_but_what_it_holds(strict_s3, tmp_path):
    (tmp_path / "list.csv").write_text(f"uri\n{strict_s3.root.split('/in')[0]}\ns3://{strict_s3.bucket}/\n")
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        rows = [row for row, _ in resolve_rows(open_file_list(str(tmp_path / "list.csv")), indexes)]
    assert [row.is_prefix for row in rows] == [True, True]
