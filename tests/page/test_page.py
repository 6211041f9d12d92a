"""A run -> the page, through `build_summary`, read as a tree of elements."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from support.page.html_pages import read_page
from support.scoring.run_rows import CLASSES, failed, scored, write_run

from brainray.config import PageOptions
from brainray.evaluation.counts import REASONS
from brainray.page import sections, thumbnails
from brainray.page.thumbnails import Thumbnail
from brainray.scoring.manifest import Shard
from brainray.scoring.summary import report_page
from brainray.scoring.summary.build import build_summary

pytestmark = pytest.mark.usefixtures("no_plot")
CHAPTERS = ["verdict", "reconcile", "look", "good", "groups", "archive", "provenance"]
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7*7 }}\u202egpj.\u2066exe\x1b[31m&amp;"


def page_text(run, **options):
    build_summary(run, page=PageOptions(**options))
    return Path(run, "summary", "report.html").read_text()


def page_of(run, **options):
    return read_page(page_text(run, **options))


def figures_of(run):
    return json.loads(Path(run, "summary", "summary.json").read_text())


def many(number, *, classes=CLASSES, labelled=True, **values):
    """Scored images, a tenth of them mistakes, over all classes."""
    rows = []
    for i in range(number):
        truth = classes[i % len(classes)]
        predicted = classes[(i + 1) % len(classes)] if i % 10 == 3 else truth
        label = truth if labelled else None
        rows.append(scored(f"/archive/{i:05d}.jpg", predicted, 0.5 + i / number / 2, classes=classes, label=label))
        rows[-1] |= {name: of(i) for name, of in values.items()}
    return rows


RUNS = {
    "labelled": lambda path: write_run(path, many(40)),
    "unlabelled": lambda path: write_run(path, many(40, labelled=False)),
    "only one class labelled": lambda path: write_run(path, [scored("/a.jpg", "glioma", label="glioma")]),
    "all failed": lambda path: write_run(path, [failed(f"/{i}.jpg", label="glioma") for i in range(9)]),
    "no rows": lambda path: write_run(path, []),
    "groups": lambda path: write_run(path, many(40, group=lambda i: f"site {i % 3}"), group_by="folder"),
    "an older run.json": lambda path: write_run(path, many(5), images=None, inputs=[], model=None, versions={}),
    "not complete": lambda path: write_run(path, many(5), images=50),
}


@pytest.mark.parametrize("kind", RUNS)
def test_every_run_has_every_chapter_in_order(tmp_path, kind):
    page = page_of(RUNS[kind](tmp_path))
    found = [each.attributes["id"] for each in page.all("section") if each.attributes["id"] != "answers"]
    assert found == CHAPTERS
    for chapter in CHAPTERS:
        section = page.by_id(chapter)
        assert len(section.text) > 60, f"{chapter} says nothing"
        assert section.attributes["aria-labelledby"] == f"{chapter}-title"
    links = [each.attributes["href"] for each in next(page.all("nav")).all("a")]
    assert links == [f"#{chapter}" for chapter in CHAPTERS]


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("labelled", "Reconciled, 90.0 % right"),
        ("unlabelled", "Reconciled, how many are right is not known"),
        ("all failed", "Reconciled, nothing scored"),
        ("an older run.json", "Reconciliation unknown, 80.0 % right"),
        ("not complete", "Not reconciled, 80.0 % right"),
    ],
)
def test_the_verdict_says_whether_it_reconciles_and_how_good_it_is(tmp_path, kind, title):
    page = page_of(RUNS[kind](tmp_path))
    assert title in next(page.all("h1")).text
    assert title in next(page.all("title")).text


def test_what_is_known_of_few_images_is_not_said_of_all(tmp_path):
    rows = many(40, labelled=False, review=lambda i: i % 2 == 0)
    for row in rows[20:24]:
        row["label"] = row["predicted"]
    page = page_of(write_run(tmp_path, rows))
    assert "Reconciled, 100.0 % of 4 labelled images right" in next(page.all("h1")).text
    assert "of the others with a label 100.0 % are right (34.2 to 100.0 %)" in page.by_id("verdict").text


def test_a_run_that_is_not_complete_says_how_many_rows_are_missing(tmp_path):
    page = page_of(RUNS["not complete"](tmp_path))
    assert "45 listed images of 50 have no row yet" in page.by_id("verdict").text
    assert ["without a row", "45", "", "the run is not complete"] in next(page.by_id("reconcile").all("table")).rows()


def test_the_figures_on_the_page_are_those_of_the_summary(tmp_path):
    rows = [*many(40, group=lambda i: f"site {i % 3}"), failed("/x.jpg"), failed("/y.jpg", "empty")]
    run = write_run(tmp_path, rows, group_by="folder", gone=3, skipped={"suffix .txt": 1204})
    page, figures = page_of(run), figures_of(run)
    reconciled = {row[0]: row[1] for row in next(page.by_id("reconcile").all("table")).rows()}
    assert reconciled == {
        "listed": "42",
        "scored": str(figures["totals"]["ok"]),
        "failed": str(figures["totals"]["failed"]),
        "empty": "1",
        "truncated": "1",
        "for review": "0",
        "gone": "3",
        "passed over": "1,204",
        "suffix .txt": "1,204",
    }
    confusion, classes = page.by_id("good").all("table")
    assert [row[:-1] for row in confusion.rows()] == [
        ["glioma", "20 100.0 %", "0"],
        ["notumor", "4 20.0 %", "16 80.0 %"],
    ]
    assert classes.rows()[1][3].startswith("0.800 0.584 to 0.919")
    value, low, high = (f"{100 * figures['accuracy'][name]:.1f}" for name in ("value", "low", "high"))
    assert f"{value} % of 40 labelled images are right (95 % interval {low} to {high} %)" in page.by_id("verdict").text
    groups = {row[0]: row for table in page.by_id("groups").all("table") for row in table.rows()}
    for name, group in figures["groups"].items():
        assert groups[name][1] == str(group["totals"]["images"])
        if group["accuracy"]:
            assert groups[name][5].startswith(f"{100 * group['accuracy']['value']:.1f} %")
    assert f"error {figures['calibration']['ece']:.4f}" in page.by_id("good").text


def test_the_model_card_stands_beside_what_was_measured(tmp_path):
    card = {
        "name": "lite0",
        "review_below": 0.9,
        "metrics": {"images": 100, "accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}, "split": "held out"},
        "confusion": [[45, 5], [0, 50]],
    }
    classes = list(page_of(write_run(tmp_path, many(40), card=card)).by_id("good").all("table"))[1]
    assert [row[3].rpartition("card ")[2] for row in classes.rows()] == ["0.900", "1.000"]  # recall
    assert [row[4].rpartition("card ")[2] for row in classes.rows()] == ["1.000", "0.909"]  # precision


def test_a_cell_of_the_confusion_leads_to_its_image(tmp_path):
    page = page_of(write_run(tmp_path, many(40)))
    (link,) = next(page.by_id("good").all("table")).all("a")
    tile = page.by_id(link.attributes["href"].removeprefix("#"))
    assert "label notumor" in tile.text
    assert tile.attributes["data-predicted"] == "glioma"


def test_most_confident_mistakes_come_first_and_what_is_left_out_is_said(tmp_path):
    rows = [scored(f"/{i:03d}.jpg", "glioma", 0.5 + i / 1000, label="notumor") for i in range(100)]
    page = page_of(write_run(tmp_path, rows, parts=3))
    tiles = list(next(page.classed("mistakes")).classed("tile"))
    assert [tile.attributes["data-uri"] for tile in tiles] == [f"/{i:03d}.jpg" for i in range(99, 59, -1)]
    assert "60 more left out." in page.by_id("look").text


def test_one_of_each_cell_is_shown_beside_the_most_confident_mistakes(tmp_path):
    rows = [scored(f"/{i:03d}.jpg", "glioma", 0.9, label="notumor") for i in range(100)]
    rows.append(scored("/rare.jpg", "notumor", 0.51, label="glioma"))
    tiles = next(page_of(write_run(tmp_path, rows)).classed("mistakes")).classed("tile")
    assert "/rare.jpg" in [tile.attributes["data-uri"] for tile in tiles]


def test_copies_of_an_image_have_one_tile(tmp_path):
    rows = [scored(f"/{i}.jpg", "glioma", label="notumor", content_hash="same") for i in range(5)]
    assert len(list(page_of(write_run(tmp_path, rows)).classed("tile"))) == 1


def test_there_is_one_tile_for_each_reason_of_failure(tmp_path):
    rows = [failed(f"/{i}.jpg", reason) for i, reason in enumerate(["truncated", "empty", "truncated", "forbidden"])]
    tiles = [tile.text for tile in next(page_of(write_run(tmp_path, rows)).classed("failures")).classed("tile")]
    assert [tile.split()[:2] for tile in tiles] == [["empty", "1"], ["forbidden", "1"], ["truncated", "2"]]


def test_a_thousand_groups_show_the_worst_for_certain_and_count_the_others(tmp_path):
    rows = many(3000, group=lambda i: f"patient {i // 3:04d}")
    rows += [scored(f"/bad/{i}.jpg", "glioma", label="notumor", group="bad scanner") for i in range(30)]
    page = page_of(write_run(tmp_path, rows, group_by="folder"))
    shown = next(page.by_id("groups").all("table")).rows()
    assert len(shown) == sections.MOST_GROUPS
    assert shown[0][0] == "bad scanner"
    assert "951 more left out" in page.by_id("groups").text


def test_forty_classes_have_a_matrix_and_more_have_a_list(tmp_path):
    for number, rows in ((40, 40), (60, sections.MOST_CELLS)):
        classes = tuple(f"class {i:02d}" for i in range(number))
        # Each class is taken for each of the next ones.
        images = [
            scored(f"/{i}/{k}.jpg", classes[(i + k) % number], classes=classes, label=classes[i])
            for i in range(number)
            for k in range(3)
        ]
        page = page_of(write_run(tmp_path / str(number), images, classes=classes))
        assert len(next(page.by_id("good").all("table")).rows()) == rows
    assert "60 more left out" in page.by_id("good").text


def hostile_run(path, classes=CLASSES, long=""):
    names = [f"/{HOSTILE}{long}{i}" for i in range(12)]
    rows = [
        scored(name, classes[0], label=classes[i % 2], group=HOSTILE + long + str(i % 3), classes=classes)
        for i, name in enumerate(names)
    ]
    rows.append(failed("/f" + HOSTILE + long, error_detail=HOSTILE + long, group=HOSTILE, classes=classes))
    return write_run(
        path,
        rows,
        classes=classes,
        group_by=HOSTILE,
        inputs=[HOSTILE + long],
        model=HOSTILE + long,
        skipped={HOSTILE + long: 1},
        versions={HOSTILE: HOSTILE},
        options={"precision": HOSTILE},
        card={"name": HOSTILE, "metrics": {}, "confusion": None},
    )


@pytest.mark.parametrize("classes", [CLASSES, (HOSTILE, HOSTILE[::-1]), ("$x", "</script>")])
def test_names_of_users_are_text_wherever_they_are_shown(tmp_path, classes):
    text = page_text(hostile_run(tmp_path, classes))
    page = read_page(text)
    assert len(list(page.all("script"))) == 1
    assert not list(page.all("img"))
    allowed = {"class", "id", "href", "src", "alt", "title", "width", "height", "for", "type", "role", "tabindex"}
    for element in page.everything():
        assert not {name for name in element.attributes if name.startswith("on")}
        if element.tag in ("li", "td", "th", "bdi", "p", "b", "dd"):
            extra = {name for name in element.attributes if not name.startswith(("data-", "aria-"))} - allowed
            assert extra <= {"scope", "colspan", "hidden"}
    assert "7*7" in page.text
    assert not re.search("[\u202e\u2066\x1b]", re.sub(r'data-[a-z]+="[^"]*"', "", text))
    assert "\\u202egpj" in page.text


def test_a_tile_holds_the_whole_uri_for_the_answer_and_a_very_long_one_takes_none(tmp_path):
    tiles = page_of(hostile_run(tmp_path / "short")).classed("tile")
    assert next(tiles).attributes["data-uri"] == f"/{HOSTILE}1"
    page = page_of(hostile_run(tmp_path / "long", long="x" * 10_000))
    assert not [tile for tile in page.classed("tile") if "data-uri" in tile.attributes]


def test_long_names_do_not_make_the_page_large(tmp_path):
    assert len(page_text(hostile_run(tmp_path, long="脑" * 10_000))) < 200_000


def test_the_page_asks_nobody_for_anything(tmp_path):
    text = page_text(write_run(tmp_path, many(40)))
    page = read_page(text)
    policy = next(each for each in page.all("meta") if each.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:;")
    for element in page.everything():
        for name in ("src", "href"):
            assert (element.attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(next(page.all("script")).text) < 30_000
    assert "onclick" not in text


def test_it_can_be_read_aloud(tmp_path):
    page = page_of(RUNS["groups"](tmp_path))
    assert next(page.all("html")).attributes["lang"] == "en"
    assert {"header", "nav", "main", "footer"} <= {each.tag for each in page.everything()}
    levels = [int(each.tag[1]) for each in page.everything() if re.fullmatch(r"h[1-6]", each.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for table in page.all("table"):
        assert next(table.all("caption")).text
        assert all(cell.attributes.get("scope") in ("col", "row") for cell in table.all("th"))
    for chart in page.all("svg"):
        assert chart.attributes.get("aria-hidden") == "true" or len(chart.attributes["aria-label"]) > 10
    identifiers = [each.attributes["id"] for each in page.everything() if "id" in each.attributes]
    assert len(set(identifiers)) == len(identifiers)


def test_equal_runs_give_equal_bytes(tmp_path):
    run = write_run(tmp_path, many(40), parts=3)
    assert page_text(run) == page_text(run)


def test_without_a_report_there_is_no_page_and_no_old_one(tmp_path):
    run = write_run(tmp_path, many(4))
    build_summary(run)
    build_summary(run, page=PageOptions(report=False))
    assert not Path(run, "summary", "report.html").exists()
    assert Path(run, "summary", "review.csv").exists()


def test_the_generation_before_stands_beside_this_one(tmp_path):
    run = write_run(tmp_path, [*many(40), failed("/f.jpg")], fingerprint="f00d" * 8)
    build_summary(run)
    old = figures_of(run) | {"fingerprint": "01d" * 10}
    Path(run, "summary", "summary.json").write_text(json.dumps(old))
    for _ in range(2):  # a rebuilt page still knows it
        page = page_of(run)
        assert "The generation before (model 01d01d01" in page.by_id("archive").text
        assert "1 in the generation before" in page.by_id("reconcile").text
    assert figures_of(run)["fingerprint"] == "f00d" * 8


def test_the_largest_page_stays_below_five_megabytes(tmp_path, monkeypatch):
    def largest(rows):
        data_uri = "data:image/jpeg;base64," + "A" * (thumbnails._MOST_BYTES * 4 // 3 + 4)
        return {uri: Thumbnail(data_uri=data_uri) for uri in rows["uri"].to_pylist()}

    monkeypatch.setattr(report_page, "load_shards", lambda _: [Shard("0", "d", "m", 0, 1)])
    monkeypatch.setattr(report_page, "_listed", lambda shard, wanted: wanted.select(["uri"]))
    monkeypatch.setattr(report_page, "make_thumbnails", largest)
    classes = tuple(f"{i:02d}" + "'<脑>\"" * 20 for i in range(40))
    worst = "\"<&'" * 320  # each character takes five bytes
    rows = [
        scored(
            f"/{worst}{i}",
            classes[i % 40],
            0.9 - i / 4_000,
            classes=classes,
            label=classes[(i + i // 160) % 40],
            group=f"{worst}{i % 60}",
        )
        for i in range(1_600)
    ]
    rows += [failed(f"/{i}{worst}", reason, classes=classes, error_detail=worst) for i, reason in enumerate(REASONS)]
    run = write_run(tmp_path, rows, classes=classes, group_by="folder", manifest=["m"])
    text = page_text(run)
    assert text.count("data:image/jpeg") == 200
    assert len(text.encode()) < 5_000_000


@pytest.mark.parametrize("left_out", [False, True])
def test_sentences_of_the_methods_are_apart(tmp_path, left_out):
    rows = [*many(9), failed("/f.jpg"), *([failed("/l.nii#z=0", "blank", status="excluded")] if left_out else ())]
    (methods,) = page_of(write_run(tmp_path, rows)).classed("methods")
    text = " ".join(methods.text.split())
    assert (
        "1 image was left out as none that the model knows (1 blank). On the 9 scored"
        if left_out
        else "could not be scored. On the 9 scored"
    ) in text
