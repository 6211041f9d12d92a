"""Public buckets are read without credentials where the command line says so."""

import os

from support.imaging.dicoms import dicom
from support.storage.s3_servers import s3_endpoints, strict_s3

from brainray.cli.app import run

__all__ = ["s3_endpoints", "strict_s3"]  # fixtures


def test_a_list_of_series_in_a_public_bucket_needs_no_credentials(strict_s3, tmp_path, monkeypatch, capsys):
    strict_s3.put("uuid-a/1.dcm", dicom())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "")  # which the option sets for this process
    (tmp_path / "idc.csv").write_text(f"series_aws_url\n{strict_s3.root}/uuid-a/*\n")
    command = ["score", "--input", str(tmp_path / "idc.csv"), "--output", str(tmp_path / "run"), "--plan"]
    assert run([*command, "--no-sign-request"]) == 0
    assert os.environ["AWS_NO_SIGN_REQUEST"] == "true"
    assert "1 images" in capsys.readouterr().out


def test_nothing_can_be_written_to_a_bucket_unsigned(capsys, tmp_path):
    output = ["--output", "s3://results/run", "--no-sign-request"]
    assert run(["score", "--input", str(tmp_path), *output]) == 2
    assert "nothing can be written to --output s3://results/run unsigned; give a local" in capsys.readouterr().err
