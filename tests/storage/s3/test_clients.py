"""Clients: when they are made, and with which credentials, region and endpoint."""

import pickle
import subprocess
import sys

from support.storage.s3_objects import files
from support.storage.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, fast_s3, s3, s3_endpoints, strict_s3

from brainray.storage.s3.backend import S3Objects

__all__ = ["fast_s3", "s3", "s3_endpoints", "strict_s3"]  # fixtures


def test_nothing_is_made_at_import_and_clients_do_not_travel():
    clients = "('botocore', 'obstore', 'boto3')"
    script = f"import sys, brainray.storage.s3.backend; print([m for m in {clients} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_is_that_of_boto3(strict_s3):
    clients = files()._requests.clients
    assert clients.s3.list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert clients.s3.meta.config.user_agent.startswith("Boto3/")


def test_a_copy_by_pickle_works(s3):
    uri = s3.put("a/k", b"data")
    first = S3Objects(settle_s=0.5)
    assert first.read_bytes(uri) == b"data"
    second = pickle.loads(pickle.dumps(first))
    assert second.read_bytes(uri) == b"data"
    assert second._settle_s == 0.5


def test_credentials_come_from_a_profile_too(fast_s3, monkeypatch, tmp_path):
    uri = fast_s3.put("in/a.jpg")
    config = tmp_path / "config"
    config.write_text(
        f"[profile hospital]\nregion = {REGION}\nendpoint_url = {fast_s3.proxy.endpoint}\n"
        f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "hospital")
    assert files().read_bytes(uri) == b"x"
    assert files().list_names(f"{fast_s3.root}/in") == ["a.jpg"]


def test_credentials_that_expire_are_renewed(fast_s3, monkeypatch, tmp_path):
    """By `credential_process`, as single sign-on does: the second answer is the good one."""
    uri = fast_s3.put("in/a.jpg")
    program = tmp_path / "give.py"
    program.write_text(
        "import datetime, json, pathlib\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "n = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(n + 1))\n"
        "late = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1000 * n + 5)\n"
        f"print(json.dumps(dict(Version=1, AccessKeyId={ACCESS_KEY!r}, SecretAccessKey={SECRET_KEY!r},"
        " Expiration=late.isoformat())))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    backend = files()
    assert backend.read_bytes(uri) == b"x"
    assert backend.read_bytes(uri) == b"x"
    assert int((tmp_path / "count").read_text()) >= 2
