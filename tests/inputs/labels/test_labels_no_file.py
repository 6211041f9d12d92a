"""Pipes, sockets and devices given as labels are refused, for reading one may never end."""

import os
import socket

import pytest
from support.each import each
from support.inputs.labelling import CLASSES

from brainray.errors import BadRequest
from brainray.inputs.labels.answer_file import read_label_file

pytestmark = pytest.mark.timeout(20)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "l.csv")
    with pytest.raises(BadRequest, match=r"l\.csv: is a pipe, socket or device"):
        read_label_file(str(tmp_path / "l.csv"), CLASSES)


def test_an_open_pipe_is_refused():
    reading, writing = os.pipe()
    try:
        with pytest.raises(BadRequest, match="is a pipe, socket or device"):
            read_label_file(f"/dev/fd/{reading}", CLASSES)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("l.csv")  # its path has few characters, as sockets need it
        with pytest.raises(BadRequest, match="is a pipe, socket or device"):
            read_label_file(str(tmp_path / "l.csv"), CLASSES)


@each("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(device):
    with pytest.raises(BadRequest, match="is a pipe, socket or device"):
        read_label_file(device, CLASSES)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="Is a directory"):
        read_label_file(str(tmp_path), CLASSES)
