"""The command line as a user meets it, where no Ray is needed: what bad input gets."""

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES

from brainray import __version__
from brainray.cli.app import run


@pytest.fixture
def say(capfd):
    """Runs a command; gives its exit code, standard output and standard error."""

    def command(*arguments):
        code = run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return command


def refused(answer, *words):
    code, out, err = answer
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("brainray: "), f"not one clear line: {err!r}"
    for word in words:
        assert word in err


def test_version_and_help(say):
    assert say("--version")[1].strip() == f"brainray {__version__}"
    for command in ("train", "score", "report", "sample"):
        code, out, _ = say(command, "--help")
        assert code == 0 and "Usage" in out


def test_unknown_options_and_commands(say):
    refused(say("score", "--bogus"), "--bogus")
    refused(say("scare"), "scare")
    refused(say("score", "--input", "x"), "--output")
    refused(say("score", "--input", "x", "--model", "m", "--output", "o", "--workers", "two"), "--workers")


class TestScore:
    def args(self, tmp_path, bundle, **changes):
        values = {"input": tmp_path / "in", "model": bundle.uri, "output": tmp_path / "run"} | changes
        return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]

    @pytest.fixture(autouse=True)
    def images(self, tmp_path):
        (tmp_path / "in" / "glioma").mkdir(parents=True)
        (tmp_path / "in" / "glioma" / "a.jpg").write_bytes(image_bytes())

    def test_inputs(self, say, tmp_path, bundle):
        (tmp_path / "empty").mkdir()
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "a.txt").write_text("x")
        refused(say("score", *self.args(tmp_path, bundle, input="/none")), "/none", "no such")
        refused(say("score", *self.args(tmp_path, bundle, input=tmp_path / "empty")), "no image files", "empty")
        refused(say("score", *self.args(tmp_path, bundle, input=tmp_path / "texts")), "1 suffix .txt")
        refused(say("score", *self.args(tmp_path, bundle, input="s3://bucket/x")), "s3://")
        assert not (tmp_path / "run").exists()

    def test_models(self, say, tmp_path, bundle):
        refused(say("score", *self.args(tmp_path, bundle, model="/none")), "/none", "no such model")
        refused(say("score", *self.args(tmp_path, bundle, model=tmp_path / "in")), "is no model")

    def test_outputs(self, say, tmp_path, bundle):
        (tmp_path / "file").write_text("x")
        refused(say("score", *self.args(tmp_path, bundle, output=tmp_path / "file")), "is a file")
        refused(say("score", *self.args(tmp_path, bundle, output=tmp_path / "in")), "holds other files")

    def test_labels(self, say, tmp_path, bundle):
        (tmp_path / "l.csv").write_text("file,label\nb.jpg,glioma\n")
        refused(say("score", *self.args(tmp_path, bundle, labels=tmp_path / "l.csv")), "b.jpg")
        (tmp_path / "l.csv").write_text("file,label\na.jpg,dog\n")
        refused(say("score", *self.args(tmp_path, bundle, labels=tmp_path / "l.csv")), "dog", "glioma")
        assert not (tmp_path / "run").exists()

    def test_values(self, say, tmp_path, bundle):
        refused(say("score", *self.args(tmp_path, bundle, max_failed="lots")), "--max-failed")
        refused(say("score", *self.args(tmp_path, bundle, batch_size=0)), "--batch-size")
        refused(say("score", *self.args(tmp_path, bundle, group_by="(")), "--group-by")

    def test_a_plan_says_what_would_be_done_and_does_nothing(self, say, tmp_path, bundle):
        code, out, _ = say("score", *self.args(tmp_path, bundle), "--plan")
        assert code == 0
        assert "1 images" in out and "nothing was done" in out
        assert not (tmp_path / "run").exists()


class TestTrain:
    def folder(self, tmp_path, *, classes=CLASSES, images=3):
        for k, name in enumerate(classes):
            (tmp_path / "data" / name).mkdir(parents=True)
            for i in range(images):
                (tmp_path / "data" / name / f"{i}.jpg").write_bytes(image_bytes(10 * k + i))
        return tmp_path / "data"

    def test_data(self, say, tmp_path):
        out = ("--output", tmp_path / "m")
        (tmp_path / "empty").mkdir()
        refused(say("train", "--data", "/none", *out), "/none")
        refused(say("train", "--data", tmp_path / "empty", *out), "no class folder")
        refused(
            say("train", "--data", self.folder(tmp_path, classes=("glioma",)), *out), "only one class folder (glioma)"
        )
        assert not (tmp_path / "m").exists()

    def test_options(self, say, tmp_path):
        base = ("train", "--data", self.folder(tmp_path), "--output", tmp_path / "m")
        refused(say(*base, "--preset", "lazy"), "lazy", "quick")
        refused(say(*base, "--epochs", "0"), "--epochs")
        refused(say(*base, "--exclude", "/none"), "--exclude", "/none")
        (tmp_path / "f").write_text("x")
        refused(say("train", "--data", tmp_path / "data", "--output", tmp_path / "f"), "is a file")


def test_a_folder_that_is_no_run(say, tmp_path):
    refused(say("report", tmp_path), "is no run")
    refused(say("report", tmp_path / "none"), "is no run")


def test_sample_draws_and_refuses_a_folder_in_use(say, tmp_path):
    code, out, _ = say("sample", "--output", tmp_path / "s", "--images", 8)
    assert code == 0 and str(tmp_path / "s") in out
    assert len(list((tmp_path / "s").rglob("*.*"))) == 8
    refused(say("sample", "--output", tmp_path / "s", "--images", 8), str(tmp_path / "s"))
    refused(say("sample", "--output", tmp_path / "t", "--images", 0), "--images")
