"""A module on PYTHONPATH that hides an installed package is named; a defect is no fault of PYTHONPATH."""

import pytest
from support.each import each

from brainray.cli.shadowed import shadowing


def raised_in(file, monkeypatch, folder):
    """The error of a module there, with its folder on PYTHONPATH."""
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with pytest.raises(TypeError) as caught:
        exec(compile(file.read_text(), str(file), "exec"), {})
    return caught.value


@each(("name", "is_named"), [("numpy", True), ("brainray", False), ("mine", False)])
def test_only_what_hides_an_installed_package_is_blamed(name, is_named, tmp_path, monkeypatch):
    """Else each defect of brainray would be laid on a checkout that is on PYTHONPATH."""
    file = tmp_path / name / "a.py"
    file.parent.mkdir()
    file.write_text("None + 1")
    found = shadowing(raised_in(file, monkeypatch, tmp_path))
    assert found == (
        f"{file} was imported in place of an installed package; take {tmp_path} out of PYTHONPATH" if is_named else None
    )
