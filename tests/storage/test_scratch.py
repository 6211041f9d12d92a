"""Scratch folders go with their process, however it ended."""

import errno
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pytest

from brainray.errors import StorageError
from brainray.scoring.manifest import duckdb_connection
from brainray.storage.scratch import scratch_folder

HOLD = """
import sys
from brainray.storage.scratch import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def other(temporary):
    """A process that has one, and its folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process, Path(process.stdout.readline().decode().strip())
        process.kill()


def test_it_is_empty_and_gone_at_the_end(temporary):
    with scratch_folder() as folder:
        assert Path(folder).parent == temporary
        (Path(folder) / "large").mkdir()
    assert list(temporary.iterdir()) == []


def test_that_of_a_killed_process_is_removed_by_the_next(other, temporary):
    process, folder = other
    (folder / "large").write_bytes(b"0" * 1000)
    process.kill()
    process.wait(120)
    assert folder.exists()
    with scratch_folder():
        assert not folder.exists()


def test_that_of_a_running_process_stays_and_what_others_have_left_too(other, temporary):
    process, folder = other
    (temporary / "brainray-notes").mkdir()
    (temporary / "brainray-file").write_bytes(b"")
    with scratch_folder():
        pass
    assert folder.exists()
    process.communicate(timeout=120)
    assert sorted(path.name for path in temporary.iterdir()) == ["brainray-file", "brainray-notes"]


@pytest.mark.parametrize(
    ("opened", "error"),
    [
        (scratch_folder, OSError(errno.ENOSPC, "Error writing bytes to file")),
        (duckdb_connection, duckdb.IOException("Could not write file: No space left on device")),
        (duckdb_connection, duckdb.OutOfMemoryException("limit set by the 'max_temp_directory_size' setting")),
    ],
)
def test_a_full_disk_is_named_with_the_way_to_another(temporary, opened, error):
    """A listing of millions of images needs more than a small /tmp has; it is no defect to be reported."""
    with pytest.raises(StorageError, match=f"^{temporary}: no space left .* TMPDIR"), opened():
        raise error
    assert not list(temporary.iterdir())
