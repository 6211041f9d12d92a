"""Deleting a file of a folder that another process removes at the same time."""

import os
import shutil

from brainray import storage


def test_a_file_whose_folder_is_removed_while_it_is_deleted_is_deleted(tmp_path, monkeypatch):
    """Else a run whose output was taken over ended with "No such file", not with the line that says who has it."""
    folder = tmp_path / "lease"
    folder.mkdir()
    (folder / "mark").touch()
    unlink = os.unlink

    def unlink_and_revoke(path: str) -> None:
        unlink(path)
        shutil.rmtree(folder)

    monkeypatch.setattr(os, "unlink", unlink_and_revoke)
    storage.delete(str(folder / "mark"))
    monkeypatch.undo()
    assert not folder.exists()
    storage.delete(str(folder / "mark"))
