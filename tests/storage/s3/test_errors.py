"""Every exception and answer of the S3 libraries is translated."""

import pickle

import botocore.exceptions
import botocore.loaders
import botocore.parsers
import obstore.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.each import each
from support.storage.s3_objects import assert_safe
from support.storage.s3_servers import SECRET_KEY

from brainray.errors import (
    IMAGE_REASONS,
    BrainrayError,
    Changed,
    StorageError,
    Throttled,
    Unavailable,
)
from brainray.storage.s3 import errors
from brainray.storage.s3.errors import S3Answer, S3Request, judge, translate

REQUEST = S3Request(
    action="s3:GetObject", uri="s3://bkt/k", bucket="bkt", endpoint="http://u:p@host:9", region="us-east-1"
)


def subclasses(kind):
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_every_exception_of_botocore_is_translated():
    for kind in subclasses(botocore.exceptions.BotoCoreError) | {botocore.parsers.ResponseParserError}:
        exc = kind.__new__(kind)
        Exception.__init__(exc, f"{SECRET_KEY}\nof {kind.__name__}")
        error = translate(exc, REQUEST)
        assert error.reason in IMAGE_REASONS
        assert_safe(error)
        assert "s3://bkt/k: " in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.reason, str(again)) == (type(error), error.reason, str(error))


def test_every_exception_of_obstore_is_translated():
    for kind in subclasses(obstore.exceptions.BaseError):
        error = translate(kind(f"{SECRET_KEY}\n<RequestId>x</RequestId>"), REQUEST)
        assert error.reason in IMAGE_REASONS
        assert_safe(error)


@given(status=st.integers(300, 599), code=st.text(max_size=20), region=st.none() | st.just("eu-west-1"))
def test_every_answer_is_told_in_one_line(status, code, region):
    error = judge(S3Answer(status=status, code=code, region=region), REQUEST)
    assert error.reason in IMAGE_REASONS
    assert len(str(error).splitlines()) == 1
    assert error.reason == "read_failed" or status < 500 or code in errors._WORDS or code in errors._ELSEWHERE


@each(
    ("status", "code", "reason", "kind"),
    [
        (404, "NoSuchKey", "not_found", StorageError),
        (404, "404", "not_found", StorageError),
        (403, "403", "forbidden", StorageError),
        (403, "Forbidden", "forbidden", StorageError),
        (503, "SlowDown", "read_failed", Throttled),
        (503, "503", "read_failed", Throttled),
        (429, "TooManyRequests", "read_failed", Throttled),
        (500, "InternalError", "read_failed", Unavailable),
        (400, "RequestTimeout", "read_failed", Unavailable),
        (412, "PreconditionFailed", "read_failed", Changed),
        (501, "NotImplemented", "forbidden", StorageError),
        (400, "InvalidRequest", "forbidden", StorageError),
    ],
)
def test_answers_have_their_reasons(status, code, reason, kind):
    error = judge(S3Answer(status=status, code=code), REQUEST)
    assert (error.reason, type(error)) == (reason, kind)


def test_what_is_no_fault_of_a_client_is_not_swallowed():
    assert translate(KeyError("a bug"), REQUEST) is None
    with pytest.raises(ZeroDivisionError), errors.translated(lambda: REQUEST):
        _ = 1 / 0
    with pytest.raises(BrainrayError, match="own"), errors.translated(lambda: REQUEST):
        raise BrainrayError("own")


def test_a_quota_that_is_used_up_blames_no_permission():
    error = judge(S3Answer(status=403, code="QuotaExceeded"), REQUEST)
    assert "the quota of the bucket or its owner" in str(error) and "access denied" not in str(error)
