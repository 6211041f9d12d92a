"""Labels that a run gets after the fact from `brainray report --labels`, and what a later `score` makes of them."""

import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.scoring.laid_out import laid_out
from support.scoring.run_rows import scored, write_run
from support.scoring.runs import brightness, contents, engine_of, request_for, rows, score_here

import brainray
from brainray.commands.report import report
from brainray.commands.score import score
from brainray.errors import BadRequest
from brainray.inputs.labels.answer_file import read_label_file
from brainray.scoring.run_folder import verify_run

pytestmark = pytest.mark.usefixtures("no_plot")
G, M, N, _ = CLASSES
EXPORTED = "uri,label,answer,who,when\n"  # as the page exports


class Run:
    """A run of a folder without class folders, so without labels."""

    def __init__(self, folder, bundle, names=()):
        self.root, self.output, self.folder, self.bundle = folder / "in", folder / "run", folder, bundle
        for seed, name in enumerate(names):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(image_bytes(seed))

    def score(self, output=None, **options):
        request = request_for(self.root, output or self.output, self.bundle, **options)
        return score_here(request, engine_of(self.bundle, predict=brightness))

    def file(self, text):
        path = self.folder / "labels.csv"
        path.write_text(text)
        return str(path)

    def report(self, text, **options):
        told = []
        options = {"page": brainray.config.PageOptions(report=False)} | options
        summary = report(str(self.output), say=told.append, labels=self.file(text), **options)
        return summary.figures, told

    def labels(self):
        return {uri.removeprefix(f"{self.root}/"): row["label"] for uri, row in contents(self.output).items()}

    def bytes(self):
        return {
            path: path.read_bytes()
            for path in sorted(self.output.rglob("*"))
            if ".lease" not in path.parts and path.is_file()
        }


@pytest.fixture
def run(home, bundle):
    names = ["a.jpg", "sub/b.jpg", "sub/c.jpg", "sub/d.jpg", "e.jpg"]
    return Run(laid_out(home, lambda now: Run(now, bundle, names).score()), bundle)


def test_answers_of_people_label_the_run_and_leave_its_predictions(run):
    before = contents(run.output)
    answers = f"{run.root}/a.jpg,{G},right,Ann,2026-01-02\n{run.root}/sub/b.jpg,,wrong,Ann,2026-01-02\n"
    figures, told = run.report(EXPORTED + answers)
    assert figures["totals"]["labelled"] == figures["totals"]["scored_and_labelled"] == 1
    assert run.labels() == {"a.jpg": G, "sub/b.jpg": None, "sub/c.jpg": None, "sub/d.jpg": None, "e.jpg": None}
    after = contents(run.output)
    assert {uri: row | {"label": None} for uri, row in after.items()} == before
    assert told[0].startswith(
        "--labels: 1 image(s) have their label from it, 1 of them had none and 0 another; 0 other"
    )
    assert verify_run(str(run.output)).rows == 5
    once = run.bytes()
    run.report(EXPORTED + answers)
    assert run.bytes() == once, "the same again changes no byte"


def test_answers_that_were_given_to_another_image_of_that_name_are_left_out(run):
    hashes = {name: contents(run.output)[f"{run.root}/{name}"]["content_hash"] for name in ("a.jpg", "e.jpg")}
    (run.root / "a.jpg").write_bytes(image_bytes(99))
    run.score()
    rows = [f"{run.root}/{name},{G},right,Ann,2026-01-02,{content}\n" for name, content in hashes.items()]
    text = EXPORTED.replace("when", "when,content_hash") + "".join(rows) + f"sub/b.jpg,{G},right,Bo,2026-01-02,\n"
    figures, told = run.report(text)
    assert {name for name, label in run.labels().items() if label} == {"e.jpg", "sub/b.jpg"}
    assert figures["totals"]["labelled"] == 2
    assert told[0].startswith("--labels: 2 image(s) have their label from it")
    assert told[1].startswith("--labels: 1 answer(s) are left out")


def test_a_hash_beside_labels_that_are_no_answers_is_not_looked_at(run):
    run.report(f"image,label,content_hash\na.jpg,{G},0\n")
    assert run.labels()["a.jpg"] == G


def test_the_run_is_the_one_that_score_gives_with_the_same_labels(run, tmp_path):
    text = "image;label\nB.JPG;glioma\nsub\\c;meningioma\n./e.jpg;healthy\n"  # near names, as a listing matches them
    run.report(text)
    other = tmp_path / "other"
    run.score(other)
    run.score(other, label_file=read_label_file(run.file(text), run.bundle.classes))
    for name in ("manifest", "summary/confusion.parquet", "summary/review.csv"):
        assert _content(run.output / name) == _content(other / name)
    drop = ("scored_at",)
    assert [_without(row, drop) for row in rows(run.output)] == [_without(row, drop) for row in rows(other)]


def _content(path):
    return path.read_bytes() if path.is_file() else {each.name: each.read_bytes() for each in path.iterdir()}


def _without(row, names):
    return {name: value for name, value in row.items() if name not in names}


def test_a_later_score_keeps_them_and_labels_what_is_new_by_its_folder(run):
    run.report(f"image,label\na.jpg,{G}\n")
    assert run.score().plan.complete, "the listing has the same labels"
    (run.root / N).mkdir()
    (run.root / N / "f.jpg").write_bytes(image_bytes(9))
    assert run.score().scored == 1
    assert (run.labels()["a.jpg"], run.labels()[f"{N}/f.jpg"]) == (G, N)


def test_each_file_adds_to_those_before_and_an_empty_label_takes_back_a_given_one(tmp_path, bundle):
    run = Run(tmp_path, bundle, [f"{G}/a.jpg", f"{G}/b.jpg", "c.jpg"])
    run.score()
    run.report(f"image,label\na.jpg,{N}\n")
    _, told = run.report(f"image,label\nb.jpg,{M}\nc.jpg,{M}\n")
    assert "2 image(s) have their label from it, 1 of them had none and 1 another; 1 other" in told[0]
    assert run.labels() == {f"{G}/a.jpg": N, f"{G}/b.jpg": M, "c.jpg": M}
    _, told = run.report("image,label\na.jpg,NA\nb.jpg,\n")
    assert "took back the given label of 2 image(s)" in told[1]
    assert run.labels() == {f"{G}/a.jpg": G, f"{G}/b.jpg": G, "c.jpg": M}, "folders label again"
    assert pq.read_table(run.output / "labels.parquet").num_rows == 1


def test_labels_of_score_replace_the_given_ones_for_good(run):
    run.report(f"image,label\na.jpg,{G}\n")
    run.score(label_file=read_label_file(run.file(f"image,label\ne.jpg,{M}\n"), run.bundle.classes))
    assert {name for name, label in run.labels().items() if label} == {"e.jpg"}
    assert not (run.output / "labels.parquet").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,label\nx.jpg,glioma\n", "not in the run: 'x.jpg'"),
        ("image,label\na.jpg,cat\n", "'cat' are no class of the model"),
        ("image,label\na.jpg,glioma\na.jpg,notumor\n", "names images more than once"),
        ("image,label\na.jpg,glioma\n./a.jpg,notumor\n", "another row names already"),
    ],
)
def test_what_score_refuses_is_refused_and_nothing_changes(run, text, why):
    before = run.bytes()
    with pytest.raises(BadRequest, match=why):
        run.report(text)
    assert run.bytes() == before


def test_rows_without_image_may_be_allowed(run):
    figures, told = run.report(f"image,label\nx.jpg,{G}\na.jpg,{G}\n", labels_may_miss=True)
    assert figures["totals"]["labelled"] == 1
    assert told[-1] == "--labels: 1 of 2 row(s) name no image of the run"


def test_verify_and_labels_exclude_each_other_and_an_old_format_is_refused(run, tmp_path):
    with pytest.raises(BadRequest, match="--verify writes nothing"):
        brainray.report(run.output, verify=True, labels=run.file("image,label\na.jpg,glioma\n"))
    old = write_run(tmp_path / "old", [scored("/a", "glioma")], manifest=[], schema_version=1)
    with pytest.raises(BadRequest, match="run of format 1, not 4"):
        report(old, say=print, labels=run.file("image,label\na,glioma\n"))


@pytest.mark.parametrize("options", [{}, {"rescore": True}])
def test_a_later_score_keeps_the_list_that_a_person_has_filled_in(run, options):
    run.report(f"image,label\na.jpg,{G}\n")
    filled = run.output / "summary" / "review.csv"
    filled.write_text("uri,label\na.jpg,glioma\n")
    (run.root / N).mkdir()
    for seed in range(9, 13):
        (run.root / N / f"{seed}.jpg").write_bytes(image_bytes(seed))
    told = []
    request = request_for(run.root, run.output, run.bundle, **options)
    score(request, listener=lambda _: None, say=told.append, engine=engine_of(run.bundle, predict=brightness))
    kept = run.output / "summary" / "review.1.csv"
    assert kept.read_text() == "uri,label\na.jpg,glioma\n", "the labels of a person are lost"
    assert f"{filled} was filled in or changed" in told[-1]
