"""Files that change between one page and several, in runs with pseudonyms: no page is doubled, no name is lost."""

import os

import pyarrow.parquet as pq
import pytest
from support.imaging.encoded import packed
from support.imaging.images import image_bytes
from support.imaging.paged import pages, tiff
from support.inputs.archives import write_packed
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here
from support.storage.s3_servers import decided_s3, s3_endpoints

__all__ = ["decided_s3", "s3_endpoints"]  # fixtures
NIGHTS = [(1, 3, 2), (3, 1, 2), (3, 3, 1), (1, 1, 3)]  # pages of x.tif, y.tif and z.tif


def of_pages(count: int, night: int) -> bytes:
    return (tiff(pages(count)) if count > 1 else packed(pages(1)[0], "TIFF")) + bytes(night)


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_nightly_run_of_an_archive_goes_on_whatever_pages_its_files_have(name, night, tmp_path):
    (tmp_path / "in").mkdir()
    for number, counts in enumerate(NIGHTS if name == "a.zip" else NIGHTS[:2]):
        files = {f"jane/{file}.tif": of_pages(count, number) for file, count in zip("xyz", counts, strict=True)}
        write_packed(tmp_path / "in" / name, {"jane/a.jpg": image_bytes(1)} | files)
        os.utime(tmp_path / "in" / name, ns=(number * 10**18, number * 10**18))
        for _ in range(2):
            found = night(tmp_path / "in")
            assert len(found) == len(set(found))
            assert {each.replace("#frame=", "#") for each in found} == expected(counts)
    assert not any("jane" in row["uri"] for row in rows(tmp_path / "run"))


def expected(counts) -> set[str]:
    found = {"a.jpg"}
    for name, count in zip("xyz", counts, strict=True):
        found |= {f"{name}.tif#{page + 1}" for page in range(count)} if count > 1 else {f"{name}.tif"}
    return found


@pytest.fixture
def night(tmp_path, bundle):
    """Scores and gives the images of the run by their real names."""

    def score(root):
        options = {"pseudonymise_uris": str(tmp_path / "names"), "shard_size": 2}
        score_here(request_for(root, tmp_path / "run", bundle, **options), engine_of(bundle, predict=brightness))
        table = pq.read_table(tmp_path / "names" / "names")
        real = dict(zip(table["pseudonym"].to_pylist(), table["real"].to_pylist(), strict=True))
        return [real[row["uri"]].rpartition("/")[2] for row in rows(tmp_path / "run")]

    return score


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_nightly_run_goes_on_whatever_pages_files_have(place, night, tmp_path, request):
    server = request.getfixturevalue("decided_s3") if place == "bucket" else None
    root = f"{server.root}/in" if server else tmp_path / "in"
    (tmp_path / "in").mkdir()

    def put(name: str, data: bytes) -> None:
        server.put(f"in/{name}", data) if server else (root / name).write_bytes(data)

    put("a.jpg", image_bytes(1))
    for number, counts in enumerate(NIGHTS[:2] if server else NIGHTS):
        for name, count in zip("xyz", counts, strict=True):
            put(f"{name}.tif", of_pages(count, number))
        found = night(root)
        assert len(found) == len(set(found)) and set(found) == expected(counts)
        assert sorted(night(root)) == sorted(found)
