"""What brainray takes of Ray beyond its promises: one look at the names, so that another Ray fails at once."""

import ast
import inspect
import itertools
import os
import re
import threading
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from support.each import each
from support.imports import MODULES, absolute_imports, read

import brainray
from brainray.cluster import ray_internals, session, stand_ins, start_internals, train_internals

ROOT = Path(brainray.__file__).parents[1]
# Module, name in it, and the parameters with which it is called or replaced; None: no function, or one in C++.
NAMES = (
    ("ray._private.worker", "_global_node", None),
    ("ray._private.worker", "get_dashboard_url", ()),
    ("ray._private.worker", "print_to_stdstream", ("data", "ignore_prefix")),
    ("ray._private.node", "Node.is_head", ("self",)),
    ("ray._private.node", "Node.remaining_processes_alive", ("self",)),
    ("ray._private.node", "Node.webui_url", None),
    ("ray._private.node", "Node.node_id", None),
    ("ray._private.ray_constants", "DEFAULT_OBJECT_PREFIX", None),
    ("ray._private.auto_init_hook", "enable_auto_connect", None),
    ("ray._private.node", "Node.kill_all_processes", ("self", "check_alive", "allow_graceful", "wait")),
    ("ray._private.node", "Node.start_monitor", ("self",)),
    ("ray._private.node", "Node.start_log_monitor", ("self",)),
    ("ray._private.node", "Node.start_api_server", ("self", "include_dashboard", "raise_on_failure")),
    ("ray._private.utils", "set_sigterm_handler", ("sigterm_handler",)),
    ("ray._private.utils", "read_ray_address", ("temp_dir",)),
    ("ray._private.utils", "get_num_cpus", ("override_docker_cpu_warning", "truncate")),
    (
        "ray._private.services",
        "start_ray_process",
        (
            "command",
            "process_type",
            "fate_share",
            "env_updates",
            "cwd",
            "use_valgrind",
            "use_gdb",
            "use_valgrind_profiler",
            "use_perftools_profiler",
            "use_tmux",
            "stdout_file",
            "stderr_file",
            "pipe_stdin",
        ),
    ),
    ("ray._private.services", "get_node", ("gcs_address", "node_id")),
    ("ray._private.services", "_get_gcs_client_options", ("gcs_server_address",)),
    ("ray._private.state", "GlobalState._initialize_global_state", ("self", "gcs_options")),
    ("ray._private.state", "GlobalState.node_table", ("self",)),
    ("ray._private.ray_constants", "RAY_ENABLE_UV_RUN_RUNTIME_ENV", None),
    (
        "ray._private.authentication.authentication_token_setup",
        "maybe_enable_token_auth_if_token_available",
        ("warn_if_disabled",),
    ),
    ("ray._raylet", "InnerGcsClient.internal_kv_exists", None),
    ("ray._raylet", "GcsClient", None),  # which hands on to the one above
    ("ray._raylet", "Config.initialize", None),
    ("ray._raylet", "AuthenticationTokenLoader.instance", None),
    ("ray._raylet", "AuthenticationTokenLoader.reset_cache", None),
    ("ray.job_config", "JobConfig", None),
    ("ray.exceptions", "AuthenticationError", None),
    ("ray.data._internal.execution.streaming_executor", "StreamingExecutor.shutdown", ("self", "force", "exception")),
    ("ray.data", "Dataset.get_dataset_id", ("self",)),
    ("ray.data", "Dataset._create_executor", ("self",)),
    ("ray.data", "Dataset.repartition", None),
    ("ray.data._internal.stats", "get_or_create_stats_actor", ()),
    (
        "ray.data._internal.execution.operators.actor_pool_map_operator",
        "get_or_create_actor_location_tracker",
        (),
    ),
    ("ray.data._internal.utils.cached_ray_internals", "get_or_create_actor_location_tracker", ()),
    (
        "ray.data._internal.cluster_autoscaler.rate_based_cluster_autoscaler",
        "DefaultAutoscalingCoordinator",
        ("requester_id", "autoscaling_coordinator_actor", "subcluster_selector"),
    ),
    ("ray.data._internal.execution.interfaces.ref_bundle", "BlockSlice", ("start_offset", "end_offset")),
    (
        "ray.data._internal.execution.interfaces.ref_bundle",
        "RefBundle",
        (
            "blocks",
            "schema",
            "owns_blocks",
            "slices",
            "output_split_idx",
            "_cached_object_meta",
            "_cached_preferred_locations",
        ),
    ),
    ("ray.data._internal.execution.interfaces.ref_bundle", "RefBundle.num_rows", ("self",)),
    ("ray.data._internal.logical.operators.from_operators", "FromBlocks.output_data", ("self",)),
    ("ray.train.v2.api.data_parallel_trainer", "create_scaling_policy", ("scaling_config",)),
    (
        "ray.train.v2._internal.execution.scaling_policy",
        "FixedScalingPolicy.after_controller_start",
        ("self", "train_run_context"),
    ),
    ("ray.train.v2._internal.execution.scaling_policy", "FixedScalingPolicy._maybe_send_resource_request", ("self",)),
    ("ray.train.v2._internal.callbacks.placement_group_callback", "PlacementGroupCleanerCallback", None),
    ("ray.train.v2._internal.callbacks.datasets", "DatasetsCallback", None),
    ("ray.train.torch", "TorchTrainer._register_sigint_handler", ("self", "controller")),
    ("ray.train.torch", "TorchTrainer._create_default_callbacks", ("self",)),
    ("ray.train.v2._internal.execution.controller.controller", "TrainController.abort", ("self",)),
)


@each(("module", "name", "parameters"), NAMES, ids=[name for _, name, _ in NAMES])
def test_ray_has_what_is_used_of_it_as_it_is_used(module, name, parameters):
    found = import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"Ray {version('ray')} has no {module}.{name}: see cluster/*_internals.py"
        found = getattr(found, part)
    if parameters is not None:
        # Ray adds the one of its tracing to a class once that has been an actor in this process.
        assert tuple(each for each in inspect.signature(found).parameters if each != "_ray_trace_ctx") == parameters


def test_what_is_in_c_takes_what_it_is_given():
    from ray import _raylet

    assert "(self, string key, namespace=None, timeout=None)" in _raylet.InnerGcsClient.internal_kv_exists.__doc__


def test_the_attributes_set_on_a_node_are_those_that_ray_reads():
    source = inspect.getsource(import_module("ray._private.node"))
    assert "self._object_spilling_config = " in source
    assert "self._webui_url = None" in source and "return self._webui_url" in source
    for call in ("self.start_monitor()", "self.start_log_monitor()", "self.start_api_server("):
        assert call in source


def test_every_name_is_in_the_list_above():
    """Names written in the modules that some library of Ray has, and no others, are looked for."""
    listed = {part for _, name, _ in NAMES for part in name.split(".")}
    trees = [
        ast.parse(Path(module.__file__).read_text()) for module in (ray_internals, start_internals, train_internals)
    ]
    for node in itertools.chain(*map(ast.walk, trees)):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.startswith("ray"):
            taken = {alias.name for alias in node.names}
            assert taken <= listed | {
                "worker",
                "utils",
                "services",
                "ray_constants",
                "auto_init_hook",
                "_raylet",
                "authentication_token_setup",
            }


def private_of_ray(names):
    """Modules of Ray with a part that begins with an underscore."""
    return [name for name in names if re.match(r"ray\..*\b_", name)]


def test_no_other_module_imports_private_modules_of_ray():
    found = {module: private_of_ray(read(module).absolute) for module in MODULES}
    for own in (ray_internals, start_internals):
        assert found.pop(own.__name__), "the search finds them"
    for path in (ROOT / "jobs").rglob("*.py"):
        found[path.name] = private_of_ray(absolute_imports(ast.walk(ast.parse(path.read_text()))))
    assert {where: names for where, names in found.items() if names} == {}


def test_ray_is_the_minor_version_that_was_tested():
    major, minor = map(int, version("ray").split(".")[:2])
    text = (ROOT / "pyproject.toml").read_text()
    assert text.count('"ray[') == text.count(f">={major}.{minor},<{major}.{minor + 1}") == 2


@each(
    ("usable", "counted", "taken"),
    [(64, 64.0, 64), (4, 64.0, 4), (64, 3.0, 3), (0.5, 2.0, 1), (64, 0.0, 1), (2.7, None, 2), (0.5, None, 1)],
)
def test_a_local_ray_takes_no_processor_that_this_process_may_not_use(monkeypatch, usable, counted, taken):
    """Sixty-four workers on four processors, which `taskset` or a scheduler left, are slower than four."""
    if counted is None:
        monkeypatch.delattr("ray._private.utils.get_num_cpus")
    else:
        monkeypatch.setattr("ray._private.utils.get_num_cpus", lambda override_docker_cpu_warning: counted)
    assert ray_internals.processors(usable) == taken


def test_stand_ins_have_the_methods_that_ray_data_calls():
    """It also says how many names are replaced, once each."""
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import AutoscalingCoordinator
    from ray.data._internal.execution.node_trackers import actor_location

    called = {
        stand_ins.NoStatistics: re.findall(r"stats_actor(?:\(\))?\.(\w+)\.remote", inspect.getsource(stats)),
        stand_ins.NoLocations: re.findall(r"    def ([a-z]\w+)", inspect.getsource(actor_location)),
        stand_ins.WholeNode: AutoscalingCoordinator.__abstractmethods__,
    }
    for stand_in, names in called.items():
        assert names and all(hasattr(stand_in, name) for name in names), stand_in
    ray_internals.replace_data_actors()
    ray_internals.replace_data_actors()
    for module, name, _ in ray_internals._DATA_ACTORS:
        assert not hasattr(getattr(import_module(module), name).__wrapped__, "__wrapped__"), name


@pytest.mark.parametrize("private", [True, False])
def test_ray_data_has_its_helpers_where_there_is_a_cluster(monkeypatch, private):
    monkeypatch.setattr(ray_internals, "is_private", lambda: private)
    made = ray_internals.on_private(lambda *_, **__: "a stand-in", lambda *_, **__: "an actor")
    assert made("id", subcluster_selector=None) == ("a stand-in" if private else "an actor")


@pytest.mark.parametrize(
    ("private", "workers", "asks"), [(True, 2, False), (True, (1, 2), True), (False, 2, True)], ids=str
)
def test_training_asks_for_machines_where_there_may_be_more(monkeypatch, private, workers, asks):
    """An actor that is asked takes a process, for which training would wait; the controller is sent the policy."""
    from ray import cloudpickle
    from ray.train import ScalingConfig
    from ray.train.v2.api import data_parallel_trainer

    monkeypatch.setattr(ray_internals, "is_private", lambda: private)
    train_internals.ask_for_no_machines()
    train_internals.ask_for_no_machines()
    made = data_parallel_trainer.create_scaling_policy(ScalingConfig(num_workers=workers))
    policy = cloudpickle.loads(cloudpickle.dumps(made))
    silent = {name for name in train_internals._REQUESTS if getattr(policy, name) is stand_ins.unheard}
    assert silent == (set() if asks else set(train_internals._REQUESTS))
    if not asks:
        assert policy.make_decision_for_non_running_worker_group().num_workers == workers
        policy.before_controller_abort()  # nothing was asked, nothing is withdrawn


@pytest.mark.parametrize("dashboard", [True, False])
def test_training_asks_the_dashboard_only_where_there_is_one(monkeypatch, dashboard):
    """Nor does it start what hands out data sets."""
    from ray.train.torch import TorchTrainer

    from brainray.cluster.train import _Trainer

    monkeypatch.setattr(train_internals, "has_dashboard", lambda: dashboard)
    names = {
        kind: [type(each).__name__ for each in kind(print, datasets={})._create_default_callbacks()]
        for kind in (TorchTrainer, _Trainer)
    }
    assert names[TorchTrainer].count("PlacementGroupCleanerCallback") == 1
    assert names[TorchTrainer].count("DatasetsCallback") == 1
    left_out = ["DatasetsCallback", *([] if dashboard else ["PlacementGroupCleanerCallback"])]
    assert names[_Trainer] == [name for name in names[TorchTrainer] if name not in left_out]


@pytest.mark.parametrize(("private", "said", "meanwhile"), [(True, None, "0"), (True, "1", "1"), (False, None, None)])
def test_training_watches_for_nodes_that_are_removed_where_one_may_be(monkeypatch, private, said, meanwhile):
    from ray.train.v2._internal import constants

    from brainray.cluster import train

    name = constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR
    assert name in constants.ENV_VARS_TO_PROPAGATE, "the controller is told"
    monkeypatch.setattr(ray_internals, "is_private", lambda: private)
    monkeypatch.setenv(name, said or "")
    if said is None:
        monkeypatch.delenv(name)
    with train._watcher_where_nodes_may_go():
        assert os.environ.get(name) == meanwhile
    assert os.environ.get(name) == said


@pytest.mark.parametrize("before", [True, False])
def test_calls_of_ray_after_a_session_start_one_as_before_but_not_what_it_has_left_behind(monkeypatch, before):
    """The caller's next `ray.data.read_parquet` would fail, or a thread of a run that was stopped would start a Ray."""
    from ray._private import auto_init_hook

    started, go_on, left = [], threading.Event(), []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda: started.append(threading.current_thread()))
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", before)
    monkeypatch.delenv("RAY_ENABLE_AUTO_CONNECT", raising=False)
    for _ in range(2):
        with ray_internals.without_auto_connect():
            auto_init_hook.auto_init_ray()
            left.append(threading.Thread(target=lambda: (go_on.wait(60), auto_init_hook.auto_init_ray()), daemon=True))
            left[-1].start()
        session._set_ray_defaults()
        assert "RAY_ENABLE_AUTO_CONNECT" not in os.environ, "a child would not start one"
        auto_init_hook.auto_init_ray()
    go_on.set()
    for thread in left:
        thread.join(60)
    assert started == ([threading.current_thread()] * 2 if before else [])


def test_training_leaves_ctrl_c_alone():
    import signal

    from brainray.cluster.train import _Trainer

    before = signal.getsignal(signal.SIGINT)
    _Trainer._register_sigint_handler(object.__new__(_Trainer), None)
    assert signal.getsignal(signal.SIGINT) is before


@each(
    ("said", "own"),
    [
        ({}, True),
        ({"RAY_AUTH_MODE": "Token"}, True),
        ({"RAY_AUTH_MODE": "disabled"}, False),
        ({"RAY_AUTH_TOKEN": "mine"}, False),
        ({"RAY_AUTH_TOKEN_PATH": "/mine"}, False),
    ],
)
def test_a_token_of_its_own_unless_the_user_said_otherwise(monkeypatch, said, own):
    """Ray's C++ is told of nothing here: the Ray of other tests in this process would be refused, and end it."""
    read = []
    monkeypatch.setattr(ray_internals, "_read_auth_settings", lambda: read.append(os.environ.get("RAY_AUTH_MODE")))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    tokens = []
    for _ in range(2):
        with ray_internals.auth_settings_kept():
            ray_internals.use_own_token()
            found = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}
            if own:
                tokens.append(found.pop("RAY_AUTH_TOKEN"))
                assert found.pop("RAY_AUTH_MODE") == "token"
            assert found.items() <= said.items()
        assert {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")} == said
    assert len(set(tokens)) == (2 if own else 0), "another one each time"
    mode = said.get("RAY_AUTH_MODE")
    assert read == ["token" if own else mode, mode] * 2, "Ray reads what holds now, and what holds again"
