"""UIDs of DICOM images: in no row unless asked for, then as they are or as hashes that nobody makes without the key."""

import base64
import hashlib
import hmac

import numpy as np
import pytest
from support.each import each
from support.imaging.dicoms import dicom, slice_pixels
from support.scoring.laid_out import laid_out
from support.scoring.runs import Stopped, brightness, engine_of, request_for, rows, score_here

from brainray.commands.report import report
from brainray.config import MaxFailed
from brainray.errors import BadRequest
from brainray.scoring.run_folder import verify_run
from brainray.scoring.uids import uid_rule

WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000}
STUDY, SERIES, INSTANCE = (f"1.2.826.0.1.3680043.8.498.{n}" for n in (2, 3, 1))
NAMES = ("study_uid", "series_uid", "instance_uid")
KEY = bytes(range(7, 39))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about UIDs that are none


@pytest.fixture
def folder(tmp_path):
    return drawn(tmp_path / "in")


@pytest.fixture
def hidden(home, bundle):
    """A folder with `in`, and with a run of it whose UIDs are hashed by its `key`."""

    def begin(now):
        (now / "key").write_bytes(KEY)
        run(drawn(now / "in"), now / "run", bundle, uid_key=str(now / "key"))

    return laid_out(home, begin)


def drawn(root):
    root.mkdir()
    (root / "a.dcm").write_bytes(dicom(**WINDOW))
    (root / "b.dcm").write_bytes(dicom(np.stack([slice_pixels(seed=k) for k in (3, 4)]), **WINDOW))
    (root / "ct.dcm").write_bytes(dicom(Modality="CT", SeriesInstanceUID="9.8.7"))
    (root / "cut.dcm").write_bytes(dicom()[:-50])
    (root / "named.dcm").write_bytes(dicom(StudyInstanceUID="1.2.JANE", SeriesInstanceUID="DOE^JANE", **WINDOW))
    return root


@pytest.fixture
def key(tmp_path):
    (tmp_path / "key").write_bytes(KEY)
    return str(tmp_path / "key")


def run(root, output, bundle, *, only=None, **options):
    request = request_for(root, output, bundle, **{"max_failed": MaxFailed(share=1.0), "shard_size": 3} | options)
    score_here(request, engine_of(bundle, predict=brightness, only=only))
    return rows_below(root, output)


def rows_below(root, output):
    return {row["uri"].removeprefix(f"{root}/"): row for row in rows(output)}


def uids_in(row):
    return tuple(row[name] for name in NAMES)


def hashed(uid):
    return hmac.new(KEY, uid.encode(), hashlib.sha256).hexdigest()


def test_rows_have_no_uids_unless_asked(folder, tmp_path, bundle):
    assert not any(name in row for row in run(folder, tmp_path / "run", bundle).values() for name in NAMES)


def test_kept_uids_are_those_of_the_file_and_text_in_their_place_is_left_out(folder, tmp_path, bundle):
    found = run(folder, tmp_path / "run", bundle, keep_uids=True)
    assert set(NAMES) <= set(found["a.dcm"])
    for name in ("a.dcm", "b.dcm#1", "b.dcm#2", "cut.dcm"):
        assert uids_in(found[name]) == (STUDY, SERIES, INSTANCE), name
    assert uids_in(found["ct.dcm"]) == (STUDY, "9.8.7", INSTANCE), "an excluded image belongs to its series too"
    assert uids_in(found["named.dcm"]) == (None, None, INSTANCE)


def test_hashes_are_hmac_of_the_uid_and_neither_uid_nor_key_is_anywhere(hidden):
    output, key = hidden / "run", str(hidden / "key")
    found = rows_below(hidden / "in", output)
    assert uids_in(found["a.dcm"]) == tuple(map(hashed, (STUDY, SERIES, INSTANCE)))
    assert uids_in(found["named.dcm"]) == (None, None, hashed(INSTANCE))
    secrets = (KEY, KEY.hex().encode(), base64.b64encode(KEY), key.encode(), STUDY.encode(), INSTANCE.encode())
    contents = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    contents["rows"] = repr(rows(output)).encode()
    assert [(p, secret) for p, content in contents.items() for secret in secrets if secret in content] == []


def test_the_same_key_goes_on_and_another_is_refused(hidden, tmp_path, bundle):
    folder, output, key = hidden / "in", hidden / "run", str(hidden / "key")
    before = rows_below(folder, output)
    (folder / "c.dcm").write_bytes(dicom(slice_pixels(seed=9), **WINDOW))
    after = run(folder, output, bundle, uid_key=key)
    assert after["c.dcm"]["series_uid"] == after["a.dcm"]["series_uid"]
    assert after["a.dcm"]["scored_at"] == before["a.dcm"]["scored_at"]
    (tmp_path / "other").write_bytes(KEY[::-1])
    for options in ({"uid_key": str(tmp_path / "other")}, {"keep_uids": True}, {}):
        with pytest.raises(BadRequest, match=r"holds a run with a --uid-key of fingerprint [0-9a-f]{16}, .*--rescore"):
            run(folder, output, bundle, **options)
    again = run(folder, output, bundle, rescore=True, keep_uids=True)
    assert again["a.dcm"]["series_uid"] == SERIES


def test_a_generation_that_another_key_left_unfinished_is_begun_anew(folder, tmp_path, bundle, key):
    output = tmp_path / "run"
    run(folder, output, bundle)
    (tmp_path / "other").write_bytes(KEY[::-1])
    with pytest.raises(Stopped):
        run(folder, output, bundle, only=1, rescore=True, uid_key=str(tmp_path / "other"))
    found = run(folder, output, bundle, rescore=True, uid_key=key)
    assert {row["instance_uid"] for row in found.values()} == {hashed(INSTANCE)}


def test_labels_that_come_later_leave_the_uids_and_the_run_published(hidden, tmp_path):
    folder, output = hidden / "in", hidden / "run"
    before = rows_below(folder, output)
    (tmp_path / "labels.csv").write_text(f"uri,label\n{folder}/a.dcm,glioma\n")
    summary = report(str(output), say=lambda _: None, labels=str(tmp_path / "labels.csv"))
    assert summary.figures["totals"]["labelled"] == 1
    after = rows_below(folder, output)
    assert after["a.dcm"]["label"] == "glioma" and verify_run(str(output)).rows == len(before)
    assert {name: uids_in(row) for name, row in after.items()} == {name: uids_in(row) for name, row in before.items()}


@each(
    ("content", "told"),
    [
        (b"secret", "has 6 bytes, fewer than 32; make one with: head -c 32"),
        (b"", "has 0 bytes"),
        (b"ab" * 40, "repeats few bytes"),
        (bytes(range(256)) * 20, "larger than|more than"),
    ],
)
def test_a_key_that_is_none_is_refused(tmp_path, content, told):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(BadRequest, match=f"--uid-key .*key:? .*({told})"):
        uid_rule(keep=False, key_file=str(tmp_path / "key"), output=str(tmp_path / "run"))


def test_a_key_that_cannot_be_read_or_lies_in_the_run_is_refused(tmp_path, key):
    for path, told in (
        (tmp_path / "none", "--uid-key .*none"),
        (tmp_path, "--uid-key"),
        (tmp_path / "run" / "key", "lies in --output"),
    ):
        with pytest.raises(BadRequest, match=told):
            uid_rule(keep=False, key_file=str(path), output=str(tmp_path / "run"))
    with pytest.raises(BadRequest, match="leave one out"):
        uid_rule(keep=True, key_file=key, output=str(tmp_path / "run"))


def test_no_message_or_log_can_show_the_key(key, tmp_path):
    rule = uid_rule(keep=False, key_file=key, output=str(tmp_path / "run"))
    assert rule.key == KEY
    assert "key" not in repr(rule)
