"""The servers of the tests: without them a run of the tests must not be green."""

import pytest
from support.each import each
from support.storage import s3_servers


@each("name", ["moto_server", "rclone"])
def test_a_missing_server_fails_and_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_servers.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=f"{name} is not installed.* pip install 'moto"):
        s3_servers._program(name)
