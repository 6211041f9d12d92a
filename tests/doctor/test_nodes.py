"""What `brainray doctor` says of nodes that differ from this machine."""

import importlib.util
import json
import os
import subprocess
import sys

import ray
from ray import cloudpickle
from support.each import each
from support.findings import GB, node, only, told

from brainray.doctor import nodes as doctor_nodes
from brainray.doctor.nodes import (
    NodeAnswer,
    assess_cluster,
    assess_node,
    assess_precision,
    facts,
)

HERE = {
    "python": "3.11.7",
    "ray": "2.60.0",
    "brainray": "digest",
    "packages": {"torch": "2.14.1", "numpy": "2.4"},
    "bf16": True,
    "temporary_free_bytes": 50 * GB,
    "temporary_folder": "/tmp",
    "time_s": 1000.0,
}


def judged(*, answered_s=1001.0, described=None, **theirs):
    answer = NodeAnswer(facts=HERE | theirs, sent_s=999.0, received_s=answered_s)
    found = told(assess_node(described or node(), answer, HERE))
    return {check.removeprefix("node b").strip(): finding for check, finding in found.items()}


def test_a_node_that_is_as_this_machine():
    assert list(judged()) == [""]
    assert judged()[""].found.startswith("8 processors, 0 GPUs, 64.0 GB for workers, Python 3.11.7, Ray 2.60.0, clock")


@each(
    ("theirs", "check", "status", "words"),
    [
        ({"python": "3.12.1"}, "python", "wrong", "3.12.1 there, 3.11.7 here"),
        ({"ray": "2.59.0"}, "ray", "wrong", "2.59.0 there, 2.60.0 here"),
        ({"brainray": None}, "brainray", "wrong", "is missing"),
        ({"brainray": "other"}, "brainray", "wrong", "another version"),
        ({"packages": {"torch": None, "numpy": "2.4"}}, "packages", "wrong", "torch missing"),
        ({"packages": {"torch": "2.10", "numpy": "2.4"}}, "packages", "warning", "torch 2.10 there, 2.14.1 here"),
        ({"time_s": 1200.0}, "clock", "warning", "199 s ahead of this machine's"),
        ({"time_s": 500.0}, "clock", "wrong", "499 s behind this machine's"),
        ({"temporary_free_bytes": GB}, "temporary folder", "warning", "/tmp has 1.0 GB free"),
        ({"described": node(memory=4 * GB)}, "memory", "warning", "room for 3 of 8 scoring processes"),
    ],
)
def test_a_node_that_differs_is_told_with_the_difference(theirs, check, status, words):
    found = judged(**theirs)
    assert list(found) == ["", check]
    assert found[check].status == status and words in found[check].found


def test_a_slow_answer_is_not_taken_for_a_wrong_clock():
    assert "clock" not in judged(answered_s=1500.0)


def test_a_cluster_of_a_head_alone_cannot_score_yet():
    head = only(assess_cluster([node("head", cpus=0.0)], "head:6379"))
    assert head.status == "warning" and "no node has processors" in head.found
    both = only(assess_cluster([node("head", cpus=0.0), node()], "head:6379"))
    assert "2 nodes at head:6379: 8 processors" in both.found and "8 processes would score" in both.found


def test_a_gpu_that_no_work_can_use_is_told():
    """Else whoever pays for it would take the run to use it."""
    head = only(assess_cluster([node("head", cpus=0.0, gpus=1.0), node()], "head:6379"))
    assert head.status == "warning" and "8 processes would score" in head.found and head.found.endswith(": head")
    assert "--num-cpus" in head.remedy
    assert only(assess_cluster([node("all", cpus=1.0, gpus=1.0)], "head:6379")).status == "ok"


def test_nodes_that_would_round_otherwise_are_told():
    mixed = only(assess_precision([(node("old"), False), (node("new"), True)]))
    assert "--precision fp32" in mixed.remedy and mixed.found.count("old") == 1
    assert list(assess_precision([(node("head", cpus=0.0), False), (node("new"), True)])) == []
    assert list(assess_precision([(node("gpu", gpus=1.0), False), (node("new"), True)])) == []  # only GPUs predict


def test_a_node_without_brainray_can_say_so():
    """What asks it must not need the package itself."""
    cloudpickle.register_pickle_by_value(doctor_nodes)
    sent = cloudpickle.dumps(facts)
    cloudpickle.unregister_pickle_by_value(doctor_nodes)
    script = (
        f"import sys; sys.path.append({os.path.dirname(os.path.dirname(ray.__file__))!r})\n"
        "import json, pickle; print(json.dumps(pickle.load(sys.stdin.buffer)([('other', 'ray'), ('no-such',)])))"
    )
    # -S: packages are where they are, and this one, which is installed by a link to its folder, is not.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], input=sent, capture_output=True, timeout=250)
    told_by_it = json.loads(done.stdout)
    assert told_by_it["packages"] == {"other": ray.__version__, "no-such": None}
    assert told_by_it["brainray"] is None
    assert set(told_by_it) == set(HERE)


def test_nodes_whose_code_differs_in_a_folder_of_the_package_are_told_apart(tmp_path, monkeypatch):
    package = tmp_path / "brainray"
    (package / "imaging").mkdir(parents=True)
    for name in ("__init__.py", "imaging/__init__.py", "imaging/decode.py"):
        (package / name).write_text("")
    there = importlib.util.spec_from_file_location("brainray", package / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: there)
    before = doctor_nodes.facts(())["brainray"]
    (package / "imaging" / "decode.py").write_text("ANOTHER = 1")
    assert doctor_nodes.facts(())["brainray"] != before
