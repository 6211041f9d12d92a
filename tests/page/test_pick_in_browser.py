"""The whole way without labels: score, pick, answer on the page in a browser, export, estimate."""

from pathlib import Path

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES, untrained
from support.page.browser import CHROMIUM, Tab, in_browser
from support.scoring.run_rows import scored, write_run
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
        count = await tab.run("document.querySelector('#answers b').textContent")
        await tab.export_answers(run)
        return tiles, pictures, note, count, tab.requests, tab.complaints

    tiles, pictures, note, count, requests, complaints = in_browser(visit)
    assert count.endswith("18 of 20 answered, 1 skipped"), "what an estimate takes for a gap is counted as an answer"
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


ODD = ("-", "גליומה", "תקין", "b" * 200, "line\nend")


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    names = [f"/a/{i}.jpg" for i in range(IMAGES)] + [f"/{'a' * 1_400}/{i}.jpg" for i in range(IMAGES)]
    rows = [
        scored(name, ODD[i % 5], 0.5 + i / 200, classes=ODD, content_hash=str(i), group=None)
        for i, name in enumerate(names)
    ]
    run = write_run(folder / "run", rows, classes=ODD, manifest=[])
    return pick(run, labels=2 * IMAGES)


def test_each_class_has_its_key_beside_it_and_can_be_chosen_whatever_its_name(odd_page, tmp_path):
    async def visit(tab: Tab):
        await tab.open(Path(odd_page.page))
        await tab.save_downloads(tmp_path)
        pairs = await tab.run(
            "[...document.querySelectorAll('.keys kbd + bdi')].map((name) => {"
            " const [key, box] = [name.previousElementSibling, name].map((each) => each.getClientRects()[0]);"
            " return [key.bottom <= box.top || key.right <= box.left, name.textContent]})"
        )
        await tab.run(
            f"{TILES}.forEach((tile) => {{ const select = tile.querySelector('select'); select.dispatchEvent("
            "new Event('focus')); select.selectedIndex = 2; select.dispatchEvent(new Event('change')); })"
        )
        shown = await tab.run(f"{TILES}.map((tile) => tile.querySelector('select').selectedIndex)")
        await tab.export_answers(tmp_path)
        return pairs, shown

    pairs, shown = in_browser(visit)
    assert all(beside for beside, _ in pairs), f"the key of another class is beside a name: {pairs}"
    assert [name for _, name in pairs][:3] == list(ODD[:3])
    assert set(shown) == {2}, "a class that was chosen is not shown as chosen"
    labels = estimate(odd_page.run, tmp_path / "brainray-answers.csv").figures["labels"]
    assert labels["answered"] == len(shown), "answers that were given are lost"


def test_images_that_take_no_answer_here_say_so(odd_page):
    text = Path(odd_page.page).read_text()
    assert text.count("Takes no answer here, as its name is too long") == IMAGES
    assert "Scripts are off, so this page takes no answers" in text


def test_the_bar_hides_no_answer_of_the_image_that_has_the_focus(odd_page):
    below = (
        "document.activeElement.getBoundingClientRect().bottom"
        " - document.querySelector('#answers').getBoundingClientRect().top"
    )

    async def visit(tab: Tab):
        size = {"width": 1300, "height": 700, "deviceScaleFactor": 1, "mobile": False}
        await tab.call("Emulation.setDeviceMetricsOverride", **size)
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        await tab.call("Emulation.setEmulatedMedia", features=[still])
        await tab.open(Path(odd_page.page))
        await tab.run(f"{TILES}[0].focus()")
        hidden = []
        for _ in range(IMAGES - 1):
            await tab.press("r")
            hidden.append(await tab.run(below))
        return hidden

    assert max(in_browser(visit)) <= 0


def test_keys_count_by_their_place_where_a_keyboard_has_another_script(odd_page):
    async def visit(tab: Tab):
        await tab.open(Path(odd_page.page))
        await tab.run(f"{TILES}[0].focus()")
        for key, code in (("к", "KeyR"), ("é", "Digit2"), ("ц", "KeyW"), ("w", "KeyZ")):
            await tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=code)
        kept = "JSON.parse(localStorage.getItem(document.querySelector('main').dataset.answers + '-by-content'))"
        return await tab.run(f"Object.values({kept}.answers).map((each) => [each.answer, each.label])")

    answers = in_browser(visit)
    assert [answer for answer, _ in answers[::2]] == ["right", "wrong"]
    assert answers[1][1] == ODD[1]
    assert answers[2:] == [["wrong", ""]] * 2
