"""What tests of `brainray doctor` share: findings by name, and machines and nodes to judge."""

from support.storage.s3_servers import ACCESS_KEY, SECRET_KEY

from brainray.doctor.checks import (
    Finding,
)
from brainray.doctor.nodes import (
    ClusterNode,
)
from brainray.doctor.output import check_output_option
from brainray.machine.hardware import Machine

GB = 10**9


def told(findings):
    """Findings by their check. None may be given twice, or show what is secret."""
    findings = list(findings)
    for finding in findings:
        assert SECRET_KEY not in str(finding) and ACCESS_KEY not in str(finding)
        assert (finding.status == "ok") == (finding.remedy == ""), f"what to do is told where something is: {finding}"
        assert "\n" not in finding.found + finding.remedy
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def only(findings) -> Finding:
    (finding,) = told(findings).values()
    return finding


def statuses(findings):
    return {check: finding.status for check, finding in told(findings).items()}


def machine(usable=4.0, *, features=("avx2",), available=32 * GB):
    return Machine(
        processors=8,
        usable=usable,
        features=frozenset(features),
        memory_bytes=32 * GB,
        available_bytes=int(available),
    )


def output_in(server):
    uri = f"{server.root}/run"
    found = told(check_output_option(uri, inputs=(), model=None, training=False, with_store=True))
    return {check.removeprefix(f"--output {uri}").strip(): finding for check, finding in found.items()}


def node(name="b", *, cpus=8.0, gpus=0.0, memory=64 * GB):
    return ClusterNode(node_id=name, name=name, cpus=cpus, gpus=gpus, memory_bytes=memory, objects_bytes=GB)
