"""The page in a browser, where one is on the PATH; `.ci/run` installs one."""

import csv
from pathlib import Path

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES, untrained
from support.page.browser import CHROMIUM, Tab, in_browser
from support.scoring.runs import contents, engine_of, request_for, score_here

from brainray.commands.report import report
from brainray.inputs.labels.answer_file import read_label_file

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")
NAMES = ("a, b.jpg", 'say "no".jpg', "c.jpg", "d.jpg", "脑.jpg", "e <b>.jpg")
CODES = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowDown": 40, "r": 82}
TILES = "[...document.querySelectorAll('.tile[data-uri]')]"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    (root / "archive").mkdir()
    for i, name in enumerate(NAMES):
        (root / "archive" / name).write_bytes(image_bytes(i))
    (root / "archive" / "broken.jpg").write_bytes(image_bytes(9)[:300])
    bundle = untrained(root / "model")
    score_here(request_for(root / "archive", root / "run", bundle, report=True), engine_of(bundle))
    return root


def page_of(run) -> Path:
    return Path(run, "run", "summary", "report.html")


def test_it_asks_for_nothing_complains_of_nothing_and_shows_every_chapter(run):
    async def visit(tab: Tab):
        await tab.open(page_of(run))
        heights = await tab.run("[...document.querySelectorAll('main > section')].map((each) => each.offsetHeight)")
        pictures = await tab.run("[...document.images].map((each) => each.naturalWidth)")
        overflow = []
        for width, dark in ((1300, False), (390, True)):
            await tab.picture(run / f"{width}.png", width=width, height=900, dark=dark)
            overflow.append(await tab.run("document.documentElement.scrollWidth - window.innerWidth"))
        return heights, pictures, overflow, tab.requests, tab.complaints

    heights, pictures, overflow, requests, complaints = in_browser(visit)
    assert len(heights) == 7
    assert min(heights) > 40
    assert pictures == [192] * len(NAMES)
    assert max(overflow) <= 0
    assert [url for url in requests if not url.startswith("data:")] == [page_of(run).as_uri()]
    assert complaints == []


def test_it_is_whole_where_scripts_are_off(run):
    async def visit(tab: Tab):
        await tab.call("Emulation.setScriptExecutionDisabled", value=True)
        await tab.open(page_of(run))
        found = await tab.call("Accessibility.getFullAXTree")
        return [node["name"]["value"] for node in found["nodes"] if node["role"]["value"] in ("heading", "button")]

    names = in_browser(visit)
    assert [name for name in names if name.startswith(("Does it", "What to", "How good", "By group", "Is this"))]
    assert not [name for name in names if "Export" in name or name == "Right"]  # no button that does nothing


def test_what_is_searched_for_is_marked(run):
    async def visit(tab: Tab):
        await tab.open(page_of(run))
        await tab.run("document.querySelector('#search').focus()")
        await tab.call("Input.insertText", text="SAY")
        marked = await tab.run("[...document.querySelectorAll('.hit')].map((each) => each.dataset.uri)")
        return marked, await tab.run("document.querySelector('output').textContent")

    marked, said = in_browser(visit)
    assert [uri.rpartition("/")[2] for uri in marked] == ['say "no".jpg']
    assert said == "1 found here"


def test_answers_by_key_are_kept_and_come_back_as_labels(run):
    async def visit(tab: Tab):
        await tab.open(page_of(run))
        await tab.save_downloads(run)
        await tab.run(f"{TILES}[0].focus()")
        # Each answer goes on to the next tile; the last one could not be scored and is neither right nor wrong.
        for key in ("r", "2", "w", "n", "s", "r", "r", "1", "n"):
            await tab.press(key)
        await tab.run("document.querySelector('#answers input').value = 'A. \"B\"'")
        await tab.run("document.querySelector('#answers input').dispatchEvent(new Event('input'))")
        await tab.call("Page.reload")
        await tab.wait_for("Page.loadEventFired")
        said = await tab.run("document.querySelector('#answers b').textContent")
        tiles = await tab.run(f"{TILES}.map((each) => [each.dataset.uri, each.dataset.predicted])")
        await tab.export_answers(run)
        return said, tiles

    said, tiles = in_browser(visit)
    assert said.endswith("6 of 7 answered, 1 skipped")
    rows = list(csv.DictReader((run / "brainray-answers.csv").read_text().splitlines()))
    second = "right" if tiles[1][1] == CLASSES[1] else "wrong"
    assert [(row["uri"], row["label"], row["answer"]) for row in rows] == [
        (tiles[0][0], tiles[0][1], "right"),
        (tiles[1][0], CLASSES[1], second),
        (tiles[2][0], "", "wrong"),
        (tiles[3][0], "", "no_image"),
        (tiles[5][0], tiles[5][1], "right"),
        (tiles[6][0], "", "no_image"),
    ]
    assert tiles[6][0].endswith("broken.jpg")
    assert {row["who"] for row in rows} == {'A. "B"'}
    assert all(row["when"].endswith("Z") for row in rows)
    report(str(run / "run"), labels=str(run / "brainray-answers.csv"), say=print)
    given = {uri: row["label"] for uri, row in contents(run / "run").items() if row["label"]}
    assert given == {row["uri"]: row["label"] for row in rows if row["label"]}
    assert "3 labels were given after the fact" in page_of(run).read_text()
    labels = read_label_file(str(run / "brainray-answers.csv"), CLASSES)
    bundle = untrained(run / "model")
    score_here(request_for(run / "archive", run / "run", bundle, label_file=labels, report=True), engine_of(bundle))
    given = {uri: row["label"] for uri, row in contents(run / "run").items() if row["label"]}
    assert given == {row["uri"]: row["label"] for row in rows if row["label"]}


def test_answers_and_hits_are_reached_by_keys_alone_and_told(run):
    focused = "`${document.activeElement.tagName} ${document.activeElement.textContent.trim().slice(0, 5)}`"

    async def visit(tab: Tab):
        async def press(name, text=""):
            for kind in ("keyDown", "keyUp"):
                await tab.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=name,
                    code=name,
                    text=text,
                    windowsVirtualKeyCode=CODES[name],
                )

        await tab.open(page_of(run))
        await tab.run("document.querySelector('#search').focus()")
        await tab.call("Input.insertText", text="JPG")
        said = []
        for _ in range(2):
            await press("Enter", "\r")
            said.append(await tab.run("document.querySelector('output').textContent"))
        await press("ArrowDown")
        reached = [await tab.run("document.activeElement.classList.contains('now')")]
        await tab.run(f"{TILES}[0].focus()")
        stops = []
        for name in ("Enter", "Tab", "Tab", "Escape"):
            await press(name, "\r" if name == "Enter" else "")
            stops.append(await tab.run(focused))
        reached.append(await tab.run(f"document.activeElement === {TILES}[0]"))
        await press("r", "r")
        told = await tab.run("document.querySelector('#answers [role=status]').textContent")
        return said, reached, stops, told

    said, reached, stops, told = in_browser(visit)
    total = said[0].removeprefix("1 of ")
    assert said == [f"1 of {total}", f"2 of {total}"] and total.endswith("found here")
    assert reached == [True, True]
    assert [stop.split()[0] for stop in stops] == ["BUTTON", "SELECT", "BUTTON", "LI"]
    assert told.endswith(f": right. 1 of {len(NAMES) + 1} answered")
