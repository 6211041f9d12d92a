"""No read of a local file opens a pipe or a device."""

import os

import pytest

from brainray import storage
from brainray.errors import StorageError


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "read",
    [
        storage.read_bytes,
        storage.read_once,
        lambda uri: storage.read_range(uri, 0, 1),
        lambda uri: storage.read_tail(uri, 1),
        storage.open_seekable,
        storage.read_parquet,
    ],
)
def test_a_pipe_is_refused_however_it_is_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="pipe: is a pipe, socket or device") as refused:
        read(str(tmp_path / "pipe"))
    assert refused.value.reason == "unsupported"
