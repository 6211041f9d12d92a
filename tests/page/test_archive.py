"""The chapter on the archive: what its images look like, beside the model's reference and beside the run before."""

import json
from pathlib import Path

import numpy as np
from support.page.html_pages import read_page
from support.scoring.run_rows import scored, write_run

from brainray.evaluation.appearance import Appearance
from brainray.scoring.prediction_schema import LATER
from brainray.scoring.summary.build import build_summary

KNOWN = {"brightness": 0.25, "contrast": 0.2}


def images(number, brightness=0.25, **values):
    """Rows of images of the same look."""
    looks = {"brightness": brightness, "contrast": 0.2, "width": 512, "height": 400}
    return [scored(f"/{i:04}.jpg", "glioma", **(looks | values)) for i in range(number)]


def reference(number=500):
    """What run.json holds of the reference of a bundle."""
    values = {name: np.full(number, value) for name, value in KNOWN.items()} | {"longest_side_px": np.full(number, 512)}
    return {"images": number, **Appearance.of(values).figures()}


def chapter(run):
    build_summary(run)
    return read_page(Path(run, "summary", "report.html").read_text()).by_id("archive")


def figures_of(run):
    return json.loads(Path(run, "summary", "summary.json").read_text())


def write(folder, rows, **values):
    return write_run(folder, rows, later_columns=list(LATER), **values)


def test_images_that_look_like_those_of_the_reference_are_said_to(tmp_path):
    run = write(tmp_path, images(300), reference_images=reference())
    shown = chapter(run)
    assert "By brightness, contrast and size its images are alike to the 500 pictures" in shown.text
    charts = [figure.text.split()[0] for figure in shown.all("figure")]
    assert charts == ["Confidence", "Brightness", "Contrast"]
    assert set(figures_of(run)["drift"]) == {"brightness_psi", "contrast_psi", "longest_side_psi"}
    sizes = next(table for table in shown.all("table") if "Longest side" in table.text)
    assert sizes.rows() == [["512 to 767", "300", "", "100.0 %", "100.0 %"]]


def test_brighter_or_larger_images_are_said_to_be_different(tmp_path):
    brighter = chapter(write(tmp_path / "a", images(300, 0.6), reference_images=reference()))
    assert "its images are different from the 500 pictures" in brighter.text
    larger = chapter(write(tmp_path / "b", images(300, width=2_000), reference_images=reference()))
    assert "its images are different from the 500 pictures" in larger.text
    assert "1,024 to 2,047" in larger.text


def test_without_a_reference_what_is_known_stands_alone(tmp_path):
    shown = chapter(write(tmp_path, images(300)))
    assert "What those images looked like is not recorded" in shown.text
    assert len(list(shown.all("figure"))) == 3
    assert "PSI" not in shown.text


def test_rows_of_an_earlier_version_have_no_brightness_to_show(tmp_path):
    run = write_run(tmp_path, images(300), reference_images=reference())
    assert [figure.text.split()[0] for figure in chapter(run).all("figure")] == ["Confidence"]
    assert figures_of(run)["brightness"] is None


def test_the_generation_before_is_drawn_and_one_that_did_not_measure_is_not(tmp_path):
    run = write(tmp_path, images(300), fingerprint="f00d" * 8)
    build_summary(run)
    old = figures_of(run) | {"fingerprint": "01d" * 10}
    for known, lines in ((old, 3), (old | {"brightness": None, "contrast": None}, 1)):
        Path(run, "summary", "summary.json").write_text(json.dumps(known))
        shown = chapter(run)
        dashed = [path for path in shown.all("path") if "dashed" in path.attributes["class"]]
        assert len(dashed) == lines
        assert "the generation before" in next(shown.classed("legend")).text


def test_too_few_images_say_nothing(tmp_path):
    shown = chapter(write(tmp_path, images(20), reference_images=reference())).text
    assert "Too few images are scored to say" in shown
    assert "PSI" not in shown, "an index that means nothing is shown, and calls the images different"
