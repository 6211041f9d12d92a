"""What `brainray doctor` asks of Ray, and of each node of a cluster."""

import os
import time

import ray
from support.each import each
from support.findings import GB, machine, only, statuses, told
from support.machine.ports import free_port
from support.storage.s3_servers import SECRET_KEY, s3_endpoints, strict_s3

from brainray.doctor.machine import check_objects
from brainray.doctor.nodes import (
    NodeQuestions,
    facts,
)
from brainray.storage.shared_paths import NamedPath, SharedPaths

__all__ = ["s3_endpoints", "strict_s3"]  # fixtures


def test_a_node_that_sees_other_files_or_other_buckets(strict_s3, tmp_path):
    from brainray.cluster.doctor import path_problems

    (tmp_path / "there").mkdir()
    sees = SharedPaths(output="", mark=None, seen=(NamedPath("--input", f"{tmp_path}/there"),))
    blind = SharedPaths(output="", mark=None, seen=(NamedPath("--input", f"{tmp_path}/gone"),))
    far = [("--input", strict_s3.put("in/a.jpg"))]
    assert path_problems(sees, far, f"{strict_s3.root}/run") == {"problems": []}
    strict_s3.proxy.add("403 AccessDenied", methods=("GET", "PUT"))
    unseen, unread, denied = path_problems(blind, far, f"{strict_s3.root}/run")["problems"]
    assert unseen[0] == f"--input {tmp_path}/gone is not the same there as here" and "mount" in unseen[1]
    assert unread[0].startswith("--input s3://") and "s3:GetObject" in unread[1]
    assert denied[0].startswith("--output s3://") and "s3:PutObject" in denied[1]
    assert SECRET_KEY not in str((unread, denied))


def test_each_node_of_a_real_cluster_is_asked(local_ray, archive, bundle, tmp_path):
    from brainray.cluster.doctor import check_nodes

    reads = (("--input", str(archive())), ("--model", bundle.uri))
    found = told(check_nodes(NodeQuestions(cluster=True, reads=reads, output=f"{tmp_path}/new/run"), "here"))
    assert set(statuses(found.values()).values()) <= {"ok", "warning"}
    cluster, *of_node = found.values()
    assert cluster.found.startswith("1 node at here: ")
    paths = next(finding for finding in of_node if finding.check.endswith("paths"))
    assert paths.found == "sees and reaches what this machine does"
    assert sorted(os.listdir(tmp_path)) == ["archive"]


def test_a_node_that_does_not_answer_or_fails_is_told_by_its_name(local_ray):
    from brainray.cluster import doctor

    nodes = [doctor._cluster_node(node) for node in ray.nodes() if node["Alive"]]
    ((asked, late),) = doctor._run_on_nodes(nodes, facts, (), answer_s=0.0)
    assert late.check == f"node {asked.name}" and "did not start a task within 0 s" in late.found
    ((_, failed),) = doctor._run_on_nodes(nodes, facts, 7)  # which are no names of packages
    assert failed.status == "wrong" and "a task failed there (TypeError" in failed.found


def _refused(_, raised):
    os.write(2, b"W gcs_client.cc:210: Unauthenticated: InvalidAuthToken: token-that-was-shown")
    time.sleep(60)


def _of_another_version(_, raised):
    raised.append(RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0"))


@each(
    ("attempt", "found", "remedy"),
    [
        (_refused, "h:1 takes nobody without its token", "RAY_AUTH_MODE=token"),
        (_of_another_version, "The cluster was started with: Ray: 2.9.0", "install the Python and the Ray"),
        (lambda *_: time.sleep(60), "h:1 did not answer as Ray within 0.1 s", "ray status"),
    ],
)
def test_a_cluster_that_takes_nobody_says_why(monkeypatch, attempt, found, remedy):
    from brainray.cluster import doctor

    monkeypatch.setattr(doctor, "_try_to_connect", attempt)
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    finding = doctor._connect("h:1", timeout_s=0.1 if "within 0.1 s" in found else 120)
    assert finding.status == "wrong" and found in finding.found and remedy in finding.remedy
    assert "token-that-was-shown" not in str(finding)


def test_a_cluster_that_is_gone_is_told_at_once(monkeypatch):
    from brainray.cluster.doctor import ray_findings

    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    finding = only(ray_findings(NodeQuestions(cluster=None).to_json()))
    assert "nothing answers there" in finding.found and finding.remedy == "start that cluster or unset it"


def test_what_a_ray_started_here_will_find(monkeypatch, tmp_path):
    from brainray.cluster import doctor

    monkeypatch.setattr("ray._private.utils.get_num_cpus", lambda override_docker_cpu_warning: 8.0)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    taken = told(doctor.check_local_ray(machine(usable=2.0)))
    assert taken["ray"].status == "ok" and "with 2 processors" in taken["ray"].found
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "long" * 20)
    assert "too long for the sockets" in told(doctor.check_local_ray(machine()))["ray session folder"].found
    small = only(check_objects(machine(available=30 * GB), 64 * 10**6, "/tmp"))
    assert small.status == "warning" and "--shm-size=10g" in small.remedy
    assert only(check_objects(machine(available=30 * GB), 20 * GB, "/tmp")).status == "ok"
