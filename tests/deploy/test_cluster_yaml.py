"""`cluster.yaml` before Ray's own schema and code, the project's versions, brainray's needs and a pretended AWS."""

import copy
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from brainray.machine.resources import Node, score_pool, train_pool

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
CONFIG = yaml.safe_load(TEXT)
NODES = CONFIG["available_node_types"]
WORKERS = {name: node for name, node in NODES.items() if name != CONFIG["head_node_type"]}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LISTS = ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
COMMANDS = [command for name in LISTS for command in CONFIG[name]]
INSTALLS = [shlex.split(command) for command in COMMANDS if "pip install" in command]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The parts of Ray behind `ray up`, and a home of its own, for it keeps a key there. Starts no Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        from ray.autoscaler._private import util
        from ray.autoscaler._private.aws import config, node_provider
        from ray.scripts import scripts

        patch.setattr(node_provider, "TAG_BATCH_DELAY", 0)
        yield SimpleNamespace(util=util, aws=config, provider=node_provider.AWSNodeProvider, start=scripts.start)


@pytest.fixture(scope="module")
def prepared(launcher: SimpleNamespace) -> dict[str, Any]:
    """The file as `ray up` completes it."""
    return launcher.util.prepare_config(copy.deepcopy(CONFIG))


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What is in the account after `ray up`, and what Ray asked of EC2 for the nodes."""

    instances: dict[str, dict[str, Any]]  # by node type
    groups: dict[str, dict[str, Any]]  # by id
    asked: set[str]
    machines: dict[str, dict[str, Any]]  # AWS's own description, by instance type


def furnish(ec2: Any, iam: Any) -> None:
    """Put into an account what the file's header says that it must hold."""
    for profile in ("brainray-head", "brainray-worker"):
        iam.create_instance_profile(InstanceProfileName=profile)
    group = ec2.create_security_group(GroupName="brainray", Description="Ray nodes")["GroupId"]
    members = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=members)
    data = {"SecurityGroupIds": [group]}
    ec2.create_launch_template(LaunchTemplateName="brainray", LaunchTemplateData=data)


@pytest.fixture(scope="module")
def rehearsal(launcher: SimpleNamespace, prepared: dict[str, Any]) -> Iterator[Rehearsal]:
    """One node of each type started and ended by Ray's code, in an account of moto's."""
    from moto import mock_aws

    with mock_aws():
        import boto3

        ec2, iam = (boto3.client(name, region_name=CONFIG["provider"]["region"]) for name in ("ec2", "iam"))
        furnish(ec2, iam)
        config = launcher.aws.bootstrap_aws(prepared)
        provider = launcher.provider(config["provider"], config["cluster_name"])
        asked: set[str] = set()
        for client in (provider.ec2.meta.client, provider.ec2_fail_fast.meta.client):
            client.meta.events.register("before-call.ec2", lambda model, **_: asked.add(f"ec2:{model.name}"))
        for name, node in config["available_node_types"].items():
            provider.create_node(copy.deepcopy(node["node_config"]), {"ray-user-node-type": name}, 1)
        ids = provider.non_terminated_nodes({})
        kinds = {node: provider.node_tags(node)["ray-user-node-type"] for node in ids}
        provider.set_node_tags(ids[0], {"ray-node-status": "up-to-date"})
        provider.terminate_nodes(ids)
        types = [node["node_config"]["InstanceType"] for node in NODES.values()]
        machines = ec2.describe_instance_types(InstanceTypes=types)["InstanceTypes"]
        found = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
        groups = ec2.describe_security_groups()["SecurityGroups"]
        yield Rehearsal(
            instances={kinds[instance["InstanceId"]]: instance for instance in found},
            groups={group["GroupId"]: group for group in groups},
            asked=asked,
            machines={machine["InstanceType"]: machine for machine in machines},
        )


def started(launcher: SimpleNamespace, commands: str) -> dict[str, Any]:
    """The options of the one `ray start` in a list of commands, as Ray understands them. Raises for unknown ones."""
    (line,) = [command for command in CONFIG[commands] if "ray start" in command]
    options = shlex.split(line.partition("ray start")[2])
    return launcher.start.make_context("ray start", options).params


def actions(service: str) -> set[str]:
    """The permissions that the comments name."""
    comments = re.findall("#.*", TEXT)
    return set(re.findall(rf"\b{service}:[A-Z]\w+", "\n".join(comments)))


def test_ray_takes_the_file(launcher, prepared):
    launcher.util.validate_config(prepared)


def test_no_key_says_what_is_rays_default_anyway(launcher):
    defaults = launcher.util._get_default_config(CONFIG["provider"])
    assert set(CONFIG) <= set(defaults), "a key that Ray's own example does not have"
    assert [key for key, value in CONFIG.items() if defaults[key] == value] == []


def test_every_key_and_every_figure_has_its_reason_beside_it():
    lines = TEXT.splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        bare = line.partition(" #")[0]
        is_key = re.match(r"\w+:", bare)
        is_figure = re.search(r": \d+\b[^:]*$", bare) and not line.lstrip().startswith("#")
        if is_key or is_figure:
            assert "#" in line or above.lstrip().startswith("#"), f"no comment at: {line}"


def test_nodes_install_nothing_but_what_the_constraints_pin():
    assert INSTALLS
    for words in INSTALLS:
        assert words[words.index("--constraint") + 1] == "~/brainray/constraints.txt"
        given = words[words.index("install") + 1 :]
        wanted = [Requirement(word) for word in given if not word.startswith("-") and "/" not in word]
        assert all(not requirement.specifier for requirement in wanted), "versions belong into constraints.txt"
    named = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    # botocore makes the requests of boto3, which takes a range of versions of it.
    assert named | {"ray", "botocore"} <= set(pins())
    assert not CONFIG.get("docker"), "an image has versions of its own"


def test_nodes_have_the_ray_that_runs_here(launcher):
    import ray

    assert pins()["ray"] == ray.__version__, "`ray up` and the nodes must have one version"
    assert any("ray[default]" in words for words in INSTALLS), "no dashboard, no jobs"
    assert any("~/brainray/pyproject.toml" in words for words in INSTALLS), "no torch, no Ray Data"


def test_nodes_have_the_python_that_types_and_tests_are_held_to():
    (version,) = re.findall(r"uv venv .*--python (\S+)", "\n".join(COMMANDS))
    assert version == PROJECT["tool"]["mypy"]["python_version"]
    assert version in SpecifierSet(PROJECT["project"]["requires-python"])


def test_what_is_downloaded_is_of_one_version():
    addresses = re.findall(r"https?://\S+", "\n".join(COMMANDS))
    assert addresses
    assert all(re.search(r"/\d+\.\d+\.\d+/", address) for address in addresses)


def test_every_file_that_a_command_reads_is_brought_and_exists(launcher):
    from ray._private.authentication.authentication_token_setup import _get_default_token_path

    mounts = dict(CONFIG["file_mounts"])
    read = {
        words[i + 1] for words in INSTALLS for i, word in enumerate(words) if word in ("--constraint", "--requirements")
    }
    token = "~/" + str(_get_default_token_path().relative_to(Path.home()))
    assert mounts.pop(token) == token, "Ray looks for the token there, at the desk and on the nodes"
    assert set(mounts) == read
    assert all((ROOT / local).is_file() for local in mounts.values())


def test_every_ray_command_on_a_node_has_the_token_the_region_and_the_environment(tmp_path):
    lines = [command for command in CONFIG["setup_commands"] if "brainray/environment" in command]
    (tmp_path / "brainray").mkdir()
    (tmp_path / ".bashrc").write_text("# of the image\n")
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for line in lines * 2:  # as Ray does on workers
        subprocess.run(["bash", "-c", line], env=environment, check=True)
    assert (tmp_path / ".bashrc").read_text().count("environment") == 1
    shell = ["bash", "-c", "source ~/.bashrc; env"]
    told = subprocess.run(shell, env=environment, check=True, capture_output=True, text=True).stdout
    seen = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    assert seen["RAY_AUTH_MODE"] == "token"
    assert seen["AWS_DEFAULT_REGION"] == CONFIG["provider"]["region"]
    (made,) = re.findall(r"uv venv .* ~/(\S+)", "\n".join(COMMANDS))
    assert seen["PATH"].startswith(f"{tmp_path}/{made}/bin:")


def test_the_tunnel_goes_to_the_region_of_the_nodes():
    tunnel = CONFIG["auth"]["ssh_proxy_command"]
    assert f"--region {CONFIG['provider']['region']} --target %h " in tunnel
    assert CONFIG["auth"]["ssh_proxy_use_node_id"], "a session goes to an instance's id"


def test_the_head_runs_no_work(launcher):
    assert NODES[CONFIG["head_node_type"]]["resources"] == {"CPU": 0}
    assert not started(launcher, "head_start_ray_commands")["num_cpus"]


def test_the_dashboard_is_seen_on_the_head_only(launcher):
    assert started(launcher, "head_start_ray_commands")["dashboard_host"] == "127.0.0.1"
    assert CONFIG["provider"]["use_internal_ips"]


def test_the_head_starts_workers_and_they_find_it(launcher):
    head = started(launcher, "head_start_ray_commands")
    assert head["head"]
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    worker = started(launcher, "worker_start_ray_commands")
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"


def test_limits_hold_together(prepared):
    limits = prepared["available_node_types"]
    for name, node in limits.items():
        assert 0 <= node["min_workers"] <= node["max_workers"] <= CONFIG["max_workers"], name
    assert limits[CONFIG["head_node_type"]]["max_workers"] == 0
    assert sum(node["max_workers"] for node in limits.values()) == CONFIG["max_workers"]


def test_workers_say_what_their_machines_have(rehearsal):
    for name, node in WORKERS.items():
        machine = rehearsal.machines[node["node_config"]["InstanceType"]]
        gpus = sum(gpu["Count"] for gpu in machine.get("GpuInfo", {}).get("Gpus", []))
        has = {"CPU": machine["VCpuInfo"]["DefaultVCpus"]} | ({"GPU": gpus} if gpus else {})
        assert node["resources"] == has, name


def test_a_job_finds_workers_to_begin_with(prepared):
    head = Node(cpus=NODES[CONFIG["head_node_type"]]["resources"]["CPU"])
    workers = [
        Node(cpus=node["resources"]["CPU"], gpus=node["resources"].get("GPU", 0))
        for name, node in prepared["available_node_types"].items()
        for _ in range(node["min_workers"])
        if name in WORKERS
    ]
    assert score_pool([head, *workers], workers=None, shards=1000, images=10**6).on_gpu
    assert train_pool([head, *workers], workers=None, batch_size=32).use_gpu


def test_no_gpu_machine_is_started_for_its_processors(prepared):
    for node in prepared["available_node_types"].values():
        if "GPU" in node["resources"]:
            assert node["min_workers"] == node["max_workers"]


def test_workers_are_spot_instances_and_the_head_is_not(rehearsal):
    assert {name: i.get("InstanceLifecycle") for name, i in rehearsal.instances.items()} == {
        CONFIG["head_node_type"]: None,
        **dict.fromkeys(WORKERS, "spot"),
    }


def test_nobody_from_outside_is_let_in(rehearsal):
    for name, instance in rehearsal.instances.items():
        for group in instance["SecurityGroups"]:
            rules = rehearsal.groups[group["GroupId"]]["IpPermissions"]
            assert rules, f"{name}: nodes of a group without rules do not hear each other"
            assert not any(rule["IpRanges"] or rule["Ipv6Ranges"] or rule["PrefixListIds"] for rule in rules), name


def test_every_node_has_the_profile_of_its_kind():
    profiles = {name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in NODES.items()}
    assert profiles == {CONFIG["head_node_type"]: "brainray-head", **dict.fromkeys(WORKERS, "brainray-worker")}


def test_permissions_on_buckets_are_those_that_brainray_asks_for():
    asked: set[str] = set()
    for module in (ROOT / "brainray").rglob("*.py"):
        asked |= set(re.findall(r'"(s3:\w+)"', module.read_text()))
    assert actions("s3") == asked


def test_permissions_in_ec2_are_those_that_the_autoscaler_asks_for(rehearsal):
    assert actions("ec2") == rehearsal.asked


def test_disks_are_encrypted():
    for name, node in NODES.items():
        assert all(disk["Ebs"]["Encrypted"] for disk in node["node_config"]["BlockDeviceMappings"]), name


def test_nothing_in_it_belongs_to_one_account_or_is_a_secret():
    foreign = r"\b(\d{12}|(ami|sg|subnet|vpc|i)-[0-9a-f]{8,}|AKIA\w+|[0-9a-f]{32,})\b|KeyName|ssh_private_key"
    assert re.search(foreign, TEXT) is None
