"""Connects to Ray, keeps its output off the terminal, and translates errors of workers to those of brainray.

Must not know images, models or runs. Importing this module does not import Ray.
"""

import logging
import os
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

from brainray.callbacks import Say, ignore
from brainray.doctor import local_ray
from brainray.errors import BadRequest, BrainrayError, StorageError
from brainray.machine.hardware import Machine, has_working_folder, read_machine
from brainray.machine.resources import Node, missing_memory
from brainray.storage.scratch import held, remove_if_abandoned

from . import ray_internals, start_internals
from .guard import Guard

_ANSWER_TIMEOUT_S = 5.0
_WITHOUT_CLUSTER = "; that cluster was started last on this machine: RAY_ADDRESS=local runs without it"
_OWN_EXCEPTION = re.compile(r"\bbrainray\.(?:\w+\.)+(\w+): (.+)")  # an exception of brainray in a traceback


def cluster_nodes() -> list[Node]:
    """List the resources of the nodes that are alive."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    resources: list[dict[str, float]] = [node["Resources"] for node in alive]
    return [
        Node(cpus=r.get("CPU", 0.0), gpus=r.get("GPU", 0.0), memory_bytes=int(r.get("memory", sys.maxsize)))
        for r in resources
    ]


def nodes_within(nodes: list[Node], machine: Machine) -> list[Node]:
    """The nodes of a local Ray with the memory that is free here: Ray misses limits of cgroups above a container's."""
    free_bytes = machine.available_bytes if machine.memory_bytes else sys.maxsize  # else not known
    return [replace(node, memory_bytes=min(node.memory_bytes, free_bytes)) for node in nodes]


class _Turn:
    """The right of one thread to connect this process to Ray, of which a process has one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None

    def is_of_another(self) -> bool:
        """Whether another thread has it, so that the Ray of this process is about to end."""
        return self._holder not in (None, threading.get_ident())

    @contextmanager
    def taken(self, say: Say) -> Iterator[None]:
        """Wait until no other thread has it, and have it meanwhile."""
        if self._holder == threading.get_ident():
            yield
            return
        if not self._lock.acquire(blocking=False):
            say("another call in this process uses Ray; waiting until it has ended")
            self._lock.acquire()
        self._holder = threading.get_ident()
        try:
            yield
        finally:
            self._holder = None
            self._lock.release()


_turn = _Turn()


@contextmanager
def session(*, prestart: int = 0, environments: bool = True, say: Say = ignore) -> Iterator[list[Node]]:
    """Connect to Ray and yield its nodes: the caller's connection, the cluster of `cluster_address`, or a local Ray.

    A local Ray starts `prestart` workers that score before they are asked for; without `environments` it starts sooner,
    and can give no worker environment variables or packages of its own, as Ray Train does. Only a connection made here
    is closed here. Calls in several threads of a process take turns, unless the caller has connected. Raises
    `BrainrayError` where Ray cannot be started or reached.
    """
    _set_ray_defaults()
    import ray

    if ray.is_initialized() and not _turn.is_of_another():
        yield cluster_nodes()
        return
    with _turn.taken(say):
        if ray.is_initialized():  # the caller has connected meanwhile
            yield cluster_nodes()
            return
        with _connected(prestart, environments) as nodes:
            yield nodes


@contextmanager
def _connected(prestart: int, environments: bool) -> Iterator[list[Node]]:
    """Connect to a cluster or a local Ray, yield its nodes, and close the connection."""
    ray_internals.mute_workers()
    with (
        Guard() as guard,
        ray_internals.auth_settings_kept(),
        ray_internals.without_auto_connect(),
        ExitStack() as stack,
    ):
        address = cluster_address()
        _connect(address, guard, prestart, environments)
        try:
            if address is None:
                _keep_spilled(guard, stack)
            yield cluster_nodes() if address else nodes_within(cluster_nodes(), read_machine())
        except BrainrayError as exc:
            guard.tell(str(exc))  # Ray may end this process in `ray.shutdown`, before the error is shown
            raise
        finally:
            _mute_dying_threads()
            ray_internals.end_executors()
            start_internals.end()
            _restore_sigterm_handler()


def _keep_spilled(guard: Guard, stack: ExitStack) -> None:
    """Have objects that Ray puts on the disk removed at the end, and remove those of runs killed with their guards."""
    with suppress(OSError):  # Ray makes its folders itself
        for folder in start_internals.spill_folders():
            guard.remove_at_end(folder)
            stack.enter_context(held(folder))
            for other in start_internals.spilled_before(folder):
                remove_if_abandoned(other)


def _connect(address: str | None, guard: Guard, prestart: int = 0, environments: bool = True) -> None:
    """Connect to the Ray at an address, or start one. A start that is cut short leaves no process behind."""
    import ray

    given: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        with _stderr_muted(), _sigterm_handler_kept():
            if address is None:
                with guard.marked(), start_internals.quick_start(prestart=prestart, environments=environments):
                    _start(given)
            else:
                bring_token(address)
                # Not for Ray's client: the server would unpickle it, and may be without brainray.
                if "://" not in address:
                    given["job_config"] = ray_internals.own_job_config()
                ray.init(address=address, **given)
    except BrainrayError:
        raise
    except Exception as exc:  # Ray has no class for all that may go wrong in a start
        where = (
            f"{address}, with RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', 'disabled')}"
            if address
            else "this machine"
        )
        # It may be another user's, or one that is about to end.
        other = "" if address is None or os.environ.get("RAY_ADDRESS") else _WITHOUT_CLUSTER
        raise BrainrayError(f"could not start or reach Ray at {where}: {_first_line(exc)}{other}") from exc


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).splitlines()), "") or type(exc).__name__


def _start(quiet: dict[str, Any]) -> None:
    """Start a Ray of this process alone: with at least one processor, and without the working folder's modules.

    Raises `BadRequest` where memory is too small for one worker, because the kernel would kill it again and again, and
    where the machine lacks what Ray would wait for (`local_ray`).
    """
    import ray

    if sys.flags.optimize > 1:
        raise BadRequest("Python runs without docstrings, which Ray needs; start it with -O in place of -OO")
    machine = read_machine()
    local_ray.require(machine)
    folder = local_ray.session_folder()
    _check_memory(machine)
    if not has_working_folder():
        os.chdir("/")  # Ray and its workers cannot start in a folder that was deleted
    ray_internals.use_own_token()
    with ray_internals.without_relative_python_path():
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=ray_internals.processors(machine.usable),
            job_config=ray_internals.own_job_config(),
            _temp_dir=folder,
            # Where shared memory is too small, Ray chooses the same by itself.
            _plasma_directory=None if local_ray.shared_memory_bytes() else folder,
            **quiet,
        )


def _check_memory(machine: Machine) -> None:
    missing_bytes = missing_memory(machine.available_bytes) if machine.memory_bytes else 0  # else not known
    if missing_bytes:
        raise BadRequest(
            f"this machine has {machine.available_bytes / 1e9:.2f} GB of memory free, {missing_bytes / 1e9:.2f} GB too "
            "little for Ray and one worker; end what else uses memory, or raise the limit of the container"
        )


def bring_token(address: str) -> None:
    """Load the user's token where the cluster requires one, as it does when its head found a token on its machine.

    `ray.init` sends a token only when RAY_AUTH_MODE says so, and workers of a cluster without tokens cannot reach a
    driver that requires one. Raises `BadRequest` where the user has no token.
    """
    if os.environ.get("RAY_AUTH_MODE") or "://" in address:
        return
    if ray_internals.requires_token(address, timeout_s=_ANSWER_TIMEOUT_S) and not ray_internals.use_users_token():
        raise BadRequest(
            f"the Ray cluster at {address} asks for a token; give the head's as RAY_AUTH_TOKEN or in ~/.ray/auth_token"
        )


class _WithoutRayErrors:
    """A `threading.excepthook` that drops tracebacks of errors of Ray and passes on all others."""

    def __init__(self) -> None:
        self._previous = threading.excepthook

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        from ray.exceptions import RayError

        if args.exc_type is None or not issubclass(args.exc_type, RayError):
            self._previous(args)


def _mute_dying_threads() -> None:
    """Drop the tracebacks of Ray Data's threads, which fail with a `RayError` when Ray is shut down under them."""
    if not isinstance(threading.excepthook, _WithoutRayErrors):
        threading.excepthook = _WithoutRayErrors()


def _restore_sigterm_handler() -> None:
    """Install Python's handler of SIGTERM again, because Ray's core worker resets it to the default when it ends."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def check_alive() -> None:
    """Raise `BrainrayError` where a local Ray has died, before its library silently ends this process."""
    if ray_internals.processes_died():
        raise BrainrayError("Ray on this machine has died; what was finished is kept, run the same command to go on")


@contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Keep the present handler of SIGTERM from Ray's Python and C++."""
    try:
        with ray_internals.without_sigterm_handler():
            yield
    finally:
        _restore_sigterm_handler()


@contextmanager
def _stderr_muted() -> Iterator[None]:
    """Discard the standard error stream, also of C++: Ray prints a greeting there at any log level."""
    _flush_stderr()
    saved = os.dup(2)
    with open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        _flush_stderr()
        os.dup2(saved, 2)
        os.close(saved)


def _flush_stderr() -> None:
    if sys.stderr is not None:  # None: closed by the caller
        sys.stderr.flush()


def cluster_address() -> str | None:
    """Find the cluster to use: the one that `RAY_ADDRESS` names, else the one last started here; None for a local Ray.

    `ray.init` waits minutes for a cluster that is gone, and a killed head leaves its address behind, so the address is
    probed first. Raises `BadRequest` where a named cluster does not answer; one that was left behind is ignored.
    """
    named = os.environ.get("RAY_ADDRESS")
    if named == "local":
        return None
    if named and named != "auto":
        if not _is_listening(named):
            raise BadRequest(f"RAY_ADDRESS is {named}, but nothing answers there; start that cluster or unset it")
        return named
    last_started = ray_internals.last_address()
    if last_started and _is_listening(last_started):
        return last_started
    if named:
        raise BadRequest("RAY_ADDRESS is auto, but no cluster runs on this machine; start one or unset it")
    return None


def _is_listening(address: str) -> bool:
    """Whether a process listens at the address. An address that is no host:port is left to Ray."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_TIMEOUT_S):
            return True
    except OSError:
        return False


def _set_ray_defaults() -> None:
    """Keep Ray's log in its session folder.

    Terminals and pipes then show only brainray's messages. A variable that the user has set is left alone.
    """
    defaults = {
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"ray\..*")
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def quiet_data() -> Any:  # noqa: ANN401
    """Return Ray Data's context without progress bars. Runs after Ray Data's import, which sets a log level.

    On a private Ray, Ray Data then runs without its helper actors.
    """
    from ray.data import DataContext

    ray_internals.replace_data_actors()
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


def own_error(exc: BaseException) -> BrainrayError | None:
    """Return the error of brainray that made a worker fail; None where the cause was another one.

    Ray passes on the exception of a task. For an actor that did not start, and for functions that Ray Data and Ray
    Train call, there is only a text; its last exception is the cause.
    """
    from ray.exceptions import RayError

    cause: BaseException | None = exc
    while isinstance(cause, RayError):  # also where Ray derived it from our class: its text is a traceback
        cause = getattr(cause, "cause", None)
    if isinstance(cause, BrainrayError):
        return cause
    kinds = {kind.__name__: kind for kind in _subclasses(BrainrayError)}
    found = [(kinds[name], message) for name, message in _OWN_EXCEPTION.findall(str(exc)) if name in kinds]
    if not found:
        return None
    kind, message = found[-1]
    return kind("read_failed", message) if issubclass(kind, StorageError) else kind(message)


def _subclasses(kind: type[BrainrayError]) -> Iterator[type[BrainrayError]]:
    """Yield a class and all its subclasses."""
    yield kind
    for below in kind.__subclasses__():
        yield from _subclasses(below)


@contextmanager
def own_errors() -> Iterator[None]:
    """Translate errors: raise brainray's error that made a worker fail instead of Ray's, whose text is a traceback."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as exc:
        if own_exc := own_error(exc):
            raise own_exc from exc
        raise
