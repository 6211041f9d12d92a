"""All uses of private names of Ray at start and end of a private one, as in `ray_internals`.

Of the processes that Ray starts for a head node, a run needs the control store, the raylet and its workers.
"""

import glob
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from . import agent_stand_in
from .ray_internals import is_private, node, own_folders, replaced, restore

_MONITOR_METHODS = ("start_monitor", "start_log_monitor", "start_api_server")
_PRESTART = "--num_prestart_python_workers="
_PRELOADED = "brainray.cluster.preload"
# PyTorch's switch for transparent huge pages, which it reads at the first tensor: the forward pass of
# EfficientNet-Lite0, whose activations are large, takes 4 to 7 % less (2 cores with AVX-512, fp32).
_LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
_NODE, _SESSION = "--node_id=", "--session_dir="
# Words of the raylet's command, and the ports that the agent is to tell the raylet, which else waits for them.
_DASHBOARD_AGENT = "--dashboard_agent_command="
_DASHBOARD_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
_ENVIRONMENT_AGENT = "--runtime_env_agent_command="
_ENVIRONMENT_PORTS = ("runtime_env_agent_port",)
_ENVIRONMENTS = ("RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR")  # by which workers get some: of users, of jobs
_KNOWN_POLL_S = 0.02
_KNOWN_WITHIN_S = 30.0  # as long as Ray itself waits

Command = list[str]


@contextmanager
def quick_start(*, prestart: int, environments: bool) -> Iterator[None]:
    """Start a local Ray meanwhile with what a run uses of it, and with `prestart` workers ready for actors.

    Without `environments` no worker can be given environment variables or packages of its own.
    """
    environments = environments or any(name in os.environ for name in _ENVIRONMENTS)
    with ExitStack() as stack:
        stack.enter_context(_prestart_settings(prestart))
        stack.enter_context(without_monitor_processes())
        stack.enter_context(_commands_changed(lambda command: _changed(command, prestart, environments)))
        stack.enter_context(_without_environment_of_uv())
        stack.enter_context(_node_known_at_once())
        yield


@contextmanager
def without_monitor_processes() -> Iterator[None]:
    """Start a local Ray without dashboard, autoscaler monitor and log monitor.

    They take 2 of the 3.5 s that `ray.init` needs on two processors, and slow down its end. Ray has no public switch,
    so methods of `ray._private.node.Node` are replaced meanwhile. A missing method is skipped: Ray starts more slowly.
    """
    from ray._private.node import Node

    def nothing(own: Any, **_: Any) -> None:  # noqa: ANN401
        own._webui_url = ""

    with ExitStack() as stack:
        for name in _MONITOR_METHODS:
            stack.enter_context(replaced(Node, name, nothing))
        yield


@contextmanager
def _prestart_settings(workers: int) -> Iterator[None]:
    """Have workers that start before they are asked for import `_PRELOADED`, and torch take large pages of memory.

    Actors then find a process that is ready, where they would wait for its start. The settings are public; one that the
    user has set is left alone.
    """
    settings = {"RAY_prestart_worker_first_driver": "1" if workers else "0", _LARGE_PAGES: "1"}
    if workers:
        settings["RAY_preload_python_modules"] = _PRELOADED
    settings = {name: value for name, value in settings.items() if name not in os.environ}
    # Modules are preloaded before workers learn of the folders of `own_job_config`.
    folders = [*own_folders(), *filter(None, [os.environ.get("PYTHONPATH")])] if workers else []
    if folders:
        settings["PYTHONPATH"] = os.pathsep.join(folders)
    saved = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        restore(saved)


@contextmanager
def _commands_changed(change: Callable[[Command], Command]) -> Iterator[None]:
    """Change the commands of Ray's processes.

    Replaces `start_ray_process` of `ray._private.services`. Without it all start as Ray has them.
    """
    from ray._private import services

    start = getattr(services, "start_ray_process", None)

    def start_with(command: Command, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return start(change(command), *args, **kwargs)  # type: ignore[misc]

    with replaced(services, "start_ray_process", start_with):
        yield


def _changed(command: Command, prestart: int, environments: bool) -> Command:
    """A command of Ray with another number of workers that start ahead, and agents that only keep the raylet content.

    Ray's own setting starts one worker a processor. Its two agents serve dashboards and metrics, and environments of
    workers: each takes over a second of a processor, and the raylet waits for both.
    """
    given = {name: word[len(name) :] for word in command for name in (_NODE, _SESSION) if word.startswith(name)}
    changed = {_PRESTART: str(prestart)}
    if len(given) == len((_NODE, _SESSION)):
        changed[_DASHBOARD_AGENT] = _stand_in(given, _DASHBOARD_PORTS)
        if not environments:
            changed[_ENVIRONMENT_AGENT] = _stand_in(given, _ENVIRONMENT_PORTS)
    return [
        next((f"{name}{value}" for name, value in changed.items() if word.startswith(name)), word) for word in command
    ]


def _stand_in(given: dict[str, str], ports: tuple[str, ...]) -> str:
    """A command as Ray writes those of its agents."""
    files = [os.path.join(given[_SESSION], f"{port}_{given[_NODE]}") for port in ports]
    return subprocess.list2cmdline([sys.executable, "-I", "-S", agent_stand_in.__file__, *files])


@contextmanager
def _without_environment_of_uv() -> Iterator[None]:
    """Keep Ray from packing the working folder, with all images in it, where `uv run` has started this process.

    Workers of this machine run the same Python. Sets `ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV`, whose
    environment variable is read on import. Without it Ray has no such feature.
    """
    from ray._private import ray_constants

    with replaced(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", False):
        yield


@contextmanager
def _node_known_at_once() -> Iterator[None]:
    """Have `ray.init` go on as soon as the raylet is known, of which its own look is repeated every second.

    Replaces `get_node` of `ray._private.services`, and uses `GlobalState.node_table`. Without them Ray waits longer.
    """
    from ray._private import services
    from ray._private.state import GlobalState

    get_node = getattr(services, "get_node", None)
    options = getattr(services, "_get_gcs_client_options", None)
    if get_node is None or options is None or not hasattr(GlobalState, "node_table"):
        yield
        return

    def get_once_known(address: str, node_id: str) -> Any:  # noqa: ANN401
        state: Any = GlobalState()  # type: ignore[no-untyped-call]
        state._initialize_global_state(options(address))
        until_s = time.monotonic() + _KNOWN_WITHIN_S
        while time.monotonic() < until_s and not any(each["NodeID"] == node_id for each in state.node_table()):
            time.sleep(_KNOWN_POLL_S)
        return get_node(address, node_id)

    with replaced(services, "get_node", get_once_known):
        yield


def spill_folders() -> list[str]:
    """Make the folders for objects for which memory has no room, pixels among them; returns those of local disks.

    Only this user may read them, where Ray, which would make them at the first such object, lets everybody. They are
    named as `FileSystemStorage` of `ray._private.external_storage` names them, by `_object_spilling_config` of
    `ray._private.node.Node`, its `node_id`, and `DEFAULT_OBJECT_PREFIX`. Without one of these: none, Ray makes them.
    """
    from ray._private import ray_constants

    own, prefix = node(), getattr(ray_constants, "DEFAULT_OBJECT_PREFIX", None)
    config = json.loads(getattr(own, "_object_spilling_config", None) or "{}")
    if prefix is None or config.get("type") != "filesystem" or not hasattr(own, "node_id"):
        return []
    given = config["params"]["directory_path"]
    folders = [os.path.join(path, f"{prefix}_{own.node_id}") for path in ([given] if isinstance(given, str) else given)]
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o700)
    return folders


def spilled_before(folder: str) -> list[str]:
    """The folders like one of `spill_folders` beside it, and in other sessions of Ray beside its own."""
    parent, name = os.path.split(folder)
    prefix, around = name.rpartition("_")[0], glob.escape(os.path.dirname(parent))
    return glob.glob(f"{glob.escape(parent)}/{prefix}_*") + glob.glob(f"{around}/session_[0-9]*/{prefix}_*")


def end() -> None:
    """Shut Ray down; a private one at once: no other process waits for it, and nothing of it is used again.

    Ray gives raylet and control store time to end, which takes 0.3 s. Calls `kill_all_processes` of
    `ray._private.node.Node` without it. Without that method Ray shuts down as ever.
    """
    import ray

    own = node()
    kill = getattr(own, "kill_all_processes", None)
    if kill is not None and is_private():
        own.kill_all_processes = lambda **_: kill(check_alive=False, allow_graceful=False)
    ray.shutdown()
