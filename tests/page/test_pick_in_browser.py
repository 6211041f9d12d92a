"""The whole way without labels: score, pick, answer on the page in a browser, export, estimate."""

import asyncio
from pathlib import Path

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES, untrained
from support.page.browser import CHROMIUM, Tab, in_browser
from support.scoring.runs import brightness, engine_of, request_for, score_here

from brainray.commands.estimate import estimate
from brainray.commands.pick import pick

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")
TILES = "[...document.querySelectorAll('.tile[data-uri]')]"
IMAGES = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("pick")
    (root / "archive").mkdir()
    for i in range(IMAGES):
        (root / "archive" / f"{i:02d} <b>.jpg").write_bytes(image_bytes(i))
    bundle = untrained(root / "model")
    request = request_for(root / "archive", root / "run", bundle, shard_size=8)
    score_here(request, engine_of(bundle, predict=brightness))
    return root


def test_answers_by_key_come_back_as_an_estimate(run):
    result = pick(run / "run", labels=20)

    async def visit(tab: Tab):
        await tab.open(Path(result.page))
        await tab.save_downloads(run)
        tiles = await tab.run(f"{TILES}.map((each) => [each.dataset.uri, each.dataset.predicted])")
        pictures = await tab.run("[...document.images].map((each) => each.naturalWidth)")
        await tab.run(f"{TILES}[0].focus()")
        for key in ("w", "n", "s", *"r" * 16):
            await tab.press(key)
        note = await tab.run("document.querySelector('#answers p').textContent")
        await tab.run("document.querySelector('#export').click()")
        while not (run / "brainray-answers.csv").exists():
            await asyncio.sleep(0.02)
        return tiles, pictures, note, tab.requests, tab.complaints

    tiles, pictures, note, requests, complaints = in_browser(visit)
    assert [uri for uri, _ in tiles] == result.rows["uri"].to_pylist()
    assert [predicted for _, predicted in tiles] == result.rows["predicted"].to_pylist()
    assert pictures == [192] * 20
    assert note.startswith("brainray estimate RUN --labels brainray-answers.csv says")
    assert [url for url in requests if not url.startswith("data:")] == [Path(result.page).as_uri()]
    assert complaints == []
    found = estimate(run / "run", run / "brainray-answers.csv")
    labels = found.figures["labels"]
    assert labels == {
        "answered": 18,
        "unclear": 1,
        "no_image": 1,
        "gaps": 1,
        "contradictory": 0,
        "not_reached": 1,
        "other_content": 0,
        "not_picked": 0,
    }
    assert found.accuracy.low < found.accuracy.value < 1
    assert set(found.prevalence) == set(CLASSES)


def test_without_thumbnails_the_page_has_no_pictures(run):
    page = Path(pick(run / "run", labels=20, seed=1, thumbnails=False).page).read_text()
    assert "data:image" not in page
    assert "Made without thumbnails" in page
    assert "--seed 1 says" in page
