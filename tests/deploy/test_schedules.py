"""The schedules in `jobs/schedules/`: held to published schemas and to their own tools, run where they can be run."""

import configparser
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import jsonschema
import kubernetes_validate
import pytest
import yaml
from support.each import each

from brainray.cli.app import run

ROOT = Path(__file__).resolve().parents[2]
SCHEDULES = ROOT / "jobs" / "schedules"
CRON = (SCHEDULES / "brainray.cron").read_text()
SERVICE = (SCHEDULES / "brainray-nightly.service").read_text()
TIMER = (SCHEDULES / "brainray-nightly.timer").read_text()
KUBERNETES = (SCHEDULES / "kuberay-cronjob.yaml").read_text()
CODES = range(6)  # DESIGN: done, unexpected, request, too many failed, another model, held


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.fixture
def accepted(monkeypatch, capfd) -> Callable[[list[str]], None]:
    """Expects that `brainray submit` takes these words, up to where it would need a cluster."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)

    def check(words: list[str]) -> None:
        code = run(["submit", "--address", "http://127.0.0.1:1", "--patience", "0", *words])
        said = capfd.readouterr().err
        assert code == 1 and "has not answered" in said, said

    return check


def check_versions_stand_in_both_names(words: list[str]) -> None:
    """A new model has an output of its own, so no night ends with code 4 unless a bundle was exchanged in place."""
    model, output = (words[words.index(option) + 1].rpartition("/")[2] for option in ("--model", "--output"))
    assert model == output == "brain-7"


@each("path", sorted(SCHEDULES.iterdir()), ids=lambda path: path.name)
def test_no_schedule_holds_a_secret(path):
    text = path.read_text()
    assert not re.search(r"://[^/\s]*:[^/\s]*@|AKIA|BEGIN .*KEY", text)
    assert not re.search(r"(?i)\b\w*(secret|token|password|key)\w*['\"]?\s*[:=]\s*['\"]?[0-9a-f]{8,}", text)
    assert "RAY_AUTH_TOKEN=" not in text and "secretKeyRef" not in text


# cron


def cron_line() -> tuple[dict[str, str], list[str], str, str]:
    """Variables, the five fields, the user and the command of the one line, as crontab(5) reads them."""
    lines = [line for line in CRON.splitlines() if line.strip() and not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines[:-1])
    *fields, user, command = lines[-1].split(None, 6)
    # Up to the first % that is not escaped; the rest is the command's input.
    command = re.split(r"(?<!\\)%", command)[0].replace("\\%", "%")
    return variables, fields, user, command


class TestCron:
    def test_the_line_fires_once_a_day_when_no_clock_is_changed(self):
        _, (minute, hour, *days), user, _ = cron_line()
        assert days == ["*", "*", "*"] and user == "brainray"
        assert 0 < int(minute) < 60 and int(hour) not in (1, 2, 3)

    @pytest.mark.parametrize("code", [*CODES, 130])
    def test_a_mail_is_sent_for_what_somebody_must_look_at_and_for_nothing_else(self, tmp_path, code, accepted):
        variables, _, _, command = cron_line()
        stub = tmp_path / "bin" / "brainray"
        stub.parent.mkdir()
        stub.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\necho a log line\nexit {code}\n')
        stub.chmod(0o755)
        log = tmp_path / "log"
        here = command.replace("/var/log/brainray/nightly.log", str(log))
        path = variables["PATH"].replace("/opt/brainray/bin", str(stub.parent))
        done = subprocess.run(
            ["/bin/sh", "-c", here],
            env=variables | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        mail = done.stdout + done.stderr
        assert (mail == "") == (code in (0, 5)), mail
        assert code in (0, 5) or f"code {code}" in mail
        assert log.read_text() == "a log line\n"
        words = (tmp_path / "words").read_text().splitlines()
        assert words[0] == "submit" and words[-1] == "1%", "cron has cut the line at a %"
        check_versions_stand_in_both_names(words)
        accepted(words[1:])

    def test_what_the_line_needs_is_set(self):
        variables, *_ = cron_line()
        assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS", "PATH", "MAILTO"} == set(variables)


# systemd


def unit(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(text)
    return parser


class TestSystemd:
    def test_systemd_finds_nothing_wrong_with_the_units(self, tmp_path):
        when = unit(TIMER)["Timer"]["OnCalendar"]
        assert re.fullmatch(r"(\S+ )?\*-\*-\* \d\d:\d\d(:\d\d)?( UTC)?", when), "each night, at a time of day"
        if not shutil.which("systemd-analyze"):  # the keys that matter are looked at below in any case
            return
        program = unit(SERVICE)["Service"]["ExecStart"].split()[0]
        (tmp_path / "brainray-nightly.service").write_text(SERVICE.replace(program, "/bin/true"))
        (tmp_path / "brainray-nightly.timer").write_text(TIMER)
        command = ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
        ours = [line for line in done.stderr.splitlines() if "brainray" in line]
        assert (done.returncode, ours) == (0, [])
        calendar = ["systemd-analyze", "calendar", when]
        assert subprocess.run(calendar, capture_output=True, timeout=250, check=False).returncode == 0

    def test_the_timer_starts_the_service_and_makes_up_for_a_missed_start(self):
        timer = unit(TIMER)
        assert timer["Timer"]["Persistent"] == "true" and "Unit" not in timer["Timer"]
        assert timer["Install"]["WantedBy"] == "timers.target"

    def test_a_broken_cluster_is_tried_again_and_what_would_be_the_same_again_is_not(self):
        service = unit(SERVICE)["Service"]
        fine = {0} | {int(code) for code in service["SuccessExitStatus"].split()}
        final = {int(code) for code in service["RestartPreventExitStatus"].split()}
        assert service["Restart"] == "on-failure" and service["Type"] == "oneshot"
        assert fine == {0, 5, 130} and final == {2, 3, 4}
        assert set(CODES) - fine - final == {1}

    def test_the_command_is_one_that_submit_takes(self, accepted):
        words = shlex.split(unit(SERVICE)["Service"]["ExecStart"].replace("%%", "\0"))
        assert not any("%" in word for word in words), "systemd would read a specifier"
        words = [word.replace("\0", "%") for word in words]
        assert words[1] == "submit"
        check_versions_stand_in_both_names(words)
        accepted(words[2:])

    def test_the_token_comes_as_a_credential_of_the_service(self):
        given = re.search(r"^LoadCredential=([\w-]+):/", SERVICE, re.M)
        read = re.search(r"RAY_AUTH_TOKEN_PATH=%d/([\w-]+)$", SERVICE, re.M)
        assert given and read and given[1] == read[1]


# Airflow


class Recorded:
    """Stands for a class of Airflow's: keeps what it was made with."""

    made: ClassVar[list["Recorded"]] = []

    def __init__(self, **options: Any) -> None:
        self.options = options
        type(self).made = [*type(self).made, self]

    def __enter__(self) -> "Recorded":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def dag(monkeypatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the file makes of a stand-in for Airflow: the options of its DAG and of its one task."""
    kinds = {
        "airflow.sdk": type("DAG", (Recorded,), {"made": []}),
        "airflow.providers.standard.operators.bash": type("BashOperator", (Recorded,), {"made": []}),
    }
    for name, kind in kinds.items():
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            package = ".".join(parts[:length])
            monkeypatch.setitem(sys.modules, package, sys.modules.get(package) or ModuleType(package))
        setattr(sys.modules[name], kind.__name__, kind)
    runpy.run_path(str(SCHEDULES / "airflow_dag.py"))
    (made,), (task,) = (kind.made for kind in kinds.values())
    return made.options, task.options


class TestAirflow:
    def test_days_that_were_missed_make_no_runs_and_two_never_overlap(self, dag):
        made, _ = dag
        assert made["catchup"] is False and made["max_active_runs"] == 1
        assert made["start_date"].tzinfo is UTC and made["schedule"] == "17 4 * * *"

    def test_a_held_output_is_skipped_and_a_broken_cluster_tried_again(self, dag):
        _, task = dag
        assert task["skip_on_exit_code"] == 5
        assert task["retries"] > 0 and task["retry_delay"] >= timedelta(minutes=1)
        assert task["append_env"] is True, "else the command has no PATH"

    def test_the_command_is_one_that_submit_takes(self, dag, accepted):
        words = shlex.split(dag[1]["bash_command"])
        assert words[:2] == ["brainray", "submit"]
        assert "{{" not in dag[1]["bash_command"] and not words[-1].endswith((".sh", ".bash"))
        check_versions_stand_in_both_names(words)
        accepted(words[2:])


# Kubernetes

DOCUMENTS = list(yaml.safe_load_all(KUBERNETES))
RAYJOB = yaml.safe_load(next(d for d in DOCUMENTS if d["kind"] == "ConfigMap")["data"]["rayjob.yaml"])
CRONJOB = next(d for d in DOCUMENTS if d["kind"] == "CronJob")["spec"]


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


# No package has KubeRay's own schema. This is the part of it that a RayJob with its own cluster may use, by the API
# reference of 1.6 (docs.ray.io, "KubeRay CRD API reference"); pod templates are Kubernetes' and validated as such.
TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS, POD = {"type": "object", "additionalProperties": TEXT}, {"type": "object"}
WORKERS = closed(
    {"groupName": TEXT, "rayStartParams": TEXTS, "template": POD, "idleTimeoutSeconds": COUNT, "labels": TEXTS}
    | dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "numOfHosts"), COUNT)
    | {"resources": TEXTS, "suspend": FLAG},
    *("groupName", "maxReplicas", "minReplicas", "template"),
)
CLUSTER = closed(
    {
        "rayVersion": TEXT,
        "authOptions": closed({"mode": {"enum": ["disabled", "token"]}, "secretName": TEXT}),
        "enableInTreeAutoscaling": FLAG,
        "headGroupSpec": closed(
            {"rayStartParams": TEXTS, "template": POD, "serviceType": TEXT, "labels": TEXTS, "resources": TEXTS},
            "template",
        ),
        "workerGroupSpecs": {"type": "array", "items": WORKERS, "minItems": 1},
    },
    "headGroupSpec",
)
RAYJOB_SCHEMA = closed(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": closed({"name": TEXT, "labels": TEXTS, "annotations": TEXTS}, "name"),
        "spec": closed(
            {"entrypoint": TEXT, "runtimeEnvYAML": TEXT, "jobId": TEXT, "rayClusterSpec": CLUSTER, "metadata": TEXTS}
            | dict.fromkeys(("shutdownAfterJobFinishes", "suspend"), FLAG)
            | dict.fromkeys(("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"), COUNT)
            | {"submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]}}
            | {"submitterPodTemplate": POD, "submitterConfig": closed({"backoffLimit": COUNT})},
            *("entrypoint", "rayClusterSpec"),
        ),
    },
    *("apiVersion", "kind", "metadata", "spec"),
)


def pods() -> list[dict[str, Any]]:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def steps() -> list[dict[str, Any]]:
    """Containers of the CronJob's pod in the order in which they run."""
    pod = CRONJOB["jobTemplate"]["spec"]["template"]["spec"]
    return [*pod["initContainers"], *pod["containers"]]


class TestKubernetes:
    @each("document", DOCUMENTS, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
    def test_each_object_is_what_kubernetes_takes(self, document):
        kubernetes_validate.validate(document, "1.36", strict=True)

    def test_the_rayjob_is_what_kuberay_takes_and_its_pods_what_kubernetes_takes(self):
        jsonschema.validate(RAYJOB, RAYJOB_SCHEMA)
        for template in pods():
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
            kubernetes_validate.validate(pod, "1.36", strict=True)

    def test_a_misspelt_field_is_found(self):
        document = next(d for d in DOCUMENTS if d["kind"] == "CronJob")
        wrong = document | {"spec": document["spec"] | {"concurencyPolicy": "Forbid"}}
        with pytest.raises(kubernetes_validate.ValidationError, match="concurencyPolicy"):
            kubernetes_validate.validate(wrong, "1.36", strict=True)
        with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
            jsonschema.validate(RAYJOB | {"spec": RAYJOB["spec"] | {"backofLimit": 1}}, RAYJOB_SCHEMA)

    def test_ray_is_of_one_version_everywhere(self):
        version = pins()["ray"]
        assert RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == version
        assert re.findall(r"rayproject/ray:([\d.]+)-", KUBERNETES) == [version]
        images = {container["image"] for pod in pods() for container in pod["spec"]["containers"]}
        assert len(images) == 1

    def test_the_command_is_one_that_score_takes(self, accepted):
        words = shlex.split(RAYJOB["spec"]["entrypoint"])
        assert words[:3] == ["python", "-m", "brainray"]
        check_versions_stand_in_both_names(words)
        accepted(words[3:])

    def test_no_two_nights_overlap_and_none_is_lost(self):
        night = timedelta(days=1).total_seconds()
        spec, job = RAYJOB["spec"], CRONJOB["jobTemplate"]["spec"]
        assert CRONJOB["concurrencyPolicy"] == "Forbid" and "generateName" not in RAYJOB["metadata"]
        assert 0 < CRONJOB["startingDeadlineSeconds"] < night
        assert job["backoffLimit"] == 0, "a second pod would remove the RayJob that the first has made"
        waited = int(re.search(r"--timeout=(\d+)h", " ".join(steps()[2]["args"]))[1]) * 3600
        tries = 1 + spec["backoffLimit"]
        assert tries * spec["activeDeadlineSeconds"] < waited < job["activeDeadlineSeconds"] < night

    def test_one_pod_forgets_the_last_run_makes_a_new_one_waits_and_has_its_ending(self):
        assert [(step["name"], step["args"][0]) for step in steps()] == [
            ("forget-the-last", "delete"),
            ("make", "create"),
            ("await", "wait"),
            ("verdict", "wait"),
        ]
        name = f"rayjob/{RAYJOB['metadata']['name']}"
        assert all(name in step["args"] for step in steps() if step["name"] != "make")
        assert "--for=jsonpath={.status.endTime}" in steps()[2]["args"]
        assert "--for=jsonpath={.status.jobStatus}=SUCCEEDED" in steps()[3]["args"]
        mount = steps()[1]["volumeMounts"][0]["mountPath"]
        assert steps()[1]["args"] == ["create", f"--filename={mount}/rayjob.yaml"]

    def test_every_name_that_is_used_is_made_and_every_right_is_one_that_a_step_needs(self):
        made = {(d["kind"], d["metadata"]["name"]) for d in DOCUMENTS}
        pod = CRONJOB["jobTemplate"]["spec"]["template"]["spec"]
        accounts = {template["spec"]["serviceAccountName"] for template in pods()} | {pod["serviceAccountName"]}
        assert {("ServiceAccount", name) for name in accounts} <= made
        assert ("ConfigMap", pod["volumes"][0]["configMap"]["name"]) in made
        binding = next(d for d in DOCUMENTS if d["kind"] == "RoleBinding")
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in made
        assert {(s["kind"], s["name"]) for s in binding["subjects"]} == {("ServiceAccount", pod["serviceAccountName"])}
        (rule,) = next(d for d in DOCUMENTS if d["kind"] == "Role")["rules"]
        needed = {"delete": {"delete", "get", "list", "watch"}, "create": {"create"}, "wait": {"get", "list", "watch"}}
        assert set(rule["verbs"]) == set().union(*(needed[step["args"][0]] for step in steps()))
        assert rule["resources"] == ["rayjobs"]

    def test_the_head_does_no_work_and_a_worker_has_memory_for_the_largest_images(self):
        head, worker = (pod["spec"]["containers"][0]["resources"] for pod in pods())
        assert RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for resources in (head, worker):
            assert resources["requests"] == resources["limits"]
        cpus, memory_gb = int(worker["limits"]["cpu"]), int(worker["limits"]["memory"].removesuffix("Gi"))
        assert memory_gb >= cpus / 2 * 0.7 + cpus * 1.5
