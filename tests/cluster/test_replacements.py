"""A cluster that has lost its machines: the request for another one holds until there is one."""

import pytest

from brainray.cluster import nodes
from brainray.machine.resources import Node, ScorePool

RAY_DATA = [{"CPU": 0.9, "memory": 1_101_004_800}]


@pytest.fixture
def asked(monkeypatch):
    """The one request that a cluster keeps, the last, whoever made it."""
    kept = {"bundles": RAY_DATA}
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", kept.update)
    monkeypatch.setattr(nodes, "_POLL_S", 0.0)
    return kept


def test_a_machine_is_asked_for_again_when_ray_data_has_replaced_the_request(asked, monkeypatch):
    """Else a run whose last machine has gone would wait for ever, where machine types are listed without memory."""
    alive, said = [Node(cpus=0)], []
    monkeypatch.setattr(nodes, "cluster_nodes", lambda: alive)
    replacements = nodes.Replacements(ScorePool(actors=1, cpus_per_actor=0.9), say=said.append)
    for _ in range(3):
        asked["bundles"] = RAY_DATA
        replacements.check()
        assert asked["bundles"] == [{"CPU": 1}]
    assert len(said) == 1
    alive.append(Node(cpus=1))
    replacements.check()
    assert asked["bundles"] == []


def test_the_request_of_others_stays_where_no_machine_is_missing(asked, monkeypatch):
    """Else scoring would take back what other jobs of the cluster have asked for."""
    monkeypatch.setattr(nodes, "cluster_nodes", lambda: [Node(cpus=2)])
    replacements = nodes.Replacements(ScorePool(actors=1, cpus_per_actor=1), say=pytest.fail)
    replacements.check()
    replacements.close()
    assert asked["bundles"] == RAY_DATA


def test_the_first_machine_is_asked_for_until_it_is_there(asked, monkeypatch):
    """Else another job's request in between would leave the start of a run without a machine."""
    seen = []

    def look():
        seen.append(asked["bundles"])
        asked["bundles"] = RAY_DATA
        return [Node(cpus=0 if len(seen) < 3 else 1)]

    monkeypatch.setattr(nodes, "cluster_nodes", look)
    nodes.await_workers([Node(cpus=0)], say=lambda _: None)
    assert seen == [[{"CPU": 1}]] * 3
    assert asked["bundles"] == []
