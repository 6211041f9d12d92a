"""Searching the page in a browser: a name, a series or a group is marked in every part that shows it."""

import pytest
from support.page.browser import CHROMIUM, Tab, in_browser
from support.scoring.run_rows import failed, scored, write_run

from brainray.config import PageOptions
from brainray.scoring.summary.build import build_summary

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")
PATIENT = "patient with a name that is far longer than a tile has room for, number 17"
MARKED = """[...document.querySelectorAll('.hit')].map((hit) => {
  const list = hit.closest('.tiles, table');
  return list.tagName === 'TABLE' ? 'groups' : list.classList[1];
})"""


def rows():
    for patient in (PATIENT, "another"):
        for i in range(3):
            yield scored(f"/{patient}/series-{i}/right.jpg", "glioma", 0.6 + i / 10, label="glioma", group=patient)
        yield scored(f"/{patient}/wrong.jpg", "notumor", 0.9, label="glioma", group=patient)
    yield failed(f"/{PATIENT}/cut.jpg", group=PATIENT)


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (PATIENT.upper(), {"mistakes", "least", "failures", "strip", "groups"}),
        ("number 17", {"mistakes", "least", "failures", "strip", "groups"}),
        ("series-2", {"least"}),
        ("wrong.jpg", {"mistakes", "strip"}),
        ("nowhere", set()),
    ],
)
def test_it_marks_every_part(tmp_path, typed, parts):
    run = write_run(tmp_path, list(rows()), group_by="folder")
    build_summary(run, page=PageOptions(thumbnails=False))

    async def visit(tab: Tab):
        await tab.open(tmp_path / "summary" / "report.html")
        await tab.run("document.querySelector('#search').focus()")
        await tab.call("Input.insertText", text=typed)
        return await tab.run(MARKED), await tab.run("document.querySelector('output').textContent")

    marked, said = in_browser(visit)
    assert set(marked) == parts
    assert said == f"{len(marked)} found here"
