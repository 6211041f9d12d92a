"""The page of a run that is scored anew, and where its images stand."""

from pathlib import Path

from support.models.bundles import derived
from support.scoring.runs import engine_of, request_for, score_here

from brainray.scoring.rescore import next_uri
from brainray.scoring.summary import report_page


def test_scoring_anew_makes_one_page_which_shows_the_model_before(archive, bundle, tmp_path, monkeypatch):
    made = []

    def counting(rows):
        made.append(len(rows))
        return {}

    monkeypatch.setattr(report_page, "make_thumbnails", counting)
    root, run = archive(images=2), tmp_path / "run"
    score_here(request_for(root, run, bundle, report=True), engine_of(bundle))
    other = derived(bundle, tmp_path / "other", factor=3.0)
    score_here(request_for(root, run, other, report=True, rescore=True), engine_of(other))
    assert made == [8, 8]
    text = Path(run, "summary", "report.html").read_text()
    assert f"The generation before (model <code>{bundle.fingerprint[:8]}</code>" in text
    assert str(run) in text
    assert next_uri(str(run)) not in text
    assert Path(run, "summary", "previous.json").exists()


def test_a_page_without_thumbnails_reads_no_manifest(archive, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "load_shards", lambda *_: 1 / 0)
    request = request_for(archive(images=2), tmp_path / "run", bundle, report=True, thumbnails=False)
    score_here(request, engine_of(bundle))
    assert Path(tmp_path, "run", "summary", "report.html").exists()
