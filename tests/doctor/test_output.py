"""What `brainray doctor` says of the folder or bucket that a run would write."""

import json
import os
import time

from support.each import each
from support.findings import GB, only, output_in, statuses, told
from support.storage.s3_servers import decided_s3, s3_endpoints

from brainray import storage
from brainray.doctor.checks import (
    guarded,
)
from brainray.doctor.output import check_disk, check_output_option, check_state
from brainray.machine.hardware import Disk
from brainray.scoring.run_folder import SCHEMA_VERSION
from brainray.storage.lease import hold

__all__ = ["decided_s3", "s3_endpoints"]  # fixtures


def state(output, *, inputs=(), model=None):
    name = f"--output {output}"
    return told(guarded(name, lambda: check_state(str(output), inputs=inputs, model=model)))[name]


def write_run(output, **values):
    output.mkdir(exist_ok=True)
    described = {"schema_version": SCHEMA_VERSION, "fingerprint": "f" * 32, "inputs": ["/in"]} | values
    (output / "run.json").write_text(json.dumps(described))


def test_whose_an_output_is(tmp_path, bundle):
    output = tmp_path / "run"
    assert state(output).found == "free for a new run"
    output.mkdir()
    assert state(output).status == "ok"
    (output / "thesis.tex").touch()
    assert state(output).found == "holds other files and no run: thesis.tex"
    write_run(output)
    assert state(output).found == f"holds a run of model {'f' * 32}, not finished"
    (output / "_SUCCESS").touch()
    assert state(output, inputs=["/in"]).found.endswith("published")
    assert "--rescore" in state(output, model=bundle.uri).remedy
    assert state(output, model="/no/such/model").status == "ok"  # its own check says so
    assert "--input /in too" in state(output, inputs=["/other"]).found
    write_run(output, schema_version=0)
    assert "format 0" in state(output).found
    assert state(tmp_path / "run" / "run.json").found == "is a file"


def test_an_output_that_is_held_names_its_holder(tmp_path):
    with hold(str(tmp_path / "run"), purpose="score", say=print):
        finding = state(tmp_path / "run")
    assert finding.status == "wrong"
    assert "is held by another run: score on" in finding.found and finding.remedy == "wait for it to end"
    assert state(tmp_path / "run").status == "ok"


def test_a_run_on_another_machine_shows_by_its_status(tmp_path):
    output = tmp_path / "run"
    write_run(output)
    status = {"phase": "scoring", "holder": {"host": "elsewhere", "pid": 7}}

    def seen(ago_s):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - ago_s))
        (output / "status.json").write_text(json.dumps(status | {"last_progress": stamp}))
        return told(check_state(str(output), inputs=(), model=None)).get(f"--output {output} status")

    assert "by process 7 on elsewhere" in seen(5).found
    assert seen(5000) is None
    (output / "status.json").write_text("{")
    assert f"--output {output} status" not in told(check_state(str(output), inputs=(), model=None))


def test_an_output_is_tried_where_it_will_be_and_nothing_stays(tmp_path):
    finding = only(check_disk(f"{tmp_path}/a/b/run"))
    in_memory = "lost when this machine starts anew" in finding.found  # as folders of tests may be
    assert finding.status == ("warning" if in_memory else "ok") and f"{tmp_path} can be written to" in finding.found
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    assert only(check_disk(f"{tmp_path}/file/run")).found == f"{tmp_path}/file is a file"


def test_a_read_only_disk_is_told_before_anything_is_scored(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(30, "Read-only file system", path)

    monkeypatch.setattr("os.makedirs", refuse)  # for root, permissions of a folder refuse nothing
    finding = only(check_disk(f"{tmp_path}/run"))
    assert (finding.status, finding.found) == ("wrong", f"{tmp_path} cannot be written to (Read-only file system)")


@each(
    ("disk", "status", "words"),
    [
        ({"kind": "nfs4"}, "ok", "nfs4, 50.0 GB free"),
        ({"kind": "tmpfs"}, "warning", "lost when this machine starts anew"),
        ({"kind": "fuse.s3fs"}, "warning", "a bucket shown as a folder"),
        ({"free_bytes": GB}, "warning", "1.0 GB free"),
        ({"free_bytes": 10**6}, "wrong", "1.0 MB free"),
        ({"free_files": 3}, "wrong", "room for 3 more files"),
        ({"free_files": 0}, "wrong", "room for 0 more files"),
        ({"free_files": None}, "ok", "50.0 GB free"),
    ],
)
def test_what_disk_an_output_lies_on(tmp_path, disk, status, words):
    shown = Disk(**{"kind": "ext4", "free_bytes": 50 * GB, "total_bytes": 60 * GB, "free_files": 10**6} | disk)
    finding = only(check_disk(str(tmp_path), read=lambda _: shown))
    assert finding.status == status and words in finding.found


def test_a_file_system_on_which_two_runs_can_hold_one_output(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "claim", lambda uri, *_: os.makedirs(uri, exist_ok=True) or True)
    assert "lets two runs believe" in only(check_disk(str(tmp_path))).found
    monkeypatch.undo()
    monkeypatch.setattr(storage, "revoke", lambda _: None)
    assert only(check_disk(str(tmp_path))).status == "wrong"


def test_a_model_may_be_trained_into_an_output(tmp_path, bundle):
    def found(uri):
        how = {"inputs": (), "model": None, "training": True, "with_store": True}
        return told(check_output_option(str(uri), **how))[f"--output {uri}"].found

    assert found(tmp_path / "new") == "holds no finished model"
    assert "holds a trained model" in found(bundle.uri)


def test_every_permission_that_a_run_needs_is_used_once_and_nothing_stays(decided_s3):
    found = output_in(decided_s3)
    store, clock = f"{decided_s3.root} store", f"{decided_s3.root} clock"
    assert list(found) == [store, clock, "list", "put", "get", "delete", "conditional put", ""]
    assert set(statuses(found.values()).values()) == {"ok"}
    assert found[store].found == f"{decided_s3.proxy.endpoint}, region us-east-1, credentials by env"
    assert "If-None-Match and If-Match are honoured" in found["conditional put"].found
    assert decided_s3.there() == []
