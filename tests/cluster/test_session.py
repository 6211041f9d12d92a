"""Which cluster a command uses."""

import socket

import pytest

from brainray.cluster.session import cluster_address
from brainray.errors import BadRequest


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def gone():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


@pytest.fixture
def left_behind(monkeypatch):
    def leave(address):
        monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: address)

    return leave


def test_the_named_one(monkeypatch, listening):
    monkeypatch.setenv("RAY_ADDRESS", listening)
    assert cluster_address() == listening


def test_a_named_one_that_is_gone_is_told_at_once_and_not_waited_for(monkeypatch, gone):
    for address in (gone, f"ray://{gone}"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(BadRequest, match=f"RAY_ADDRESS is {address}, but nothing answers"):
            cluster_address()


def test_the_one_last_started_here_if_it_still_runs(monkeypatch, listening, gone, left_behind):
    monkeypatch.delenv("RAY_ADDRESS")
    left_behind(listening)
    assert cluster_address() == listening
    left_behind(gone)
    assert cluster_address() is None
    left_behind(None)
    assert cluster_address() is None


def test_auto_wants_one_that_runs(monkeypatch, gone, left_behind):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    left_behind(gone)
    with pytest.raises(BadRequest, match="no cluster runs"):
        cluster_address()


def test_local_is_none(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address() is None
