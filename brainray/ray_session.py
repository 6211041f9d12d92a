"""Connect to Ray quietly. Knows nothing of images or models."""

import logging
import os
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from .errors import BadRequest, BrainrayError, StorageError
from .pools import Node

_ANSWER_TIMEOUT_S = 5.0
_NAMED = re.compile(r"\bbrainray\.(?:\w+\.)+(\w+): (.+)")  # an exception of ours in a traceback


def cluster_nodes() -> list[Node]:
    """The machines that are alive."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    resources: list[dict[str, float]] = [node["Resources"] for node in alive]
    return [
        Node(cpus=r.get("CPU", 0.0), gpus=r.get("GPU", 0.0), memory_bytes=int(r.get("memory", sys.maxsize)))
        for r in resources
    ]


def is_private() -> bool:
    """Whether the Ray connected to is our own: nobody else uses it, and no machine will join."""
    from ray._private import worker

    node = worker._global_node
    return node is not None and node.is_head()


@contextmanager
def session(*, lean: bool = False) -> Iterator[list[Node]]:
    """A Ray connection: the caller's own, the cluster that `RAY_ADDRESS` or `ray start` names, or a local one.

    Only a connection made here is closed here. A `lean` local one has neither dashboard nor autoscaler.
    """
    _silence()
    import ray

    if ray.is_initialized():
        yield cluster_nodes()
        return
    _hush()
    address = cluster_address()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        with _unheard(), _own_sigterm(), _without_attendants() if lean and address is None else nullcontext():
            if address is None:
                ray.init(address="local", include_dashboard=False, **quiet)
            else:
                bring_token(address)
                ray.init(address=address, **quiet)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as exc:
        where = (
            f"{address}, with RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', 'disabled')}"
            if address
            else "this machine"
        )
        raise BrainrayError(f"could not start or reach Ray at {where}: {str(exc).splitlines()[0]}") from exc
    try:
        yield cluster_nodes()
    finally:
        _let_threads_end_unheard()
        _end_executors()
        ray.shutdown()
        _own_handler_again()


def bring_token(address: str) -> None:
    """Bring the token to a cluster that asks for one, as one does where a token lay on its head's machine.

    `ray.init` brings one only when told to, and workers of a cluster that asks for none could not reach a driver that
    asks. Raises `BadRequest` where there is none to bring.
    """
    if os.environ.get("RAY_AUTH_MODE") or "://" in address or not _asks_for_token(address):
        return
    from ray._private.authentication import authentication_token_setup as setup

    logging.getLogger(setup.__name__).setLevel(logging.CRITICAL)
    if not setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
        raise BadRequest(
            f"the Ray cluster at {address} asks for a token; give the head's as RAY_AUTH_TOKEN or in ~/.ray/auth_token"
        )


def _asks_for_token(address: str) -> bool:
    from ray import exceptions
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    refused = getattr(exceptions, "AuthenticationError", None)
    try:
        GcsClient(address=address).internal_kv_exists(b"brainray", None, timeout=_ANSWER_TIMEOUT_S)
    except Exception as exc:  # noqa: BLE001  whatever else it is, `ray.init` comes upon it too
        return refused is not None and isinstance(exc, refused)
    return False


def _let_threads_end_unheard() -> None:
    """Threads of Ray Data that still wait when Ray is shut down die of it, each with a traceback."""
    from ray.exceptions import RayError

    told = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is None or not issubclass(args.exc_type, RayError):
            told(args)

    threading.excepthook = hook


def _end_executors() -> None:
    """End threads of Ray Data that a cut-short run leaves at work.

    One that asks Ray for something while it is shut down takes the process along, with code 1 and without a word.
    """
    for thread in threading.enumerate():
        if type(thread).__name__ == "StreamingExecutor" and hasattr(thread, "shutdown"):
            with suppress(Exception):  # whatever it says, nobody waits for its result
                thread.shutdown(force=True)


def _own_handler_again() -> None:
    """The core worker resets SIGTERM to its default when it ends, behind Python's back."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def check_alive() -> None:
    """Raise `BrainrayError` where the Ray started here has died: else its library ends the process without a word."""
    from ray._private import worker

    node = worker._global_node
    if node is not None and not node.remaining_processes_alive():
        raise BrainrayError("Ray on this machine has died; what was finished is kept, run the same command to go on")


def has_dashboard() -> bool:
    """Whether the Ray connected to answers questions about its actors."""
    from ray._private.worker import get_dashboard_url

    return bool(get_dashboard_url())  # type: ignore[no-untyped-call]


def _hush() -> None:
    """Keep Ray's remarks on workers and nodes that die off the standard output: a run goes on, or says why not."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


@contextmanager
def _without_attendants() -> Iterator[None]:
    """Start a local Ray without the processes that a private one has no use for.

    Dashboard, autoscaler monitor and log monitor take 2 of the 3.5 s that `ray.init` needs on two processors, and
    slow down its end. There is no public switch; where a version of Ray lacks a method, it starts as it always does.
    """
    from ray._private.node import Node as RayNode

    def nothing(node: Any, **_: Any) -> None:  # noqa: ANN401
        node._webui_url = ""

    names = [name for name in ("start_monitor", "start_log_monitor", "start_api_server") if hasattr(RayNode, name)]
    kept = {name: getattr(RayNode, name) for name in names}
    for name in names:
        setattr(RayNode, name, nothing)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(RayNode, name, method)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray sets a handler that ends the process with a dump of the stack; put back what was there."""
    from ray._private import utils

    kept = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = kept
        _own_handler_again()


@contextmanager
def _unheard() -> Iterator[None]:
    """Nothing reaches the standard error stream, not even from C++: Ray greets there whatever its log level is."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def cluster_address() -> str | None:
    """The cluster to use: the one that `RAY_ADDRESS` names, else the one last started here; None for a local Ray.

    `ray.init` waits minutes for a cluster that is gone, and a head that was killed leaves its address behind. So it is
    asked first: one that was named and does not answer is a `BadRequest`, one that was only left behind is ignored.
    """
    named = os.environ.get("RAY_ADDRESS")
    if named == "local":
        return None
    if named and named != "auto":
        if not _answers(named):
            raise BadRequest(f"RAY_ADDRESS is {named}, but nothing answers there; start that cluster or unset it")
        return named
    from ray._private.utils import read_ray_address

    left = read_ray_address()
    if left and _answers(left):
        return str(left)
    if named:
        raise BadRequest("RAY_ADDRESS is auto, but no cluster runs on this machine; start one or unset it")
    return None


def _answers(address: str) -> bool:
    """Whether somebody listens there. What is no host:port is left to Ray."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_TIMEOUT_S):
            return True
    except OSError:
        return False


def _silence() -> None:
    """Keep Ray's own log in its session folder: at a terminal and in a pipe there is only what brainray says.

    Each may be set by the user, who then sees what Ray says.
    """
    quiet = {
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        # A thread that still waits for Ray when a run is stopped would start another one.
        "RAY_ENABLE_AUTO_CONNECT": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"ray\..*")
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def quiet_data() -> Any:  # noqa: ANN401
    """The context of Ray Data, made quiet. Importing Ray Data sets its own log level, so this comes after it."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


def own_error(exc: BaseException) -> BrainrayError | None:
    """The error of ours that made a worker fail; None where it failed of something else.

    Ray hands on the exception of a task. Of an actor that did not start, and of what Ray Data and Ray Train call, there
    is only a text, whose last exception is the one that was raised.
    """
    from ray.exceptions import RayError

    cause: BaseException | None = exc
    while isinstance(cause, RayError):  # also where it is of our class as well: its text is a traceback
        cause = getattr(cause, "cause", None)
    if isinstance(cause, BrainrayError):
        return cause
    kinds = {kind.__name__: kind for kind in _kinds(BrainrayError)}
    found = [(kinds[name], message) for name, message in _NAMED.findall(str(exc)) if name in kinds]
    if not found:
        return None
    kind, message = found[-1]
    return kind("read_failed", message) if issubclass(kind, StorageError) else kind(message)


def _kinds(kind: type[BrainrayError]) -> Iterator[type[BrainrayError]]:
    """The class and all below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


@contextmanager
def own_errors() -> Iterator[None]:
    """Raises the error of ours that made a worker fail, instead of Ray's, whose text is a traceback."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as exc:
        if own := own_error(exc):
            raise own from exc
        raise
