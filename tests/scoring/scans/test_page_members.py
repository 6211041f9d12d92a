"""Pages of TIFF and GIF files in archives have the rows, and predictions, that they have in a folder."""

import csv
import io
import os
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from support.each import each
from support.imaging.encoded import packed
from support.imaging.paged import gif, moving, pages, tiff, with_kinds
from support.inputs.archives import tar_of, write_in_folder, write_packed, zip_of
from support.models.bundles import CLASSES
from support.scoring.runs import Stopped, brightness, engine_of, request_for, rows, rows_by_name, score_here

from brainray.config import MaxFailed
from brainray.inputs.archives import list_members
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.archives.inflating import Inflating
from brainray.inputs.frames.sources import within
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.listing import Lister, scan
from brainray.inputs.ranges import plan_reads

NOISE = np.random.default_rng(5).integers(0, 255, (3, 700, 700), np.uint8)
FRAME = b"\x2c" + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x44\1\0"
MEMBERS = {
    "a/many.tif": tiff(pages(3)),
    "a/lzw.TIFF": tiff(pages(3), compression="tiff_lzw"),
    "a/big.tif": tiff([Image.fromarray(page) for page in NOISE], big_tiff=True),
    "a/pyramid.tif": with_kinds(tiff(pages(3)), {1: 1, 2: 4}),
    "a/moving.gif": gif(moving(4)),
    "b/one.tiff": packed(pages(1)[0], "TIFF"),
    "b/one.gif": packed(pages(1)[0], "GIF"),
    "b/cut.gif": gif(pages(3))[:-400],
    "b/cut.tif": tiff(pages(3))[:-200],
    "b/no.tif": packed(pages(1)[0], "PNG"),
    "b/gif.tif": gif(pages(2)),
    "b/none.tif": b"no TIFF at all",
    "b/many.gif": b"GIF89a\1\0\1\0\x80\0\0" + b"\0\0\0\xff\xff\xff" + 10_001 * FRAME + b";",
}
SAME = ("status", "error", "error_detail", "confidence", "size_bytes", "width", "content_hash", "group", "label")


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory, bundle):
    folder = write_in_folder(tmp_path_factory.mktemp("in"), MEMBERS)
    return rows_by_name(folder, tmp_path_factory.mktemp("run"), bundle)


def write_stored(path):
    path.write_bytes(zip_of(MEMBERS, zipfile.ZIP_STORED))
    return path


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip", "stored.zip"])
def test_pages_in_an_archive_have_the_rows_that_they_have_in_a_folder(name, in_a_folder, tmp_path, bundle):
    path = tmp_path / name
    source = write_stored(path) if name == "stored.zip" else write_packed(path, MEMBERS)
    found = rows_by_name(source, tmp_path / "run", bundle)
    told = {name: {column: row[column] for column in SAME} for name, row in found.items()}
    assert told == {name: {column: row[column] for column in SAME} for name, row in in_a_folder.items()}
    assert {f"a/{file}#3" for file in ("many.tif", "lzw.TIFF", "big.tif", "moving.gif")} < set(found)
    assert len({found[f"a/many.tif#{number}"]["confidence"] for number in (1, 2, 3)}) == 3
    assert found["b/many.gif"]["error"] == "too_large"


def test_files_of_one_name_in_an_archive_have_their_pages_each(tmp_path, bundle):
    twice = [
        ("x.tif", tiff(pages(2))),
        ("x.tif", tiff(pages(4)[2:])),
        ("x.gif", gif(pages(2))),
        ("x.gif", MEMBERS["a/moving.gif"]),
    ]
    with pytest.warns(UserWarning, match="Duplicate name"):
        (tmp_path / "a.zip").write_bytes(zip_of(twice))
    found = rows_by_name(tmp_path / "a.zip", tmp_path / "run", bundle)
    assert set(found) == {
        *(f"{file}#{page}" for file in ("x.tif", "x.tif#2", "x.gif") for page in (1, 2)),
        *(f"x.gif#2#{page}" for page in range(1, 5)),
    }
    assert {row["status"] for row in found.values()} == {"ok"}
    assert len({found[f"{file}#{page}"]["confidence"] for file in ("x.tif", "x.tif#2") for page in (1, 2)}) == 4


def test_a_list_names_pages_of_members_and_the_label_of_a_file_holds_for_them(tmp_path, bundle):
    archive = write_packed(tmp_path / "a.zip", MEMBERS)
    table = tmp_path / "labels.csv"
    table.write_text(f"image,label\na.zip#a/many.tif,{CLASSES[0]}\na.zip#a/moving.gif#frame=2,{CLASSES[1]}\n")
    found = rows_by_name(archive, tmp_path / "run", bundle, label_file=read_label_file(str(table), bundle.classes))
    assert {name: row["label"] for name, row in found.items() if row["label"]} == {
        **{f"a/many.tif#{number}": CLASSES[0] for number in (1, 2, 3)},
        "a/moving.gif#2": CLASSES[1],
    }
    names = ["a/many.tif#frame=3", "a/moving.gif#frame=2", "a/many.tif#frame=7"]
    with open(tmp_path / "list.csv", "w", newline="") as sink:
        csv.writer(sink).writerows([["uri"], *([f"{archive}#{name}"] for name in names)])
    score_here(
        request_for(tmp_path / "list.csv", tmp_path / "again", bundle, max_failed=MaxFailed(share=1.0)),
        engine_of(bundle, predict=brightness),
    )
    again = {row["uri"].partition("#")[2]: row for row in rows(tmp_path / "again")}
    assert [again[name]["confidence"] for name in names] == [
        found["a/many.tif#3"]["confidence"],
        found["a/moving.gif#2"]["confidence"],
        None,
    ]


@each("kind", ["tar", "zip"])
def test_a_frame_of_an_animation_in_an_archive_counts_as_all_that_is_read_for_it(kind, tmp_path):
    """Frames that come before it are read, too: with their shares counted, 96 reads of a bucket held 5 GB."""
    content = gif(moving(20))
    path = tmp_path / f"a.{kind}"
    path.write_bytes(zip_of({"m.gif": content}, zipfile.ZIP_STORED) if kind == "zip" else tar_of({"m.gif": content}))
    with ArchiveIndexes(str(tmp_path / f"indexes of {kind}")) as indexes:
        (table,) = scan(Lister([str(path)], indexes, classes=CLASSES), str(tmp_path / kind)).batches()
    reads = list(plan_reads(table))
    assert len(reads) == 20 and min(read.size_bytes for read in reads) >= len(content)


def test_a_run_that_has_a_member_as_one_image_keeps_it_so_until_the_archive_changes(tmp_path, bundle, monkeypatch):
    files = {"many.tif": tiff(pages(3)), "moving.gif": gif(moving(3)), "one.png": packed(pages(1)[0])}
    folder, output, archives = tmp_path / "in", tmp_path / "run", ("a.tar", "a.tgz", "a.zip")
    folder.mkdir()
    for archive in archives:
        write_packed(folder / archive, files)
    with monkeypatch.context() as earlier:
        earlier.setattr("brainray.inputs.archives.index._FORMAT", 7)
        for kind in ("tar", "zip"):
            earlier.setattr(f"brainray.inputs.archives.{kind}_file.is_paged", lambda _: False)
        before = rows_by_name(folder, output, bundle)
    assert set(before) == {f"{archive}#{name}" for archive in archives for name in files}
    for _ in range(2):  # of the first night the index is made anew, of the second it is there
        outcome = score_here(request_for(folder, output, bundle, group_by="folder"), engine_of(bundle))
        assert (outcome.scored, bool(outcome.plan.changes)) == (0, False), "its images have their predictions"
    paged = {*(f"{file}#{page}" for file in ("many.tif", "moving.gif") for page in (1, 2, 3)), "one.png"}
    by_page = {f"{archive}#{name}" for archive in archives for name in paged}
    with pytest.raises(Stopped):
        anew = request_for(folder, output, bundle, group_by="folder", rescore=True, shard_size=2)
        score_here(anew, engine_of(bundle, predict=brightness, only=1))
    assert set(rows_by_name(folder, output, bundle, rescore=True)) == by_page, "also when it is gone on with"
    assert set(rows_by_name(folder, output, bundle)) == by_page, "afterwards they stay pages"


def test_an_archive_that_changes_has_each_file_as_one_image_or_as_its_pages(tmp_path, bundle):
    output = tmp_path / "run"
    for count in (1, 3, 1, 2):
        content = tiff(pages(count)) if count > 1 else packed(pages(1)[0], "TIFF")
        archive = write_packed(tmp_path / "a.tar", {"x.tif": content, "y.png": packed(pages(1)[0])})
        os.utime(archive, ns=(count * 10**18, count * 10**18))
        found = {name for name, row in rows_by_name(archive, output, bundle).items()}
        assert ("x.tif" in found) == (count == 1), f"with {count} pages the run has {sorted(found)}"
        assert "y.png" in found


def frames_of(kind, data, **options) -> dict[str, int | None]:
    tables = list_members(kind, io.BytesIO(data), **options)
    return {row["name"]: row["frames"] for table in tables for row in table.to_pylist()}


def test_what_a_member_unpacks_to_is_read_in_little_memory_and_not_from_its_beginning_for_ever():
    content = bytes(30 << 20) + b"tags"
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    stored = deflater.compress(content) + deflater.flush()
    fetch = Inflating(within(stored), len(stored))
    tracemalloc.start()
    assert fetch(len(content) - 4, 100) == b"tags"
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert fetch(len(content) - (1 << 20), 2) == bytes(2)
    assert fetch(0, 8) == bytes(8)
    assert fetch(20 << 20, 8) == bytes(8)
    assert fetch(0, 8) == b"", "a chain that leads back and forth ends"
    cut = Inflating(within(stored[:-9]), len(stored) - 9)
    assert cut(len(content) - 4, 4) != b"tags"


def led_back(content: bytes, gap: int) -> bytes:
    """A TIFF of several pages whose first tags stand at the end, far behind those of the second page."""
    first = int.from_bytes(content[4:8], "little")
    length = 2 + 12 * int.from_bytes(content[first : first + 2], "little") + 4
    at = len(content) + gap
    return (
        content[:4]
        + at.to_bytes(4, "little")
        + content[8:][:0]
        + content[8:]
        + bytes(gap)
        + content[first : first + length]
    )


def test_tags_that_lead_far_back_in_a_compressed_tar_end_the_count_and_not_the_listing():
    files = {"back.tif": led_back(tiff(pages(3)), 12 << 20), "after.tif": tiff(pages(2))}
    assert frames_of("zip", zip_of(files)) == frames_of("tar", tar_of(files)) == {"back.tif": 3, "after.tif": 2}
    assert frames_of("compressed tar", tar_of(files, mode="w:gz")) == {"back.tif": None, "after.tif": 2}


def test_of_a_zip_in_a_bucket_a_sample_is_asked_for_pages(monkeypatch):
    asked = []
    monkeypatch.setattr("brainray.inputs.archives.zip_file.pages_in", lambda fetch, size: asked.append(size) or 1)
    files = {f"{folder}/{k}.tif": tiff(pages(1)) for folder in "ab" for k in range(50)}
    frames_of("zip", zip_of(files), ask_each=False)
    assert len(asked) == 2
    frames_of("zip", zip_of(files))
    assert len(asked) == 102
