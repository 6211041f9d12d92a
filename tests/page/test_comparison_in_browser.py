"""The page of a comparison in a browser, where one is on the PATH; `.ci/run` installs one."""

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import derived, untrained
from support.page.browser import CHROMIUM, Tab, in_browser
from support.scoring.runs import engine_of, request_for, score_here

from brainray.commands.compare import compare

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")


def test_it_asks_for_nothing_shows_the_flipped_images_and_fits_a_phone(tmp_path):
    (tmp_path / "archive" / "glioma").mkdir(parents=True)
    for i, name in enumerate(("a, b.jpg", 'say "no".jpg', "脑.jpg", "e <b>.jpg")):
        (tmp_path / "archive" / "glioma" / name).write_bytes(image_bytes(i))
    bundle = untrained(tmp_path / "model")
    for name, bias in (("first", (99.0, 0.0, 0.0, 0.0)), ("second", (0.0, 99.0, 0.0, 0.0))):
        other = derived(bundle, tmp_path / f"{name}-model", class_bias=bias)
        score_here(request_for(tmp_path / "archive", tmp_path / name, other), engine_of(other))
    runs = [str(tmp_path / name) for name in ("first", "second")]
    assert compare(*runs, output=str(tmp_path / "out"), thumbnails=True, say=lambda _: None).flipped == 4
    page = tmp_path / "out" / "compare.html"

    async def visit(tab: Tab):
        await tab.open(page)
        heights = await tab.run("[...document.querySelectorAll('main > section')].map((each) => each.offsetHeight)")
        pictures = await tab.run("[...document.images].map((each) => each.naturalWidth)")
        overflow = []
        for width, dark in ((1300, False), (390, True)):
            await tab.picture(tmp_path / f"{width}.png", width=width, height=900, dark=dark)
            overflow.append(await tab.run("document.documentElement.scrollWidth - window.innerWidth"))
        return heights, pictures, overflow, tab.requests, tab.complaints

    heights, pictures, overflow, requests, complaints = in_browser(visit)
    assert len(heights) == 5 and min(heights) > 40
    assert pictures == [192] * 4
    assert max(overflow) <= 0
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert complaints == []
