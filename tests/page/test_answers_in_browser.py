"""What the page keeps of answers: none is lost, and none is shown or exported for an image that it was not given to."""

import asyncio
import csv
import os
from pathlib import Path

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.page.browser import CHROMIUM, Tab, in_browser
from support.scoring.runs import brightness, contents, engine_of, request_for, score_here

from brainray.commands.report import report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")
NAMES = ("0.jpg", "1.jpg", "2.jpg", "car\rriage.jpg", "both\r\n.jpg")
TILES = "[...document.querySelectorAll('.tile[data-uri]')]"
ANSWERED = "document.querySelector('#answers b').textContent.match(/\\d+ of/)[0]"
NOTE = "document.querySelector('#answers p').textContent"
KEY = "document.querySelector('main').dataset.answers"


class Run:
    """A run of some images without labels, with its page."""

    def __init__(self, folder: Path, bundle) -> None:
        self.folder, self._bundle = folder, bundle
        (folder / "in").mkdir()
        for seed, name in enumerate(NAMES):
            self.put(name, seed)
        self.score()

    def put(self, name: str, seed: int) -> None:
        path = self.folder / "in" / name
        path.write_bytes(image_bytes(seed))
        os.utime(path, (seed, seed))

    def score(self) -> None:
        request = request_for(self.folder / "in", self.folder / "run", self._bundle, report=True)
        score_here(request, engine_of(self._bundle, predict=brightness))

    @property
    def page(self) -> Path:
        return self.folder / "run" / "summary" / "report.html"

    async def export(self, tab: Tab) -> list[dict[str, str]]:
        path = self.folder / "brainray-answers.csv"
        path.unlink(missing_ok=True)
        await tab.save_downloads(self.folder)
        await tab.run("document.querySelector('#export').click()")
        while not path.exists():
            await asyncio.sleep(0.02)
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def uri(self, name: str) -> str:
        return str(self.folder / "in" / name)


@pytest.fixture
def run(tmp_path, bundle):
    return Run(tmp_path, bundle)


def tile(run: Run, name: str) -> str:
    return f"{TILES}.find((each) => each.dataset.uri === {run.uri(name)!r})"


async def press_on(tab: Tab, run: Run, name: str, key: str) -> None:
    await tab.run(f"{tile(run, name)}.focus()")
    await tab.press(key)


async def soon(tab: Tab, script: str, wanted: str) -> str:
    """What an expression gives once it is what is wanted, or at last where it never is."""
    for _ in range(200):
        if (found := await tab.run(script)) == wanted:
            break
        await asyncio.sleep(0.02)
    return found


def test_an_answer_is_none_for_another_image_of_that_name(run):
    async def visit(tab: Tab):
        await tab.open(run.page)
        await press_on(tab, run, "0.jpg", "r")
        await press_on(tab, run, "1.jpg", "r")
        run.put("0.jpg", 100)
        await asyncio.to_thread(run.score)
        await tab.open(run.page)
        pressed = [
            await tab.run(f"{tile(run, name)}.querySelector('button').getAttribute('aria-pressed')")
            for name in ("0.jpg", "1.jpg")
        ]
        told = await tab.run(NOTE)
        exported = await run.export(tab)
        await press_on(tab, run, "0.jpg", "w")
        return pressed, told, exported, await run.export(tab), await tab.run(NOTE)

    pressed, told, exported, again, told_then = in_browser(visit)
    assert pressed == ["false", "true"]
    assert "their image has changed or may have: 1." in told
    hashes = {uri: row["content_hash"] for uri, row in contents(run.folder / "run").items()}
    assert [(row["uri"], row["content_hash"]) for row in exported] == [(uri := run.uri("1.jpg"), hashes[uri])]
    assert {row["uri"]: (row["answer"], row["content_hash"]) for row in again} == {
        run.uri("0.jpg"): ("wrong", hashes[run.uri("0.jpg")]),
        run.uri("1.jpg"): ("right", hashes[run.uri("1.jpg")]),
    }
    assert "has changed" not in told_then


def test_answers_of_an_earlier_version_are_counted_and_not_shown(run):
    stored = (
        f"JSON.stringify({{who: 'A', answers: {{[{run.uri('0.jpg')!r}]: {{answer: 'right', label: '', when: ''}}}}}})"
    )

    async def visit(tab: Tab):
        await tab.open(run.page)
        await tab.run(f"localStorage.setItem({KEY}, {stored})")
        await tab.open(run.page)
        return await tab.run(ANSWERED), await tab.run(NOTE), await run.export(tab)

    answered, told, exported = in_browser(visit)
    assert (answered, exported) == ("0 of", [])
    assert "not exported, as their image has changed or may have: 1." in told


def test_a_key_that_is_held_answers_one_image(run):
    async def visit(tab: Tab):
        await tab.open(run.page)
        await tab.run(f"{TILES}[0].focus()")
        await tab.hold("r", 6)
        return await tab.run(ANSWERED)

    assert in_browser(visit) == "1 of"


def test_two_tabs_of_a_page_keep_the_answers_of_both(run):
    async def visit(tab: Tab):
        await tab.open(run.page)
        async with tab.beside() as other:
            await other.open(run.page)
            await press_on(other, run, "0.jpg", "r")
            await press_on(other, run, "1.jpg", "r")
            await press_on(tab, run, "2.jpg", "r")
            await press_on(other, run, "1.jpg", "u")
            seen = [await soon(each, ANSWERED, "2 of") for each in (tab, other)]
            return seen, await run.export(tab)

    seen, exported = in_browser(visit)
    assert {row["uri"] for row in exported} == {run.uri("0.jpg"), run.uri("2.jpg")}
    assert seen == ["2 of", "2 of"]


def test_an_answer_stays_that_of_the_person_who_gave_it(run):
    name = "document.querySelector('#answers input')"

    async def visit(tab: Tab):
        await tab.open(run.page)
        for who, image in (("A", "0.jpg"), ("B", "1.jpg")):
            await tab.run(f"{name}.value = {who!r}; {name}.dispatchEvent(new Event('input'))")
            await press_on(tab, run, image, "r")
        return await run.export(tab)

    assert {row["uri"]: row["who"] for row in in_browser(visit)} == {run.uri("0.jpg"): "A", run.uri("1.jpg"): "B"}


def test_names_with_line_ends_come_back_as_they_are(run):
    names = [name for name in NAMES if "\r" in name]

    async def visit(tab: Tab):
        await tab.open(run.page)
        for name in names:
            await press_on(tab, run, name, "1")
        return await run.export(tab)

    assert [row["uri"] for row in in_browser(visit)] == [run.uri(name) for name in names]
    report(str(run.folder / "run"), labels=str(run.folder / "brainray-answers.csv"), say=print)
    labels = {uri: row["label"] for uri, row in contents(run.folder / "run").items() if row["label"]}
    assert labels == {run.uri(name): CLASSES[0] for name in names}
