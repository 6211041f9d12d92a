"""`brainray pick` and `estimate`: a sample is drawn, labelled and used."""

import csv
import json
import shlex

import pytest
from support.scoring.run_rows import CLASSES, scored, write_run
from support.storage.faults import Killed, failing, mark_lease_dead

from brainray.cli.app import run as command
from brainray.commands.estimate import estimate
from brainray.commands.pick import pick
from brainray.errors import BadRequest
from brainray.storage import read_bytes, write_bytes

IMAGES = 300
ROW = {"content_hash": "0", "group": None}


def truth(uri: str) -> str:
    """Every tenth image is of the second class and taken for the first."""
    number = int(uri[3:])
    return CLASSES[(number + (number % 10 == 0)) % 2]


@pytest.fixture
def run(tmp_path):
    rows = [scored(f"/a/{i}", CLASSES[i % 2], 0.55 + (i % 89) / 200, **ROW) for i in range(IMAGES)]
    return write_run(tmp_path / "run", rows, manifest=[])


def filled(path, result, **other):
    """The list with true labels, or `other` ones by URI."""
    rows = list(csv.DictReader(read_bytes(result.list).decode("utf-8-sig").splitlines()))
    for row in rows:
        row["label"] = other.get(row["uri"], truth(row["uri"]))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_the_filled_in_list_says_how_good_the_run_is(run, tmp_path):
    result = pick(run, labels=100)
    found = estimate(run, filled(tmp_path / "labels.csv", result))
    assert found.accuracy.low < 0.9 < found.accuracy.high
    assert found.accuracy.high - found.accuracy.low < 0.2
    assert found.prevalence["glioma"].low < 0.4 < found.prevalence["glioma"].high
    assert found.prevalence["notumor"].low < 0.6 < found.prevalence["notumor"].high
    assert found.figures["labels"]["answered"] == 100
    more = found.figures["more"]
    assert [each["labels"] for each in more] == [100, 200]
    assert more[0]["accuracy_half_width"] > 2 * more[1]["accuracy_half_width"]
    assert str(found).startswith("accuracy 0.")


def test_labels_of_all_images_give_what_is_so(run, tmp_path):
    found = estimate(run, filled(tmp_path / "labels.csv", pick(run, labels=IMAGES)))
    assert found.accuracy == pytest.approx((0.9, 0.9, 0.9))
    assert found.recall == {"glioma": pytest.approx((1, 1, 1)), "notumor": pytest.approx((150 / 180,) * 3)}
    assert found.prevalence["glioma"] == pytest.approx((0.4, 0.4, 0.4))


def test_the_end_of_the_list_may_be_left_out_and_gaps_cost(run, tmp_path):
    result = pick(run, labels=100)
    uris = result.rows["uri"].to_pylist()
    part = estimate(run, filled(tmp_path / "part.csv", result, **dict.fromkeys(uris[60:], "")))
    fewer = pick(run, labels=60)
    assert part.accuracy == estimate(run, filled(tmp_path / "fewer.csv", fewer)).accuracy
    pick(run, labels=100)
    gap = estimate(run, filled(tmp_path / "gap.csv", result, **{uris[5]: "", **dict.fromkeys(uris[60:], "")}))
    assert gap.accuracy.low < part.accuracy.low
    assert gap.figures["labels"]["gaps"] == 1
    assert gap.figures["labels"]["not_reached"] == 40


def test_an_image_that_one_person_calls_right_and_another_wrong_counts_as_none(run, tmp_path):
    result = pick(run, labels=50)
    first = result.rows["uri"][0].as_py()
    other = next(name for name in CLASSES if name != truth(first))
    files = [filled(tmp_path / "one.csv", result), filled(tmp_path / "two.csv", result, **{first: other})]
    labels = estimate(run, files).figures["labels"]
    assert (labels["answered"], labels["gaps"], labels["contradictory"]) == (49, 1, 1)


def answered(path, answers):
    rows = "".join(f"{uri},{label},{answer}\n" for uri, label, answer in answers)
    path.write_text(f"uri,label,answer\n{rows}")
    return str(path)


def test_an_image_that_two_people_call_wrong_is_wrong_also_where_they_name_other_classes(run, tmp_path):
    rows = pick(run, labels=20).rows.to_pylist()
    one = [(row["uri"], row["predicted"], "right") for row in rows]
    two = list(one)
    one[0] = (rows[0]["uri"], "", "wrong")
    one[1] = (rows[1]["uri"], "", "wrong")
    two[0] = (rows[0]["uri"], next(name for name in CLASSES if name != rows[0]["predicted"]), "wrong")
    two[1] = (rows[1]["uri"], "", "no_image")
    alone = estimate(run, answered(tmp_path / "two.csv", two))
    both = estimate(run, [answered(tmp_path / "one.csv", one), tmp_path / "two.csv"])
    assert both.accuracy == alone.accuracy, "what both call wrong is left out, and the accuracy flatters"
    assert both.figures["labels"] == alone.figures["labels"]
    two[1] = (rows[1]["uri"], next(name for name in CLASSES if name != rows[1]["predicted"]), "wrong")
    one[1] = (rows[1]["uri"], "", "no_image")
    files = [answered(tmp_path / "one.csv", one), answered(tmp_path / "two.csv", two)]
    other = estimate(run, files)
    assert other.accuracy == alone.accuracy
    labels = other.figures["labels"]
    assert (labels["answered"], labels["unclear"], labels["no_image"], labels["contradictory"]) == (20, 1, 0, 0)


def test_people_who_contradict_each_other_on_every_image_are_told_so(run, tmp_path):
    uris = [row["uri"] for row in pick(run, labels=20).rows.to_pylist()]
    files = [answered(tmp_path / f"{name}.csv", [(uri, name, "") for uri in uris]) for name in CLASSES]
    with pytest.raises(BadRequest, match="these files contradict each other on all 20 images"):
        estimate(run, files)


def test_a_group_that_was_begun_counts_as_a_whole(tmp_path):
    rows = [
        scored(f"/a/{i}", CLASSES[i % 2], 0.55 + (i // 5) / 200, **ROW | {"group": f"p{i // 5}"}) for i in range(200)
    ]
    grouped = write_run(tmp_path / "grouped", rows, manifest=[], group_by="x")
    result = pick(grouped, labels=60, whole_groups=True)
    uris = result.rows["uri"].to_pylist()
    assert len(uris) == 60
    found = estimate(grouped, filled(tmp_path / "labels.csv", result, **dict.fromkeys(uris[32:], "")))
    labels = found.figures["labels"]
    assert (labels["answered"], labels["gaps"], labels["not_reached"]) == (32, 3, 25)


def test_answers_of_a_page_count_also_those_without_a_class(run, tmp_path):
    uris = pick(run, labels=50).rows["uri"].to_pylist()
    answers = [(uris[0], "", "wrong"), (uris[1], "", "no_image"), (uris[2], truth(uris[2]), "right")]
    path = tmp_path / "answers.csv"
    path.write_text("uri,label,answer\n" + "".join(",".join(row) + "\n" for row in answers))
    labels = estimate(run, path).figures["labels"]
    assert (labels["answered"], labels["unclear"], labels["no_image"], labels["not_reached"]) == (3, 1, 1, 47)


def test_answers_that_were_given_to_other_bytes_are_counted_and_not_used(run, tmp_path):
    uris = pick(run, labels=50).rows["uri"].to_pylist()
    answers = [(uris[0], "right", "1"), (uris[1], "right", "0"), (uris[2], "right", "")]
    path = tmp_path / "answers.csv"
    rows = [f"{uri},{truth(uri)},{answer},{content}\n" for uri, answer, content in answers]
    path.write_text("uri,label,answer,content_hash\n" + "".join(rows))
    said = []
    labels = estimate(run, path, say=said.append).figures["labels"]
    assert (labels["answered"], labels["gaps"], labels["other_content"]) == (2, 1, 1)
    assert "1 answer(s) are left out" in said[0]
    path.write_text("uri,label,answer,content_hash\n" + rows[0])
    with pytest.raises(BadRequest, match="as 1 answer"):
        estimate(run, path)


def test_a_wrong_prediction_of_another_model_is_none_of_this_sample(run, tmp_path):
    rows = pick(run, labels=20).rows.to_pylist()
    path = tmp_path / "answers.csv"
    other = next(name for name in CLASSES if name != rows[0]["predicted"])
    answers = [f"{rows[0]['uri']},,wrong,{other}", *(f"{row['uri']},,wrong,{row['predicted']}" for row in rows[1:])]
    path.write_text("\n".join(["uri,label,answer,predicted", *answers]))
    labels = estimate(run, path).figures["labels"]
    assert (labels["answered"], labels["gaps"], labels["other_content"]) == (19, 1, 1)


def test_labels_of_images_that_were_not_picked_are_counted_and_not_used(run, tmp_path):
    result = pick(run, labels=50)
    picked = set(result.rows["uri"].to_pylist())
    others = [f"/a/{i}" for i in range(IMAGES) if f"/a/{i}" not in picked][:7]
    path = filled(tmp_path / "labels.csv", result)
    own = estimate(run, path)
    (tmp_path / "others.csv").write_text("uri,label\n" + "".join(f"{uri},glioma\n" for uri in others))
    said = []
    both = estimate(run, [path, tmp_path / "others.csv"], say=said.append)
    assert both.accuracy == own.accuracy
    assert both.figures["labels"]["not_picked"] == 7
    assert "7 label(s) of images that were not picked are not used" in said[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("uri,label\n/a/0,zebra\n", "'zebra' are no class of the model"),
        ("uri,label\n/b/0,glioma\n", "no image of"),
        ("uri,label\n/a/0,glioma\n/a/0,notumor\n", "names images more than once"),
        ("uri,what\n/a/0,glioma\n", "has no label column"),
        ("", "is empty"),
    ],
)
def test_a_label_file_that_cannot_be_used_is_a_line_and_code_2(run, tmp_path, content, says, capfd):
    pick(run, labels=50)
    write_bytes(str(tmp_path / "labels.csv"), content.encode())
    assert command(["estimate", run, "--labels", str(tmp_path / "labels.csv")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert says in line


def test_an_estimate_without_a_sample_or_of_another_model_is_refused(run, tmp_path):
    with pytest.raises(BadRequest, match="has no sample of seed 3; draw one with `brainray pick`"):
        estimate(run, "labels.csv", seed=3)
    path = filled(tmp_path / "labels.csv", pick(run, labels=50))
    values = json.loads((tmp_path / "run" / "run.json").read_text())
    write_bytes(f"{run}/run.json", json.dumps(values | {"fingerprint": "beef" * 8}).encode())
    with pytest.raises(BadRequest, match="scored by another model since"):
        estimate(run, path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": 19}, "--labels is 19; it must be from 20 to 5,000"),
        ({"seed": -1}, "--seed is -1; it must be from 0 to 2"),
        ({"seed": 10**70}, "--seed is 10+; it must be from 0 to"),
        ({"whole_groups": True}, "has no groups; score it with --group-by or --groups"),
    ],
)
def test_options_of_pick_that_make_no_sense_are_refused(run, options, says):
    with pytest.raises(BadRequest, match=says):
        pick(run, **options)


def test_a_sample_that_lacks_what_it_was_drawn_from_is_refused(run, tmp_path):
    path = filled(tmp_path / "labels.csv", result := pick(run, labels=50))
    write_bytes(f"{result.folder}/pick.json", b'{"schema_version": 1}')
    for use in (lambda: estimate(run, path), lambda: pick(run, labels=50)):
        with pytest.raises(BadRequest, match="remove it and pick again"):
            use()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="is no run"):
        pick(tmp_path)
    with pytest.raises(BadRequest, match="is no run"):
        estimate(tmp_path, "labels.csv")


def test_a_run_that_grew_keeps_its_sample_until_another_seed_is_given(run, tmp_path):
    path = filled(tmp_path / "labels.csv", pick(run, labels=50))
    before = estimate(run, path)
    rows = [scored(f"/a/{i}", CLASSES[i % 2], 0.9, **ROW) for i in range(IMAGES + 9)]
    write_run(tmp_path / "run", rows, manifest=[])
    assert estimate(run, path).accuracy == before.accuracy
    with pytest.raises(BadRequest, match="give another --seed"):
        pick(run, labels=50)
    assert pick(run, labels=50, seed=1).figures["images"] == IMAGES + 9


def test_the_terminal_says_what_is_known_and_what_is_missing(run, tmp_path, capfd):
    assert command(["pick", run, "--labels", "100"]) == 0
    out = capfd.readouterr().out
    assert "100 of 300 images are picked" in out
    assert f"brainray estimate {run} --labels FILE" in out
    result = pick(run, labels=100)
    uris = result.rows["uri"].to_pylist()
    path = filled(tmp_path / "labels.csv", result, **{uris[5]: "", uris[-1]: ""})
    assert command(["estimate", run, "--labels", path]) == 0
    out = capfd.readouterr().out
    assert "of 300 images, estimated from 98 labels of 100 picked images" in out
    assert "without an answer, before the last answered one: 1 picked image" in out
    assert "without an answer yet, at the end of the list: 1 picked image" in out
    assert command(["estimate", run, "--labels", path, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == estimate(run, path).figures


def test_the_command_that_is_shown_runs_as_it_is(tmp_path, capfd):
    rows = [scored(f"/a/{i}", CLASSES[i % 2], 0.8, **ROW) for i in range(30)]
    run = write_run(tmp_path / "it's a run", rows, manifest=[])
    assert command(["pick", run]) == 0
    then = capfd.readouterr().out.splitlines()[-1].removeprefix("then: brainray ")
    assert shlex.split(then) == ["estimate", run, "--labels", "FILE"]


def test_labels_that_were_filled_in_outlive_a_repeated_and_an_extended_sample(run, tmp_path):
    result = pick(run, labels=50)
    filled(result.list, result)
    labelled = read_bytes(result.list)
    alone = estimate(run, result.list)
    pick(run, labels=50)
    assert read_bytes(result.list) == labelled, "the labels of a person are lost"
    said: list[str] = []
    longer = pick(run, labels=80, say=said.append)
    kept = f"{longer.folder}/pick.1.csv"
    assert read_bytes(kept) == labelled, "the labels of a person are lost"
    assert said[-1] == (
        f"{longer.list} was filled in or changed; it is kept as pick.1.csv beside the new list, and `estimate` takes "
        "both: --labels once for each"
    )
    assert estimate(run, [longer.list, kept]).accuracy == alone.accuracy
    pick(run, labels=60, say=said.append)
    assert sum("filled in" in line for line in said) == 1, "a list that nobody has filled in is replaced"
    assert read_bytes(kept) == labelled


def test_labels_outlive_a_pick_that_is_killed_at_any_change(run, tmp_path, monkeypatch):
    result = pick(run, labels=50)
    filled(result.list, result)
    labelled = read_bytes(result.list)
    for step in range(1, 100):
        try:
            with failing(monkeypatch, step, syncs=False):
                pick(run, labels=80, thumbnails=False)
        except Killed:
            mark_lease_dead(tmp_path / "run")
            held = [read_bytes(str(path)) for path in (tmp_path / "run/picks/seed-0").glob("pick*.csv")]
            assert labelled in held, f"killed at change {step}, the labels of a person are lost"
            continue
        break
    assert step > 5
    assert sorted(path.name for path in (tmp_path / "run/picks/seed-0").glob("*.csv")) == ["pick.1.csv", "pick.csv"]
