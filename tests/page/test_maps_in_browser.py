"""The maps of the page in a browser: a box to tick shows them over the thumbnails, also where scripts are off."""

from pathlib import Path

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import untrained
from support.page.browser import CHROMIUM, Tab, in_browser
from support.scoring.runs import engine_of, request_for, score_here

from brainray.config import Explain

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")
# Of each map: whether it is seen, and how far it lies from the thumbnail under it, in pixels of the page.
MAPS = """[...document.querySelectorAll('.map')].map((map) => {
  const over = map.getBoundingClientRect(), under = map.parentElement.querySelector('img').getBoundingClientRect();
  const sides = ['left', 'top', 'right', 'bottom'].map((side) => Math.abs(over[side] - under[side]));
  return [over.width > 0, Math.max(...sides)];
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("maps")
    (root / "archive").mkdir()
    for i in range(4):
        (root / "archive" / f"{i}.jpg").write_bytes(image_bytes(i))
    bundle = untrained(root / "model", image_px=64)
    score_here(
        request_for(root / "archive", root / "run", bundle, report=True, explain=Explain(most=3)), engine_of(bundle)
    )
    return root / "run" / "summary" / "report.html"


@pytest.mark.parametrize("scripts", [True, False])
def test_ticking_the_box_lays_the_maps_over_their_thumbnails(page, scripts):
    async def visit(tab: Tab):
        await tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        await tab.open(page)
        await tab.call("Emulation.setScriptExecutionDisabled", value=False)  # for the questions below
        before = await tab.run(MAPS)
        text = await tab.run("document.querySelector('label[for=show-maps]').textContent")
        await tab.run("document.querySelector('#show-maps').focus()")
        await tab.press(" ")
        return before, text, await tab.run(MAPS)

    before, text, after = in_browser(visit)
    assert text == "Show where the score came from (3 images)"
    assert [seen for seen, _ in before] == [False] * 3
    assert [seen for seen, _ in after] == [True] * 3
    assert max(off for _, off in after) < 1.5
