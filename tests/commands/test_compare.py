"""Two runs written row by row -> what `brainray compare` says, writes and refuses."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.page.html_pages import read_page
from support.scoring.run_rows import CLASSES, failed, scored, write_run

import brainray
from brainray import storage
from brainray.cli.app import run
from brainray.commands import compare as command
from brainray.errors import BadRequest
from brainray.scoring.comparison.page import choose_tiles
from brainray.scoring.summary import report_page
from brainray.scoring.summary.build import build_summary

G, N = CLASSES
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7919*7919 }}\u202egpj.[bold]"


def compare(a, b, *, output=None, said=None, thumbnails=False):
    say = (lambda _: None) if said is None else said.append
    return command.compare(str(a), str(b), output=output and str(output), thumbnails=thumbnails, say=say).figures


@pytest.fixture
def two(tmp_path):
    """Each case of an image once: what became of it, and how its label counts."""
    a = [
        scored("/same", G, label=G),
        scored("/worse", N, 0.9, label=N),
        scored("/better", G, 0.6, label=N),
        scored("/no label", G),
        scored("/label of b", G, 0.8),
        scored("/labels differ", G, label=G),
        scored("/unknown class", G, label="cat"),
        scored("/changed", G, label=G, content_hash="1"),
        scored("/unchanged", N, label=N, content_hash="2"),
        failed("/failed in a"),
        scored("/failed in b", G),
        failed("/failed in both"),
        failed("/excluded in a", "localizer", status="excluded"),
        scored("/only in a", G),
    ]
    b = [
        scored("/same", G, label=G),
        scored("/worse", G, 0.7, label=N),
        scored("/better", N, 0.6, label=N),
        scored("/no label", N),
        scored("/label of b", G, label=G),
        scored("/labels differ", N, label=N),
        scored("/unknown class", G, label="cat"),
        scored("/changed", N, label=G, content_hash="9"),
        scored("/unchanged", N, label=N, content_hash="2"),
        scored("/failed in a", G),
        failed("/failed in b"),
        failed("/failed in both"),
        scored("/excluded in a", G),
        scored("/only in b", G),
        scored("/only in b too", G),
    ]
    return write_run(tmp_path / "a", a, parts=3), write_run(tmp_path / "b", b[::-1], parts=2)


def test_every_image_is_in_one_case_and_every_flip_has_its_outcome(two):
    figures = compare(*two)
    cases = {"changed": 1, "excluded": 1, "failed_in_both": 1, "failed_in_a": 1, "failed_in_b": 1, "compared": 8}
    assert figures["images"] == {"only_in_a": 1, "only_in_b": 2, "in_both": 13} | cases
    assert (figures["a"]["images"], figures["b"]["images"]) == (14, 15)
    assert figures["labels"] == {"used": 5, "of_one_run_only": 1, "differ": 1, "seen": 0}
    assert figures["agreement"]["value"] == 4 / 8
    assert figures["outcomes"] == {"became_wrong": 1, "became_right": 1, "wrong_in_both": 0, "no_label": 2}
    assert figures["predictions"] == [[3, 3], [1, 1]]
    pair = {"a": G, "b": N, "images": 3, "became_wrong": 0, "became_right": 1, "wrong_in_both": 0, "no_label": 2}
    assert figures["flips"][0] == pair
    accuracy = figures["accuracy"]
    assert [accuracy[name] for name in ("both_right", "only_a_right", "only_b_right", "both_wrong")] == [3, 1, 1, 0]
    assert (accuracy["difference"]["value"], accuracy["mcnemar_p"]) == (0, 1)
    assert json.loads(json.dumps(figures)) == figures


def test_figures_of_each_side_are_those_of_its_summary(tmp_path, no_plot):
    rows = [scored(f"/{i:02d}", CLASSES[i % 3 == 0], 0.5 + i / 60, label=CLASSES[i % 2]) for i in range(30)]
    one = write_run(tmp_path / "one", rows, parts=4)
    figures, summary = compare(one, one), build_summary(one).figures
    assert (figures["agreement"]["value"], figures["flipped"], figures["flips"]) == (1, 0, [])
    assert figures["a"] == figures["b"]
    for name in ("ece", "brier", "bins"):
        assert figures["a"][name] == summary["calibration"][name]
    for name in ("accuracy", "macro_f1", "mean_confidence", "for_review"):
        assert figures["a"][name] == summary[name]


def test_without_labels_there_is_agreement_and_no_accuracy(tmp_path, capfd):
    a = write_run(tmp_path / "a", [scored("/1", G), scored("/2", N)])
    b = write_run(tmp_path / "b", [scored("/1", G), scored("/2", G)])
    figures = compare(a, b)
    assert figures["accuracy"] is None and figures["a"]["accuracy"] is None and figures["a"]["ece"] is None
    assert figures["agreement"]["value"] == 0.5
    assert run(["compare", a, b]) == 0
    assert "no compared image has a label" in capfd.readouterr().out


def test_images_that_one_model_has_learned_from_count_for_neither(tmp_path, capfd):
    """A model that has learned from the archive would win by memory."""
    learned = [scored(f"/{n}", G, label=G, seen=True) for n in range(5)]
    a = [*learned, scored("/new", G, label=N, seen=False), scored("/unlabelled", G, seen=True)]
    b = [*(scored(f"/{n}", N, label=G) for n in range(5)), scored("/new", N, label=N), scored("/unlabelled", G)]
    write_run(tmp_path / "a", a, marks_seen=True)
    write_run(tmp_path / "b", b)
    for first, second in (("a", "b"), ("b", "a")):
        figures = compare(tmp_path / first, tmp_path / second)
        assert figures["labels"] == {"used": 1, "of_one_run_only": 0, "differ": 0, "seen": 5}
        assert {figures[side]["accuracy"]["value"] for side in ("a", "b")} == {0, 1}
        assert figures["accuracy"]["both_right"] == 0
    run(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert "5 are left out, as A or B has learned from them" in " ".join(capfd.readouterr().out.split())


def test_no_common_image_is_an_answer(tmp_path, capfd):
    a, b = (write_run(tmp_path / name, [scored(f"/{name}", G, label=G)]) for name in "ab")
    assert compare(a, b, output=tmp_path / "out")["agreement"] is None
    assert "without an image to compare" in (tmp_path / "out" / "compare.html").read_text()
    assert run(["compare", a, b]) == 0
    assert "nothing to compare" in capfd.readouterr().out


def test_groups_are_drawn_as_wholes_and_the_worst_comes_first(tmp_path):
    def rows(right):
        return [scored(f"/{g}/{i}", G if right(g) else N, label=G, group=f"p{g}") for g in range(60) for i in range(4)]

    a = write_run(tmp_path / "a", rows(lambda g: g != 7), group_by="folder")
    b = write_run(tmp_path / "b", rows(lambda g: g != 3), group_by="folder")
    figures = compare(a, b)
    accuracy, groups = figures["accuracy"], figures["groups"]
    assert (accuracy["groups"], accuracy["difference"]["method"]) == (60, "cluster_bootstrap")
    assert accuracy["difference"]["low"] < 0 < accuracy["difference"]["high"]
    assert groups["groups"] == 60 and len(groups["listed"]) == 50
    assert [groups["listed"][0][name] for name in ("group", "flipped", "only_a_right")] == ["p3", 4, 4]
    assert compare(a, b) == figures


def test_groups_of_several_levels_are_named_as_in_the_report(tmp_path, capfd):
    levels = {"group_by": ["x"], "group_levels": ["site", "patient"]}
    a, b = (
        write_run(tmp_path / name, [scored("/1", said, label=G, group="B%2F/1")], **levels)
        for name, said in (("a", G), ("b", N))
    )
    assert run(["compare", a, b, "--output", str(tmp_path / "out")]) == 0
    assert "B/ / 1" in capfd.readouterr().out
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<bdi>B/ / 1</bdi>") == 2, "in the table and on the tile"


def test_classes_in_another_order_are_the_same_and_other_classes_are_refused(tmp_path, capfd):
    a = write_run(tmp_path / "a", [scored("/1", G, label=G)])
    b = write_run(tmp_path / "b", [scored("/1", G, label=G, classes=(N, G))], classes=(N, G))
    assert compare(a, b)["agreement"]["value"] == 1
    other = write_run(tmp_path / "c", [scored("/1", "cat", classes=("cat", G))], classes=("cat", G))
    assert run(["compare", a, other]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert all(word in err for word in (f"{a} has glioma, notumor", f"{other} has cat, glioma"))


def test_what_is_no_run_is_refused_and_nothing_is_overwritten(two, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match="is no run"):
        compare(two[0], tmp_path / "empty")
    with pytest.raises(BadRequest, match="holds other files"):
        compare(*two, output=two[1])
    with pytest.raises(BadRequest, match="nothing is scored yet"):
        compare(two[0], write_run(tmp_path / "new", [], parts=0))
    twice = write_run(tmp_path / "twice", [scored("/1", G), scored("/1", G)], parts=2)
    with pytest.raises(BadRequest, match="has two rows for /1"):
        compare(two[0], twice)


def test_a_run_that_is_not_complete_is_named(two):
    said = []
    compare(*two, said=said)
    assert [line.split(" is not complete")[0] for line in said] == list(two)


def test_predictions_that_were_judged_wrong_are_told_where_their_accuracy_stands(two, tmp_path):
    """They have no label, so the accuracies are without them, and flatter."""
    judged = pa.table({"uri": ["/no label"], "predicted": [G], "content_hash": ["1"]})
    storage.write_parquet(f"{two[0]}/judged_wrong.parquet", judged)
    said = []
    figures = compare(*two, output=tmp_path / "out", said=said)
    assert (figures["a"]["judged_wrong"], figures["b"]["judged_wrong"]) == (1, 0)
    assert any("1 image(s) were judged wrong" in line for line in said)
    page = read_page((tmp_path / "out" / "compare.html").read_text())
    assert "1 prediction of A was judged wrong" in page.text and "of B was judged" not in page.text


def test_json_is_one_object_and_the_folder_holds_the_same(two, tmp_path, capfd):
    assert run(["compare", *two, "--json", "--no-thumbnails", "--output", str(tmp_path / "out")]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.json", "compare.html", "flips.parquet"}
    flips = pq.read_table(tmp_path / "out" / "flips.parquet").to_pylist()
    expected = {
        "/better": "became_right",
        "/labels differ": "no_label",
        "/no label": "no_label",
        "/worse": "became_wrong",
    }
    assert {row["uri"]: row["outcome"] for row in flips} == expected
    assert [row["uri"] for row in flips] == sorted(expected)
    assert (flips[3]["label"], flips[3]["predicted_a"], flips[3]["predicted_b"]) == (N, N, G)


def test_the_api_gives_the_same_with_types(two, tmp_path):
    result = brainray.compare(*two, output=tmp_path / "out", thumbnails=False)
    assert (result.compared, result.flipped, result.agreement.value) == (8, 4, 0.5)
    assert result.difference.low < 0 < result.difference.high
    assert result.flips.num_rows == 4
    assert str(result).startswith("8 images compared, agreement 0.5000")
    plain = brainray.compare(*two)
    assert plain.flips is None and plain.figures == result.figures


def test_hostile_names_are_text_on_the_page_and_at_the_terminal(tmp_path, capfd):
    classes = (HOSTILE, G)
    values = {"group": HOSTILE, "label": HOSTILE, "classes": classes}
    a = write_run(tmp_path / "a", [scored(f"/{HOSTILE}", G, **values)], classes=classes, group_by="folder")
    b = write_run(tmp_path / "b", [scored(f"/{HOSTILE}", HOSTILE, **values)], classes=classes, group_by="folder")
    assert run(["compare", a, b, "--no-thumbnails", "--output", str(tmp_path / "out")]) == 0
    assert "[bold]" in capfd.readouterr().out
    text = (tmp_path / "out" / "compare.html").read_text()
    page = read_page(text)
    assert not list(page.all("script")) and not list(page.all("img"))
    assert "\u202e" not in text and "{{ 7919*7919 }}" in page.text and str(7919 * 7919) not in text


def test_tiles_are_at_most_200_and_the_rest_is_counted(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(report_page, "make_thumbnails", lambda rows: {})
    monkeypatch.setattr("brainray.scoring.comparison.page.thumbnails_of", lambda *given: asked.extend(given[2]) or {})
    rows = [(f"/{i:03d}", G, {"label": G if i % 3 else N, "content_hash": str(i)}) for i in range(300)]
    a = write_run(tmp_path / "a", [scored(uri, kind, **values) for uri, kind, values in rows])
    b = write_run(tmp_path / "b", [scored(uri, N, **values) for uri, _, values in rows])
    compare(a, b, output=tmp_path / "out", thumbnails=True)
    page = read_page((tmp_path / "out" / "compare.html").read_text())
    assert len(asked) == len(list(page.classed("tile"))) == 200
    assert "100 more left out" in page.text


def test_what_one_outcome_leaves_over_goes_to_the_others():
    rows = {"became_wrong": [{}] * 200, "became_right": [{}] * 5, "wrong_in_both": [], "no_label": [{}] * 200}
    assert [len(each) for each in choose_tiles(rows).values()] == [97, 5, 0, 98]
