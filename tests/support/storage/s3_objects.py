"""What tests of the S3 backend share."""

import traceback

import pytest
from support.storage.s3_servers import ACCESS_KEY, SECRET_KEY

from brainray.errors import (
    StorageError,
)
from brainray.storage.s3.backend import S3Objects


def files(**how) -> S3Objects:
    """Without waits."""
    return S3Objects(settle_s=0.2, sleep=lambda _: None, **how)


def held(server, epoch: int = 1) -> str:
    """An output's staging folder, claimed."""
    staging = f"{server.root}/out/.lease/{epoch:08d}"
    server.put(f"out/.lease/{epoch:08d}/holder.json", b"{}")
    return staging


def error_of(action) -> StorageError:
    with pytest.raises(StorageError) as caught:
        action()
    assert_safe(caught.value)
    return caught.value


def assert_safe(exc: BaseException) -> None:
    """One line, and neither it nor the trace of its causes holds what must not be seen."""
    assert len(str(exc).splitlines()) == 1
    shown = "".join(traceback.format_exception(exc))
    for secret in (SECRET_KEY, ACCESS_KEY, "REQUEST-ID", "RequestId", "HostId"):
        assert secret not in shown
