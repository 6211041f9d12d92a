"""Labels and names in JSON Lines: none is lost, and damaged text is refused."""

import pytest

from brainray.errors import BadRequest
from brainray.inputs.labels.answer_file import read_label_file

CLASSES = ("glioma", "notumor")


def labels(tmp_path, text):
    (tmp_path / "l.jsonl").write_text(text)
    return read_label_file(str(tmp_path / "l.jsonl"), CLASSES)


def test_a_label_in_the_last_line_without_its_end_is_read(tmp_path):
    found = labels(tmp_path, '{"path":"a.jpg"}\n{"path":"b.jpg","label":"glioma"}')
    assert (found.rows, found.without_label) == (2, 1)


def test_a_label_that_appears_late_is_refused(tmp_path):
    early = '{"path":"%d.jpg","class":"glioma"}\n'
    with pytest.raises(BadRequest, match="line 1,001 has 'label', which none of the first 1,000 has"):
        labels(tmp_path, "".join(early % i for i in range(1000)) + '{"path":"b.jpg","label":"glioma"}\n')


def test_half_a_character_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="damaged text before line 2"):
        labels(tmp_path, '{"path":"\\ud800.jpg","label":"glioma"}\n')
