"""When the labels that people gave a run end: with a `score --labels`, with its new generation, and not before."""

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.scoring.laid_out import laid_out
from support.scoring.runs import Stopped, brightness, contents, engine_of, request_for, score_here
from support.storage.faults import Killed, mark_lease_dead

from brainray.commands.report import report
from brainray.config import PageOptions
from brainray.inputs.labels.answer_file import read_label_file
from brainray.scoring import rescore

pytestmark = pytest.mark.usefixtures("no_plot")
G, M, *_ = CLASSES


class Run:
    """A run of images without labels, of which a person has labelled `a`."""

    def __init__(self, folder, bundle):
        self.folder, self.bundle, self.output = folder, bundle, folder / "run"

    def begin(self):
        (self.folder / "in").mkdir()
        for seed, name in enumerate("abcde"):
            (self.folder / "in" / f"{name}.jpg").write_bytes(image_bytes(seed))
        self.score()
        self.report(f"a.jpg,{G}")

    @property
    def given(self):
        return self.output / "labels.parquet"

    def file(self, *rows):
        path = self.folder / "labels.csv"
        path.write_text("\n".join(["image,label", *rows]))
        return str(path)

    def score(self, *rows, only=None, **options):
        labels = read_label_file(self.file(*rows), self.bundle.classes) if rows else None
        options = {"shard_size": 3} | options
        request = request_for(self.folder / "in", self.output, self.bundle, label_file=labels, **options)
        return score_here(request, engine_of(self.bundle, predict=brightness, only=only))

    def report(self, *rows):
        report(str(self.output), say=str, labels=self.file(*rows), page=PageOptions(report=False))

    def labels(self):
        found = {uri[-5]: row["label"] for uri, row in contents(self.output).items()}
        return {name: label for name, label in found.items() if label}


@pytest.fixture
def run(home, bundle):
    return Run(laid_out(home, lambda now: Run(now, bundle).begin()), bundle)


def test_a_new_generation_that_is_not_complete_leaves_them(run):
    with pytest.raises(Stopped):
        run.score(f"e.jpg,{M}", rescore=True, only=1)
    mark_lease_dead(run.output)
    assert run.score().plan.complete
    assert run.given.exists()
    assert run.labels() == {"a": G}


def test_they_end_with_the_switch_to_a_generation_that_has_labels(run):
    run.score(rescore=True)
    assert run.labels() == {"a": G}, "without --labels they stay"
    run.score(f"e.jpg,{M}", rescore=True)
    assert run.labels() == {"e": M}
    assert not run.given.exists()


def test_whoever_completes_the_switch_forgets_them(run, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(rescore, "forget_given", _killed)
        run.score(f"e.jpg,{M}", rescore=True)
    mark_lease_dead(run.output)
    run.score()  # which lists again, without any label
    assert run.labels() == {}
    assert not run.given.exists()


def test_equal_labels_of_score_take_their_place(run):
    outcome = run.score(f"a.jpg,{G}")
    assert not outcome.plan.complete
    assert not run.given.exists()
    assert (run.labels(), outcome.scored) == ({"a": G}, 0)
    assert run.score(f"a.jpg,{G}").plan.complete, "and the same again has nothing to do"


def test_report_completes_an_interrupted_switch_before_it_labels(run, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(rescore, "build_summary", _killed)
        run.score(rescore=True)
    mark_lease_dead(run.output)
    run.report(f"b.jpg,{M}")
    assert not (run.output / ".rescore").exists()
    assert run.score().plan.complete
    assert run.labels() == {"a": G, "b": M}


def _killed(*_, **__):
    raise Killed
