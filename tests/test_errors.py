"""Every error of ours keeps its class, its exit code and its one line on the way out of a worker of Ray."""

import pickle
import traceback

import pytest
from support.each import each
from support.imports import MODULES, read

from brainray import errors
from brainray.cluster.session import own_error, own_errors
from brainray.errors import BrainrayError, StorageError


def kinds_in(module: str) -> list[str]:
    """Classes of a module that are derived from an error of ours, by name."""
    known = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    known -= {"ImageError"}
    return [name for name, bases in read(module).classes if known & bases]


KINDS = [BrainrayError, *(getattr(errors, name) for name in kinds_in(errors.__name__))]
each_kind = each("kind", KINDS, ids=[kind.__name__ for kind in KINDS])


def made(kind: type[BrainrayError]) -> BrainrayError:
    line = "s3://b/x: went wrong; do this: that"
    return kind("forbidden", line) if issubclass(kind, StorageError) else kind(line)


def traceback_of(error: BrainrayError, module: str = "brainray.errors") -> str:
    try:
        raise error
    except BrainrayError as exc:
        text = "".join(traceback.format_exception(exc))
    assert f"brainray.errors.{type(error).__name__}: " in text
    return text.replace("brainray.errors.", f"{module}.")


def of_a_task(error: BrainrayError, module: str = "brainray.errors", cause: Exception | None = None):
    from ray.exceptions import RayTaskError

    text = traceback_of(error, module)
    return RayTaskError("f", text, cause or error, proctitle="ray::f", pid=1, ip="127.0.0.1")


def test_the_whole_tree_stands_in_one_file():
    elsewhere = {module: kinds_in(module) for module in MODULES if module != errors.__name__}
    assert {module: names for module, names in elsewhere.items() if names} == {}
    assert {"Throttled", "Changed", "WrongRegion", "Unreachable"} < {kind.__name__ for kind in KINDS}


@each_kind
def test_it_comes_out_of_a_pickle_as_it_went_in(kind):
    error = pickle.loads(pickle.dumps(made(kind)))
    assert type(error) is kind
    assert (str(error), vars(error)) == (str(made(kind)), vars(made(kind)))


@each_kind
def test_it_comes_out_of_a_task_as_it_was_raised(kind):
    """`ray.get` raises an error that is Ray's and of our class too, and whose text is a traceback."""
    raised = pickle.loads(pickle.dumps(of_a_task(made(kind)))).as_instanceof_cause()
    assert isinstance(raised, kind) and "\n" in str(raised)
    with pytest.raises(kind) as caught, own_errors():
        raise raised
    assert type(caught.value) is kind
    assert (str(caught.value), vars(caught.value)) == (str(made(kind)), vars(made(kind)))


@each_kind
@each("module", ["brainray.errors", "brainray.storage.objects.errors"])
def test_it_comes_out_of_a_text_with_its_class_its_line_and_its_exit_code(kind, module):
    from ray.exceptions import ActorDiedError, UserCodeException
    from ray.train.v2.api.exceptions import WorkerGroupError

    text = traceback_of(made(kind), module)
    by_ray = UserCodeException("UDF failed to process a data block.")
    for raised in (
        ActorDiedError(of_a_task(made(kind), module)),  # an actor that did not start
        of_a_task(made(kind), module, cause=by_ray).as_instanceof_cause(),  # a function of Ray Data
        WorkerGroupError(f"[Rank 0 Error Snippet]:\n{text}", {}),
    ):
        found = own_error(raised)
        assert type(found) is kind
        assert (str(found), found.exit_code) == (str(made(kind)), kind.exit_code)


def test_an_error_of_another_library_stays_what_it_is():
    from ray.exceptions import RayError

    raised = RayError("brainray.nothing.Known: a text, and botocore.errors.StorageError: another")
    assert own_error(raised) is None
    with pytest.raises(RayError) as caught, own_errors():
        raise raised
    assert caught.value is raised


def test_of_several_the_last_is_meant_which_was_raised_from_the_others():
    first = "brainray.errors.StorageError: s3://b/x: no\n\nThe above exception was the direct cause of ...\n"
    assert type(own_error(Exception(first + "brainray.errors.BadRequest: --model s3://b/x: no"))) is errors.BadRequest


def test_what_is_read_by_tasks_and_by_ray_data_ends_with_our_error(local_ray, monkeypatch):
    import pyarrow as pa
    import ray

    from brainray.cluster import audit, train_data
    from brainray.config import ImageSpec

    def throttled(*_, **__):  # within, so that workers are sent it: they cannot import this file
        raise errors.Throttled("read_failed", "s3://b/x: the store asks for fewer requests")

    monkeypatch.setattr(train_data, "decode_rows_apart", throttled)
    table = pa.table({"position": [0], "uri": ["s3://b/x"], "label": ["a"]})
    for call in (
        lambda: audit._result(ray.remote(max_retries=0)(throttled).remote()),
        lambda: train_data.decoded_dataset(table, ImageSpec(), cpus=1, excluding=()),
    ):
        with pytest.raises(errors.Throttled) as caught:
            call()
        assert str(caught.value) == "s3://b/x: the store asks for fewer requests"


def test_a_trial_that_failed_tells_our_line_and_not_the_end_of_a_traceback():
    from brainray.cluster.tune import _failure_line

    text = traceback_of(made(errors.Throttled)) + "\nThe above exception ...\nray.exceptions.RayError: a task failed\n"
    assert _failure_line(text) == str(made(errors.Throttled))
    assert _failure_line("ValueError: of torch") == "ValueError: of torch"
    assert _failure_line(None) == "unknown"
