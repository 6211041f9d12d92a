"""What goes wrong around a run and not in it: a poisoned image, a storage that goes, a read that hangs, a full disk."""

import os

import pytest
from support.imaging.images import image_bytes
from support.machine.processes import POISON, Faults, Workspace, check_reader, check_whole, finished, rows_seen
from support.machine.waiting import HANGS_S
from support.scoring.runs import contents, finish_here, undisturbed_rows

from brainray import storage
from brainray.scoring.parts import read_part_info

pytestmark = pytest.mark.timeout(400)  # each takes its time to start: among the first, as conftest.py says


@pytest.fixture
def new_workspace(archive, bundle, tmp_path):
    """Gives an archive of so many images a class, none of them scored."""
    workspaces = []

    def draw(images):
        folders = {"root": archive(images=images), "output": tmp_path / "run"}
        workspaces.append(Workspace(tmp_path, model=bundle.uri, options=["--workers", "1"], **folders))
        return workspaces[-1]

    yield draw
    for workspace in workspaces:
        workspace.__exit__()


def ended_with_one_line(command, code, *, timeout_s=HANGS_S):
    """The last line of a command that was to fail; before it there is only progress."""
    assert command.wait(timeout_s) == code, str(command)
    *progress, last = command.errors()
    assert last.startswith("brainray: "), str(command)
    assert all(line.startswith(("starting workers", "scoring", "adding up")) for line in progress), str(command)
    return last


def test_an_image_that_kills_its_decoder_gets_a_row_that_says_so_and_all_others_theirs(new_workspace, bundle, tmp_path):
    workspace = new_workspace(8)
    expected = undisturbed_rows(workspace, bundle, tmp_path)
    poison = workspace.root / "notumor" / "poison.jpg"
    poison.write_bytes(image_bytes(77) + POISON)
    command = workspace.start("--max-failed", "1", faults=Faults(poison=True))
    assert command.wait() == 0, str(command)
    assert "(raylet)" not in command.stdout.read_text(), "what Ray says of dead workers belongs into its log"
    found = contents(workspace.output)
    row = found.pop(str(poison))
    assert (row["status"], row["error"]) == ("error", "unsupported")
    assert "killed its decoder (signal 11)" in row["error_detail"]
    assert (row["predicted"], row["label"]) == (None, "notumor")
    assert found == expected
    check_reader(workspace.output)
    assert storage.read_json(f"{workspace.output}/_SUCCESS")["rows"] == 33


def test_an_archive_that_goes_away_ends_the_run_and_no_image_gets_an_error_row(new_workspace, bundle, tmp_path):
    workspace = new_workspace(24)
    expected = undisturbed_rows(workspace, bundle, tmp_path)
    command = workspace.start(faults=Faults(read_ms=250))
    workspace.await_parts(command, 3)
    workspace.root.rename(tmp_path / "elsewhere")
    line = ended_with_one_line(command, 1)
    assert "is the input still mounted and readable?" in line and "run the same command to go on" in line
    kept = finished(workspace.output)
    assert 3 <= len(kept) < 24 and not (workspace.output / "_SUCCESS").exists()
    check_reader(workspace.output)
    assert [row for row in rows_seen(workspace.output) if row["status"] != "ok"] == []
    (tmp_path / "elsewhere").rename(workspace.root)
    assert finish_here(workspace, bundle).failed == 0
    check_whole(workspace.output, expected, kept=kept)


def test_a_read_that_hangs_ends_the_run_when_nothing_is_finished_any_more(new_workspace):
    workspace = new_workspace(4)
    command = workspace.start("--stall-timeout", "8", faults=Faults(hang_at="notumor/2.jpg"))
    line = ended_with_one_line(command, 1)
    assert line == (
        "brainray: no shard was finished for 8 s, so the run was ended; finished ones are kept, "
        "run the same command to go on"
    )
    check_reader(workspace.output)
    assert not (workspace.output / "_SUCCESS").exists()


def test_a_full_disk_ends_the_run_and_reads_that_fail_twice_are_counted(new_workspace, bundle, tmp_path):
    """Each image can be read at the third try only; the disk is full with the fourth part."""
    workspace = new_workspace(10)
    expected = undisturbed_rows(workspace, bundle, tmp_path)
    line = ended_with_one_line(workspace.start(faults=Faults(full_at=4, fail_first=2)), 1)
    assert "No space left on device" in line
    kept = finished(workspace.output)
    assert 3 <= len(kept) < 10 and not (workspace.output / "_SUCCESS").exists()
    assert all(name.startswith("part-") for name in os.listdir(workspace.output / "predictions"))
    assert finish_here(workspace, bundle).failed == 0
    check_whole(workspace.output, expected, kept=kept)
    figures = storage.read_json(f"{workspace.output}/summary/summary.json")
    parts = [read_part_info(f"{workspace.output}/predictions/{name}") for name in kept]
    assert figures["throughput"]["read_retries"] == sum(2 * part.rows for part in parts)
