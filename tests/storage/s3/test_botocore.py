"""botocore as it is set up: an error that comes with status 200 is an error, though listings are parsed by hand."""

import botocore.handlers
import pytest
from support.storage.s3_servers import fast_s3, s3_endpoints

from brainray.errors import StorageError
from brainray.storage.s3.backend import S3Objects
from brainray.storage.s3.clients import Clients

__all__ = ["fast_s3", "s3_endpoints"]  # fixtures


COPY = {"methods": ("PUT",), "key": "/target"}
COMPLETION = {"methods": ("POST",), "key": "uploadId"}


def copy(server) -> None:
    S3Objects(sleep=lambda _: None).copy(server.put("source", b"data"), f"{server.root}/target", None)


def write_in_parts(server) -> None:
    S3Objects(sleep=lambda _: None).write_bytes(f"{server.root}/target", b"data", None)


@pytest.fixture
def small_parts(monkeypatch):
    for module in ("requests", "backend"):
        monkeypatch.setattr(f"brainray.storage.s3.{module}.PART_BYTES", 3)


@pytest.mark.parametrize(("change", "request_"), [(copy, COPY), (write_in_parts, COMPLETION)])
def test_an_error_with_status_200_that_passes_is_tried_again(fast_s3, small_parts, change, request_):
    fault = fast_s3.proxy.add("200 InternalError", times=1, **request_)
    change(fast_s3)
    assert S3Objects().read_bytes(f"{fast_s3.root}/target") == b"data"
    assert fault.done == 1


@pytest.mark.parametrize(("change", "request_"), [(copy, COPY), (write_in_parts, COMPLETION)])
def test_an_error_with_status_200_that_stays_is_raised(fast_s3, small_parts, change, request_):
    fast_s3.proxy.add("200 InternalError", **request_)
    with pytest.raises(StorageError):
        change(fast_s3)
    assert "target" not in fast_s3.there()


@pytest.mark.parametrize(
    ("operation", "seen"),
    [("CopyObject", True), ("CompleteMultipartUpload", True), ("DeleteObjects", True), ("PutObject", False)],
)
def test_which_answers_are_searched_for_errors(fast_s3, operation, seen):
    """botocore would search all of them; listings are large, and `parse_page` sees what is none."""
    assert callable(botocore.handlers._handle_200_error), "botocore has renamed what `s3_client` moves"
    client = Clients().s3
    answer = {"status_code": 200, "headers": {}, "body": b"<Error><Code>InternalError</Code></Error>"}
    client.meta.events.emit(
        f"before-parse.s3.{operation}",
        operation_model=client.meta.service_model.operation_model(operation),
        response_dict=answer,
        customized_response_dict={},
    )
    assert (answer["status_code"] == 500) == seen
