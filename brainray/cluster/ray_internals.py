"""All uses of private names of Ray: each docstring says which name, why, and what happens where Ray lacks it.

Those of a private Ray's start and end are in `start_internals`, those of Ray Train in `train_internals`. Ray is pinned
to the minor version that was tested; tests/cluster/test_ray_internals.py lists within a second what another version
lacks. No other module may import a private module of Ray. This one imports Ray inside functions only, because `session`
sets environment variables that Ray reads on import.
"""

import logging
import os
import secrets
import site
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import update_wrapper, wraps
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .stand_ins import NoLocations, NoStatistics, WholeNode

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.job_config import JobConfig

_AUTH_MODE, _AUTH_TOKEN, _AUTH_TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_ACTOR_POOL = "ray.data._internal.execution.operators.actor_pool_map_operator"
_RATE_BASED = "ray.data._internal.cluster_autoscaler.rate_based_cluster_autoscaler"
_PACKAGE = Path(__file__).parent.parent


def is_private() -> bool:
    """Whether this process started the Ray it is connected to, which then has no other user and no further node.

    Uses `ray._private.worker._global_node`, because the public context does not hold this. Without it: no.
    """
    own = node()
    return own is not None and bool(own.is_head())


def processes_died() -> bool:
    """Whether a process of the Ray on this machine has died; the library then ends this process without a word.

    Uses `_global_node.remaining_processes_alive()`, which has no public counterpart. Without the node: no.
    """
    own = node()
    return own is not None and not own.remaining_processes_alive()


def node() -> Any:  # noqa: ANN401
    """The node that this process started or joined, as Ray has it; None without one."""
    from ray._private import worker

    return getattr(worker, "_global_node", None)


def has_dashboard() -> bool:
    """Whether the connected Ray has a dashboard.

    Uses `ray._private.worker.get_dashboard_url`, because only the caller of `ray.init` gets the public address.
    Without it: yes, so that Ray's defaults stay.
    """
    from ray._private import worker

    url = getattr(worker, "get_dashboard_url", None)
    return url is None or bool(url())


def mute_workers() -> None:
    """Keep Ray's messages about dead workers and nodes off the standard output, because a run handles those itself.

    Replaces `ray._private.worker.print_to_stdstream`: some messages come with `log_to_driver=False` too. Without it
    the messages appear.
    """
    from ray._private import worker

    original = getattr(worker, "print_to_stdstream", None)
    if original is not None and not hasattr(original, "__wrapped__"):
        worker.print_to_stdstream = wraps(original)(lambda *_, **__: None)


def restore(variables: dict[str, str | None]) -> None:
    """Give environment variables the values they had; None: not set."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:  # noqa: ANN401
    """Give what an owner has by a name another value meanwhile; nothing where it has none."""
    if not hasattr(owner, name):
        yield
        return
    saved = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, saved)


@contextmanager
def without_sigterm_handler() -> Iterator[None]:
    """Keep Ray from handling SIGTERM: its handler ends the process with a dump of the stack.

    Replaces `ray._private.utils.set_sigterm_handler`. Without it Ray's handler is set, and a stopped run ends with it.
    """
    from ray._private import utils

    with replaced(utils, "set_sigterm_handler", lambda _: None):
        yield


class _AutoConnect:
    """Ray's switch for calls that start a Ray where there is none: as it was, but off in threads that are `left`."""

    def __init__(self, before: object) -> None:
        self._before = before
        self.left = WeakSet[Thread]()

    def __bool__(self) -> bool:
        return bool(self._before) and threading.current_thread() not in self.left


@contextmanager
def without_auto_connect() -> Iterator[None]:
    """Keep calls of Ray from starting one: meanwhile, and ever after in daemon threads that were started meanwhile.

    One of these that still waits for Ray when a run is stopped would start another; those of the caller may. Sets
    `enable_auto_connect` of `ray._private.auto_init_hook`, whose environment variable is read on import. Without it,
    such a thread starts one.
    """
    from ray._private import auto_init_hook

    before = getattr(auto_init_hook, "enable_auto_connect", True)
    switch = before if isinstance(before, _AutoConnect) else _AutoConnect(before)
    running = {*threading.enumerate()}
    auto_init_hook.enable_auto_connect = False
    try:
        yield
    finally:
        switch.left.update(thread for thread in threading.enumerate() if thread.daemon and thread not in running)
        auto_init_hook.enable_auto_connect = switch  # type: ignore[assignment]


def last_address() -> str | None:
    """Return the address of the cluster last started on this machine, which may be gone; None where there is none.

    Uses `ray._private.utils.read_ray_address`, because `ray.init("auto")` waits long for one that is gone. Without it:
    None, so that only a cluster that RAY_ADDRESS names is used.
    """
    from ray._private import utils

    read = getattr(utils, "read_ray_address", None)
    try:
        found = read() if read else None
    except OSError:  # another user's, who keeps it private
        return None
    return str(found) if found else None


def processors(usable: float) -> int:
    """Count the processors that a local Ray takes, at least one, where this process may use so many of them.

    Uses `ray._private.utils.get_num_cpus`, as `ray.init` does, for a user may set what it reads. It knows neither the
    affinity that `taskset` and schedulers set, nor limits of cgroups above that of a container, and rounds a quota
    below one processor down to none. Without it: as many as may be used.
    """
    from ray._private import utils

    count = getattr(utils, "get_num_cpus", None)
    found = min(usable, count(override_docker_cpu_warning=True)) if count else usable
    return max(1, int(found))


class _FixedFolders(list[str]):
    """A list of folders that `ray.init` cannot extend."""

    def extend(self, _: Iterable[str]) -> None:
        pass


def own_job_config() -> "JobConfig":
    """Make a configuration by which workers import from installed packages, PYTHONPATH and brainray's own folder only.

    Sets `JobConfig._py_driver_sys_path`, folders that workers search before all others: `ray.init` adds the working
    folder and that of the script, where a `torch.py` would be taken for torch. Without it: these are searched.
    """
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = _FixedFolders(own_folders())
    return config


def own_folders() -> list[str]:
    """The folder that brainray is imported from, unless it is that of installed packages, which workers search."""
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    own = str(_PACKAGE.parent)
    return [] if own in installed else [own]


@contextmanager
def without_relative_python_path() -> Iterator[None]:
    """Hide from processes started meanwhile the entries of PYTHONPATH that mean the working folder: empty ones and ".".

    An empty one stands there by accident, as after `PYTHONPATH=$PYTHONPATH:/folder` where none was set.
    """
    given = os.environ.get("PYTHONPATH")
    if given is None:
        yield
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(
        folder for folder in given.split(os.pathsep) if os.path.normpath(folder) != os.curdir
    )
    try:
        yield
    finally:
        os.environ["PYTHONPATH"] = given


@contextmanager
def auth_settings_kept() -> Iterator[None]:
    """Restore the environment variables of Ray's tokens at the end: `ray.init` and functions here change them.

    Ray's C++ caches mode and token at its first read: see `_read_auth_settings`.
    """
    saved = {name: os.environ.get(name) for name in (_AUTH_MODE, _AUTH_TOKEN)}
    try:
        yield
    finally:
        restore(saved)
        _read_auth_settings()


def use_own_token() -> None:
    """Make the Ray that this process will start require a new secret token, unless the user has set one.

    Without one, `ray.init` writes a token to ~/.ray/auth_token; every later `ray start --head` of this user requires
    it, and `ray job submit` does not send it. Other users cannot read the environment of a process.
    """
    mode = os.environ.get(_AUTH_MODE)
    named = any(os.environ.get(name) for name in (_AUTH_TOKEN, _AUTH_TOKEN_PATH))
    if not named and (mode is None or mode.lower() == "token"):
        os.environ[_AUTH_MODE] = "token"
        os.environ[_AUTH_TOKEN] = secrets.token_hex(32)
    _read_auth_settings()


def use_users_token() -> bool:
    """Load the token of RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; returns whether there is one.

    Uses `maybe_enable_token_auth_if_token_available` of Ray's `authentication_token_setup`, which `ray.init` calls only
    where it is given no address. Without it: no.
    """
    try:
        from ray._private.authentication import authentication_token_setup as setup
    except ImportError:
        return False
    logging.getLogger(setup.__name__).setLevel(logging.CRITICAL)
    _read_auth_settings()
    return setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def requires_token(address: str, *, timeout_s: float) -> bool:
    """Whether the cluster at host:port refuses clients without a token.

    Uses `ray._raylet.GcsClient.internal_kv_exists`: the public way is `ray.init`, which tries for minutes or ends the
    process. Other errors are left to `ray.init`. Without it: no.
    """
    import ray.exceptions

    refused = getattr(ray.exceptions, "AuthenticationError", None)
    try:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        GcsClient(address=address).internal_kv_exists(b"brainray", None, timeout=timeout_s)
    except Exception as exc:  # noqa: BLE001
        return refused is not None and isinstance(exc, refused)
    return False


def _read_auth_settings() -> None:
    """Make Ray's C++ read mode and token from the environment again.

    Uses `Config.initialize` and `AuthenticationTokenLoader.reset_cache` of `ray._raylet`, as Ray's own set-up of tokens
    does. A Ray without them has no tokens.
    """
    from ray import _raylet

    config, loader = getattr(_raylet, "Config", None), getattr(_raylet, "AuthenticationTokenLoader", None)
    if config is not None and loader is not None:
        config.initialize("")
        loader.instance().reset_cache()


def one_task_a_row(dataset: "Dataset") -> "Dataset":
    """Make each row of a dataset that is in the object store the input of a task of its own, and no object of its own.

    Replaces the `input_data` of the dataset's logical plan by slices of its blocks: a `RefBundle` with a `BlockSlice`
    for each row, as `repartition` makes them. Ray's public ways cut blocks by tasks into objects; where a name is
    missing, `repartition` does it.
    """
    try:
        from ray.data._internal.execution.interfaces.ref_bundle import BlockSlice, RefBundle

        source: Any = dataset._logical_plan.dag
        bundles = source.input_data
        rows = [
            RefBundle(bundle.blocks, schema=bundle.schema, owns_blocks=False, slices=(BlockSlice(row, row + 1),))
            for bundle in bundles
            for row in range(bundle.num_rows() or 0)
        ]
    except (ImportError, AttributeError, TypeError):
        return dataset.repartition(target_num_rows_per_block=1)
    object.__setattr__(source, "input_data", rows)  # a frozen dataclass
    return dataset


def kill_workers_on_failure(dataset: "Dataset") -> None:
    """Have Ray Data kill the actors of a dataset whose execution fails.

    It drops its handles of them, which the error that it raises may hold: they would go on, and keep their processors,
    for as long as somebody has that error. Sets the class of the executor that `_create_executor` makes, whose
    `shutdown` gets the error; without these nothing changes.
    """
    make = getattr(dataset, "_create_executor", None)
    if make is None:
        return

    def created() -> Any:  # noqa: ANN401
        executor = make()
        found = type(executor)

        def shutdown(self: Any, force: bool, exception: Exception | None = None) -> None:  # noqa: ANN401
            found.shutdown(self, force=force or exception is not None, exception=exception)

        with suppress(TypeError):  # a class that cannot be replaced
            executor.__class__ = type(found.__name__, (found,), {"shutdown": shutdown})
        return executor

    dataset._create_executor = created  # type: ignore[method-assign]


# Module, name in it, and what takes its place on a private Ray.
_DATA_ACTORS: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("ray.data._internal.stats", "get_or_create_stats_actor", NoStatistics),
    (_ACTOR_POOL, "get_or_create_actor_location_tracker", NoLocations),
    ("ray.data._internal.utils.cached_ray_internals", "get_or_create_actor_location_tracker", NoLocations),
    (_RATE_BASED, "DefaultAutoscalingCoordinator", WholeNode),
)


def replace_data_actors() -> None:
    """Run Ray Data without its three helper actors wherever Ray is private, now or later in this process.

    Each is a process that imports Ray Data, which takes a second of a processor, and serves dashboards or clusters of
    several nodes. Ray has no public switch, so what makes them is replaced. Where a name is missing: Ray starts that
    actor.
    """
    for module, name, stand_in in _DATA_ACTORS:
        with suppress(ImportError):
            owner = import_module(module)
            original = getattr(owner, name, None)
            if original is not None and not hasattr(original, "__wrapped__"):
                setattr(owner, name, on_private(stand_in, original))


def on_private(stand_in: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """What calls `stand_in` on a private Ray, and `original` on every other."""

    def chosen(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return (stand_in if is_private() else original)(*args, **kwargs)

    return update_wrapper(chosen, original, updated=())


def end_executors(dataset: "Dataset | None" = None) -> None:
    """End threads of Ray Data that an interrupted run leaves running, with their workers: all, or those of a dataset.

    A thread that calls Ray during shutdown ends the process silently with exit code 1. The threads are found by the
    name of their class, `StreamingExecutor`, because a dataset does not list its own; their own names end in
    `Dataset.get_dataset_id()`, whose last number counts the executions. A class of another name is left alone.
    """
    identity = "" if dataset is None else f"-{dataset.get_dataset_id().rpartition('_')[0]}_"
    for thread in threading.enumerate():
        shutdown = getattr(thread, "shutdown", None)
        if type(thread).__name__ == "StreamingExecutor" and shutdown is not None and identity in thread.name:
            with suppress(Exception):  # its error does not matter: nobody waits for its result
                shutdown(force=True)
