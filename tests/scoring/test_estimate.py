"""How long a run would take: arithmetic, and one real probe."""

import pytest
from support.scoring.runs import request_for
from typer.testing import CliRunner

from brainray import storage
from brainray.cli.app import app
from brainray.commands.score import plan_with_probe
from brainray.machine.resources import Node, score_pool
from brainray.scoring.estimate import ProbeTimes, estimate

PROBE = ProbeTimes(read_s=0.002, predict_s=0.001)


def expected(nodes, *, images=10**6, workers=None):
    pool = score_pool(nodes, workers=workers, shards=1000, images=images)
    return estimate(PROBE, images, nodes=nodes, pool=pool)


def test_more_processors_take_less_time_and_cost_about_the_same():
    one, ten = (expected([Node(cpus=8)] * machines, images=10**8) for machines in (1, 10))
    assert ten.images_per_s == pytest.approx(10 * one.images_per_s)
    assert ten.nodes == 10
    assert ten.node_hours == pytest.approx(one.node_hours, rel=0.05)
    assert one.seconds == pytest.approx(10**8 / one.images_per_s, rel=0.02)


def test_workers_that_are_not_asked_for_do_nothing():
    assert expected([Node(cpus=8)], workers=2).images_per_s < expected([Node(cpus=8)]).images_per_s / 3


def test_a_head_without_processors_costs_nothing_and_does_nothing():
    assert expected([Node(cpus=0), Node(cpus=4)]).nodes == 1


def test_with_gpus_the_slower_side_counts():
    few = expected([Node(cpus=1, gpus=1)])
    assert few.images_per_s == pytest.approx(0.83 / PROBE.read_s)
    many = expected([Node(cpus=64, gpus=1)])
    assert many.images_per_s == pytest.approx(1 / PROBE.predict_s)


def test_a_probe_scores_some_images_and_leaves_nothing(archive, bundle, tmp_path):
    request = request_for(archive(images=20), tmp_path / "run", bundle, shard_size=5)
    plan, found = plan_with_probe(request, say=print)
    assert plan.todo_images == 80
    assert found is not None and found.images_per_s > 0
    assert not storage.exists(str(tmp_path / "run"))


def test_a_price_gives_a_cost(archive, bundle, tmp_path):
    arguments = ["--input", str(archive(images=2)), "--model", bundle.uri, "--output", str(tmp_path / "run")]
    told = CliRunner().invoke(app, ["score", *arguments, "--price", "3600"])
    assert told.exit_code == 0, told.output
    assert "expected: " in told.output and "on 1 machine" in told.output
    assert "machine-hours at 3600 each" in told.output
