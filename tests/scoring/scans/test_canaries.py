"""Nothing of a file but its pixels gets out: images with canaries in every text are scored, and outputs searched."""

import base64
import gzip
import hashlib
import io
import logging
import os
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from support.imaging.canaries import CANARY, betrays, confidential, corpus
from support.scoring.runs import rows

from brainray.cli.app import run
from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.decode import Decoded, decode, luminance, read_header

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about the values that are written here
SPEC = ImageSpec(image_px=32)
SCORED = 35  # images of the corpus that decode: a corpus that is not read would betray nothing


def files_below(folder) -> dict[Path, bytes]:
    found = (Path(where, name) for where, _, names in os.walk(folder) for name in names)
    return {path: path.read_bytes() for path in found if path.is_file()}


def test_the_search_finds_the_canary_in_every_form():
    chunked, table = io.BytesIO(), io.BytesIO()
    info = PngImagePlugin.PngInfo()
    info.add_text("who", f"it is {CANARY}, compressed", zip=True)
    Image.new("L", (8, 8)).save(chunked, "PNG", pnginfo=info)
    pq.write_table(pa.table({"a": [f"it is {CANARY}"] * 100}), table, compression="zstd")
    hidden = [CANARY.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")]
    hidden += [base64.b64encode(b"x" * before + CANARY.encode() + b"yz") for before in range(6)]
    hidden += [CANARY.encode().hex().encode(), chunked.getvalue(), table.getvalue(), gzip.compress(hidden[0])]
    hidden += [b"<img src='data:image/png;base64," + base64.b64encode(chunked.getvalue()) + b"'>"]
    for each in hidden:
        assert betrays(b"before " * (each[:1] not in b"\x89P\x1f") + each), each
    assert not betrays(b"nothing" + zlib.compress(b"nothing"))


def test_the_corpus_has_the_canary_in_every_attribute_of_the_table():
    assert len(confidential()) > 600
    assert corpus()["whole.dcm"].count(CANARY.encode()) > 550
    whole = [name for name in corpus() if "cut" not in name and "begin" not in name]
    assert [name for name in whole if not betrays(corpus()[name])] == []


def test_no_decoder_tells_what_a_file_says(caplog, capfd):
    decoded, files = 0, corpus()
    told: dict[str, str] = {}
    with caplog.at_level(logging.DEBUG):
        for name, content in files.items():
            try:
                found = decode(content, SPEC)
                luminance(content)
                decoded += isinstance(found, Decoded)
                told[name] = f"{found.note} {found.facts}"
            except ImageError as exc:
                told[name] = f"{exc} {read_header(content)}"
    assert decoded >= SCORED
    assert [name for name, text in told.items() if betrays(text.encode())] == []
    shown = capfd.readouterr()
    assert not any(betrays(text.encode()) for text in (caplog.text, shown.out, shown.err))


@pytest.mark.timeout(600)
def test_no_output_or_log_of_a_run_holds_what_a_file_says(tmp_path, bundle, local_ray, capfd, monkeypatch):
    import ray

    root, output, key = tmp_path / CANARY, tmp_path / "run", tmp_path / "key"
    root.mkdir()
    for name, content in corpus().items():
        (root / f"{CANARY} {name}").write_bytes(content)
    (root / f"{CANARY} gone.jpg").symlink_to(root / "nowhere")
    key.write_bytes(secret := hashlib.sha256(b"a key").digest())  # nothing that Parquet may hold by chance
    session = Path(ray.get_runtime_context().gcs_address and ray._private.worker._global_node.get_session_dir_path())
    before = {path: len(content) for path, content in files_below(session / "logs").items()}
    options = ["--any-suffix", "--max-failed", "100%", "--uid-key", str(key), "--shard-size", "50"]
    options += ["--pseudonymise-uris", str(tmp_path / "names")]
    assert run(["score", "--input", str(root), "--model", bundle.uri, "--output", str(output), *options]) == 0
    shown = capfd.readouterr()
    found = rows(output)
    assert {row["status"] for row in found} == {"ok", "error", "excluded"}
    assert sum(row["status"] == "ok" for row in found) >= SCORED
    assert len({row["error"] for row in found}) >= 5
    assert any(row["series_uid"] for row in found)
    logs = {path: content[before.get(path, 0) :] for path, content in files_below(session / "logs").items()}
    written = files_below(output)
    assert {path.suffix for path in written} >= {".parquet", ".json", ".html", ".csv", ".png"}
    said = {Path("stdout"): shown.out.encode(), Path("stderr"): shown.err.encode()}
    assert [path for path, content in (written | logs | said).items() if betrays(content)] == []
    assert [path for path, content in (written | logs | said).items() if secret in content] == []
    thumbnails = (written[output / "summary" / "report.html"]).count(b"data:image/")
    assert thumbnails > 10
