"""What tests share: drawn images, a tiny untrained bundle, and one local Ray for the whole test run."""

import atexit
import gc
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from support.imaging.images import draw_archive
from support.models.bundles import CLASSES, untrained
from support.page.one_sandbox import OneSandbox
from support.scoring.one_database import OneDatabase

from brainray.models.bundle import Bundle

pytest_plugins = ("support.cluster.ray_guard",)

gc.disable()  # until all tests are collected: a fifth of that time would go into looking for garbage that is not there

IN_A_POOL = "PYTEST_XDIST_WORKER" in os.environ  # of the processes that `-n` starts
# The second of them collects as another machine would at another time; xdist refuses to run what they name differently.
ELSEWHERE = import_module("support.elsewhere") if os.environ.get("PYTEST_XDIST_WORKER") == "gw1" else None
if IN_A_POOL:
    # Last of all that is done at the end: the process goes as it is, for to take its modules apart costs a second.
    atexit.register(os._exit, 0)

os.environ["RAY_ADDRESS"] = "local"  # tests use no cluster that happens to run on the machine
# One thread, for tests compute little: a second one spins while it waits, beside another process for ten times as long
# as they compute. What a command needs it sets itself; there, those that wait for each other are to do so asleep.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray Train takes in one report at each look at its workers: with its 2 s, epochs of 0.1 s would wait for it.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
# Ray gives its workers the niceness 15: beside another test process they would get a thirtieth of a processor.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray ends workers that have nothing to do for a second; the next test's would import everything again.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
# What is compiled is kept: else each process that a test starts would compile the package, and pytest the tests, anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# No test cuts the power, and no file is waited for until it lies on the disk: that would be a third of a run. What is
# synced, and when, is seen by tests that put an `fsync` of their own here; commands in processes of their own sync.
os.fsync = lambda file: None
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# By default an example fails that takes 0.2 s, or whose data come slowly, as they do where a machine stalls. The same
# commit is given the same examples, for `make test` is no lottery; `--hypothesis-profile search` draws others.
common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("search", max_examples=100, **common)
settings.register_profile("any machine", max_examples=25, derandomize=True, **common)
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)  # before the plugin that starts the processes
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole set without Ray runs in two processes, as `make test` does, unless `-n` says otherwise."""
    option = config.option
    if hasattr(config, "workerinput"):  # one of those processes, which must start none
        return
    if option.markexpr == "not ray":
        _keep_files_in_memory()
    if option.markexpr == "not ray" and option.numprocesses is None and config.args == config.getini("testpaths"):
        option.numprocesses, option.dist, option.loadscopereorder = min(2, os.cpu_count() or 1), "loadfile", False


MEMORY = "/dev/shm"
LEAST_FREE_BYTES = 4 << 30  # of which the tests take a tenth


def _keep_files_in_memory() -> None:
    """Have files for tests lie in memory where there is room: a disk is waited for, for each file put in its place.

    Not those of Ray, which keeps its objects there.
    """
    room = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= LEAST_FREE_BYTES
    if room and "TMPDIR" not in os.environ:
        os.environ["TMPDIR"] = tempfile.tempdir = MEMORY


# Files that share what is dear to start, to import or to read, 1 to 2 s each: a server, a browser, the sources of the
# package, and for all that trains or compares networks scikit-learn, matplotlib and the parts of torch that torchvision
# and an optimizer bring along. They go to one process.
TOGETHER = {
    "moto": re.compile(r"/storage/s3/|/test_(archive_runs|s3_run|list_exact_names|no_sign_request|doctor)\.py"),
    "browser": re.compile(r"/page/test_\w*browser\.py|/test_readme\.py"),
    "sources": re.compile(r"/test_(errors|layers|ray_internals|versions)\.py"),
    "training": re.compile(
        r"/training/|/models/|/commands/test_(groups|reference|train)\.py|/test_other_classes\.py"
        r"|/evaluation/test_metrics\.py|/imaging/test_phantom\.py|/summary/test_build\.py|/cli/test_odd_homes\.py"
    ),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As `--dist loadfile`, with some files together."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((name for name, files in TOGETHER.items() if files.search(file)), file)

    return Scheduling(config, log) if config.option.dist == "loadfile" else None


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no test by bytes: compressed ones hold the second in which they were made, and differ between processes."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that may take long come first: at the end of a run, one test process would wait for them."""
    longest: dict[Path, int] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0), mark.args[0] if mark else 0)
    items.sort(key=lambda item: -longest[item.path])


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no collection of garbage during the tests need look at it again."""
    if ELSEWHERE is not None:
        ELSEWHERE.left()
    gc.enable()
    gc.set_threshold(100_000, 50, 100)
    gc.freeze()
    if not IN_A_POOL:
        atexit.register(gc.unfreeze)  # some libraries complain of objects that are left at the end


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Draws `images` into each class folder and gives the folder."""

    def drawn(name: str = "archive", *, images: int = 5, classes: tuple[str, ...] = CLASSES) -> Path:
        return draw_archive(tmp_path / name, images, classes)

    return drawn


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `laid_out`, which all tests of a file share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An untrained model for 32-pixel images: its predictions are wrong, and repeatable."""
    return untrained(tmp_path_factory.mktemp("bundle"))


_PLOTS = (
    "scoring.summary.build.make_plots_ready",
    "scoring.summary.build.draw_confusion",
    "training.report.draw_curves",
    "training.report.draw_reliability",
)


@pytest.fixture(autouse=True, scope="session")
def no_plot() -> Iterator[dict[str, Any]]:
    """Runs and trainings draw no plots, which take 0.2 s each, but where a test asks for `plots`."""
    with pytest.MonkeyPatch.context() as patch:
        drawing = {name: resolve_name(f"brainray.{name}") for name in _PLOTS}
        for name in _PLOTS:
            patch.setattr(f"brainray.{name}", lambda *_, **__: b"no plot")
        yield drawing


@pytest.fixture
def plots(no_plot: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at plots, or at what could break them: they are drawn."""
    for name, draw in no_plot.items():
        monkeypatch.setattr(f"brainray.{name}", draw)


@pytest.fixture(autouse=True, scope="session")
def one_database() -> Iterator[None]:
    """Runs of a process share one DuckDB."""
    with pytest.MonkeyPatch.context() as patch:
        database = OneDatabase()
        patch.setattr("brainray.scoring.manifest._duckdb", lambda: database)
        yield
        database.close()


@pytest.fixture(autouse=True, scope="session")
def memory_kept() -> Iterator[None]:
    """Runs in a test process return no freed memory to the system: the next run would ask for it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.commands.score.return_freed_memory", lambda: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def uncompressed() -> Iterator[None]:
    """Tables of a few rows are written as they are: a fifth of a small run would go into making compressors.

    Commands in processes of their own compress.
    """

    class Writer(pq.ParquetWriter):
        def __init__(self, *where: Any, **options: Any) -> None:
            super().__init__(*where, **options | {"compression": "none"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.storage.pq.ParquetWriter", Writer)
        yield


@pytest.fixture(autouse=True, scope="session")
def one_sandbox() -> Iterator[None]:
    """Pages of a process have their images decoded by one child."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.page.thumbnails.SandboxedDecoder", OneSandbox)
        yield


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray for every test that needs it."""
    import ray

    from brainray.cluster.session import session

    with session():
        assert ray.is_initialized()
        yield


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` whose head has no processors for work, as a cluster launcher starts it.

    A machine that was killed is given up after two seconds, not half a minute.
    """
    from ray.cluster_utils import Cluster

    from brainray.cluster.start_internals import without_monitor_processes

    checks = {"health_check_period_ms": 500, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": checks}
    with without_monitor_processes():  # of each node, also of those that join
        cluster = Cluster(initialize_head=True, head_node_args=head)
        yield cluster
        cluster.shutdown()
