"""What `brainray doctor` says of images, training data, models and buckets that are read."""

import time
from email.utils import formatdate

import pytest
from botocore.httpsession import URLLib3Session
from support.each import each
from support.findings import only, output_in, statuses, told
from support.imaging.images import image_bytes
from support.inputs.archive_rows import parquet_of
from support.machine.ports import free_port
from support.models.bundles import untrained
from support.storage.s3_servers import decided_s3, fast_s3, s3_endpoints, use_server

from brainray.doctor.checks import (
    guarded,
)
from brainray.doctor.inputs import check_data_option, check_input_option, check_model_option, check_store
from brainray.errors import BadRequest

__all__ = ["decided_s3", "fast_s3", "s3_endpoints"]  # fixtures


def test_images_on_disk(archive, tmp_path):
    root = archive()
    found = told(check_input_option(str(root), with_store=True))
    assert statuses(found.values()) == {f"--input {root} list": "ok", f"--input {root} read": "ok"}
    assert f"the first image is {root}/glioma/0.jpg" in found[f"--input {root} list"].found
    assert "JPEG of 40 x 48" in found[f"--input {root} read"].found
    (tmp_path / "list.csv").write_text("path\narchive/notumor/2.jpg\n")
    listed = told(check_input_option(f"{tmp_path}/list.csv", with_store=True))
    assert "notumor/2.jpg" in listed[f"--input {tmp_path}/list.csv list"].found
    (tmp_path / "list.csv").write_text("path\narchive/pituitary/*\n")
    listed = told(check_input_option(f"{tmp_path}/list.csv", with_store=True))
    assert "pituitary/0.jpg" in listed[f"--input {tmp_path}/list.csv list"].found


def test_what_is_no_image(tmp_path):
    nothing = only(check_input_option(f"{tmp_path}/nothing", with_store=True))
    assert (nothing.status, nothing.found) == ("wrong", "No such file or directory")
    (tmp_path / "a.txt").write_text("x")
    assert only(check_input_option(str(tmp_path), with_store=True)).found == "no image among 1 file"
    (tmp_path / "b.jpg").write_bytes(b"\0" * 128 + b"DICM")
    dicom = told(check_input_option(str(tmp_path), with_store=True))[f"--input {tmp_path} read"]
    assert dicom.status == "warning" and "DICOM" in dicom.found
    with pytest.raises(BadRequest, match="not served"):
        list(check_input_option("gs://bucket/x", with_store=True))


@each("log", ["_delta_log/0.json", "metadata/v1.metadata.json"])
def test_a_table_whose_log_decides_on_its_rows_is_refused_as_score_does(tmp_path, log):
    data = tmp_path / ("data" if log.startswith("metadata") else ".") / "part-0.parquet"
    for path in (data, tmp_path / log):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(parquet_of({"image": [b"x"]}))
    finding = only(check_input_option(str(tmp_path), with_store=True))
    assert finding.status == "wrong" and "table, whose log says which rows" in finding.found


def test_a_long_way_to_the_first_image_is_not_walked_to_its_end(tmp_path):
    for number in range(1001):
        (tmp_path / f"{number:04}.txt").touch()
    finding = only(check_input_option(str(tmp_path), with_store=True))
    assert finding.status == "warning" and finding.found == "no image among its first 1,000 files"


def test_training_data_needs_class_folders(archive, tmp_path):
    root = archive()
    classes = told(check_data_option(str(root), with_store=True))[f"--data {root} classes"]
    assert classes.found == "4 folders: glioma, meningioma, notumor, pituitary"
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.jpg").write_bytes(image_bytes())
    assert told(check_data_option(str(flat), with_store=True))[f"--data {flat} classes"].status == "wrong"


def test_a_model_is_read_whole(bundle, tmp_path):
    finding = only(check_model_option(bundle.uri, with_store=True))
    assert finding.status == "ok"
    assert bundle.fingerprint in finding.found and "glioma, meningioma, notumor, pituitary" in finding.found
    damaged = untrained(tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    finding = only(guarded(f"--model {damaged.uri}", lambda: check_model_option(damaged.uri, with_store=True)))
    assert finding.found.startswith("the files do not match the fingerprint")


@pytest.mark.parametrize(
    ("methods", "key", "step", "action"),
    [
        (("GET",), "list-type=2", "list", "s3:ListBucket"),
        (("PUT",), "", "put", "s3:PutObject"),
        (("GET",), "brainray-doctor", "get", "s3:GetObject"),
        (("DELETE",), "", "delete", "s3:DeleteObject"),
    ],
)
def test_a_missing_permission_is_named_by_its_action(decided_s3, methods, key, step, action):
    decided_s3.proxy.add("403 AccessDenied", methods=methods, key=key)
    found = output_in(decided_s3)
    wrongs = {name: finding for name, finding in found.items() if finding.status == "wrong"}
    assert list(wrongs) == [step]
    assert wrongs[step].found == "access denied"
    assert wrongs[step].remedy.startswith(f"the credentials in use need {action} here")


def test_an_input_that_may_be_listed_and_not_read(decided_s3):
    image = decided_s3.put("in/a.jpg", image_bytes())
    uri = f"{decided_s3.root}/in"
    readable = told(check_input_option(uri, with_store=False))
    assert f"the first image is {image}" in readable[f"--input {uri} list"].found
    assert "JPEG of 40 x 48" in readable[f"--input {uri} get"].found
    decided_s3.proxy.add("403 AccessDenied", key=r"in/a\.jpg$")
    denied = told(check_input_option(uri, with_store=False))[f"--input {uri} get"]
    assert denied.status == "wrong" and "s3:GetObject" in denied.remedy
    decided_s3.proxy.add("403 AccessDenied", key="list-type")
    denied = only(check_input_option(uri, with_store=False))
    assert denied.check == f"--input {uri} list" and "s3:ListBucket" in denied.remedy


def test_a_bucket_that_is_not_there(decided_s3):
    found = only(check_input_option("s3://no-such-bucket-anywhere/in", with_store=False))
    assert found.found.startswith("there is no bucket no-such-bucket-anywhere at")
    empty = only(check_input_option(f"{decided_s3.root}/none", with_store=False))
    assert (empty.status, empty.found) == ("wrong", "there is no such object or folder")


def test_a_store_without_conditional_writes_is_a_risk_and_no_obstacle(fast_s3):
    found = output_in(fast_s3)["conditional put"]
    assert found.status == "warning"
    assert "ignores If-None-Match and If-Match" in found.found and "at the same time" in found.remedy
    assert fast_s3.there() == []


@pytest.mark.parametrize(
    ("ahead_s", "status", "words"),
    [
        (0, "ok", "within"),
        (100, "warning", "s ahead of the store's"),
        (-100, "warning", "s behind the store's"),
        (1000, "wrong", "s ahead of the store's"),
    ],
)
def test_a_clock_that_differs_from_the_stores(decided_s3, ahead_s, status, words):
    date = formatdate(time.time() - ahead_s, usegmt=True)
    decided_s3.proxy.add("403 RequestTimeTooSkewed", methods=("HEAD",), headers=(("Date", date),))
    clock = told(check_store(decided_s3.root))[f"{decided_s3.root} clock"]
    assert clock.status == status and words in clock.found


def test_a_token_that_will_run_out_during_a_long_run(decided_s3, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-a-session")
    use = told(check_store(decided_s3.root))[f"{decided_s3.root} store"]
    assert use.status == "warning" and "nobody renews" in use.found
    assert "token-of-a-session" not in str(use)


def test_a_store_that_cannot_be_reached_is_tried_once(decided_s3, monkeypatch):
    use_server(monkeypatch, f"http://user:password-of-it@127.0.0.1:{free_port()}")
    sent: list[str] = []
    send = URLLib3Session.send
    monkeypatch.setattr(
        URLLib3Session, "send", lambda self, request: (sent.append(request.url), send(self, request))[1]
    )
    finding = only(guarded("--input s3://bucket/in", lambda: check_input_option("s3://bucket/in", with_store=True)))
    assert len(sent) == 1
    assert "cannot be reached" in finding.found and "AWS_ENDPOINT_URL" in finding.remedy
    assert "password-of-it" not in str(finding)


@each(
    ("text", "status", "words"),
    [
        ("uri,label\n1.jpg,dog\n", "warning", "'dog' is no class of the model, so `score` needs --labels"),
        ("uri,label\n1.jpg,Glioma\n", "ok", "the column label holds classes"),
        ("uri,tumor\n1.jpg,glioma\n", "warning", "none of its columns (uri, tumor) labels the images"),
        ("uri,label\n1.jpg,NA\n", None, ""),
        ("uri\n1.jpg\n", None, ""),
    ],
)
def test_labels_of_a_list_that_score_would_refuse_are_told_before(bundle, tmp_path, text, status, words):
    (tmp_path / "1.jpg").write_bytes(image_bytes(1))
    (tmp_path / "l.csv").write_text(text)
    findings = list(check_input_option(str(tmp_path / "l.csv"), with_store=False, model=bundle.uri))
    found = [finding for finding in findings if finding.check.endswith(" labels")]
    assert [finding.status for finding in found] == ([status] if status else [])
    assert all(finding.found.startswith(words) for finding in found)
