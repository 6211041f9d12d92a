"""Translates the exceptions of boto3 and obstore into `StorageError`: one line that names the place and the remedy.

The clients' own messages are dropped, and the chain of exceptions with them: they quote the store's answer, which may
hold the access key id, the string that was signed, request ids and addresses.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from brainray.errors import (
    BrainrayError,
    Changed,
    ImageReason,
    OutOfRange,
    StorageError,
    Throttled,
    Unavailable,
    WrongRegion,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Request:
    """A request, as far as its error message needs it."""

    action: str  # the permission it needs: "s3:GetObject"
    uri: str
    bucket: str
    endpoint: str  # may hold user and password; messages show `host`
    region: str | None
    advice: str = ""  # what to do where the action is denied

    @property
    def host(self) -> str:
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "the S3 endpoint"


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Answer:
    """The answer of a store, whichever client received it."""

    status: int
    code: str
    region: str | None = None
    key_action: str | None = None  # the permission on a KMS key that the answer says is missing: "kms:Decrypt"


_NO_BUCKET = "there is no bucket {bucket} at {host}; correct the name, or set AWS_ENDPOINT_URL for another store"
_DENIED = "access denied; {advice}"
_KEY_DENIED = "access denied; the credentials in use need {action} on the KMS key of this object"
_KEY_PROBLEM = "the KMS key cannot be used; check AWS_SSE_KMS_KEY_ID, or the key of the object"
_EXPIRED = "the session token has expired; log in again, or renew AWS_SESSION_TOKEN"
_KEY = "{host} does not know the access key; check AWS_ACCESS_KEY_ID or AWS_PROFILE"
_SECRET = "the secret key does not fit the access key; check AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
_TOKEN = "the session token does not fit the access key; unset AWS_SESSION_TOKEN, or log in again"
_CLOCK = "this machine's clock differs too much from that of {host}; set it"
_ARCHIVED = "the object is archived; restore it, then run again with --retry-unread"
_LOST = "the transfer failed"
_WORDS: dict[str, tuple[ImageReason, str]] = {
    "NoSuchKey": ("not_found", "there is no such object"),
    "NoSuchBucket": ("not_found", _NO_BUCKET),
    "NoSuchUpload": ("not_found", "the upload was given up by the store"),
    "AccessDenied": ("forbidden", _DENIED),
    "AllAccessDisabled": ("forbidden", _DENIED),
    "InvalidAccessKeyId": ("forbidden", _KEY),
    "SignatureDoesNotMatch": ("forbidden", _SECRET),
    "ExpiredToken": ("forbidden", _EXPIRED),
    "ExpiredTokenException": ("forbidden", _EXPIRED),
    "TokenRefreshRequired": ("forbidden", _EXPIRED),
    "InvalidToken": ("forbidden", _TOKEN),
    "RequestTimeTooSkewed": ("forbidden", _CLOCK),
    "RequestExpired": ("forbidden", _CLOCK),
    "InvalidObjectState": ("archived", _ARCHIVED),
    "AccessControlListNotSupported": ("forbidden", "the bucket takes no ACL; unset AWS_S3_ACL"),
    "InvalidBucketName": ("forbidden", "{bucket} is no valid bucket name at {host}"),
    "NotImplemented": ("forbidden", "{host} does not offer {action} as it was asked for"),
    "KeyTooLongError": ("not_found", "the key is longer than S3 allows"),
    # These come with status 400, but a retry may succeed.
    "RequestTimeout": ("read_failed", _LOST),
    "BadDigest": ("read_failed", _LOST),
    "IncompleteBody": ("read_failed", _LOST),
    "InternalError": ("read_failed", "the store failed"),
    "OperationAborted": ("read_failed", "another change was under way"),
    "ConditionalRequestConflict": ("read_failed", "another change was under way"),
}
_THROTTLING = {
    *("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequests"),
    *("RequestLimitExceeded", "BandwidthLimitExceeded", "RequestThrottledException", "TooManyRequestsException"),
}
_ELSEWHERE = {
    *("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
}
_STATUS_CODES = {401: "AccessDenied", 403: "AccessDenied", 404: "NoSuchKey", 501: "NotImplemented"}


@contextmanager
def translated(describe: Callable[[], S3Request]) -> Iterator[None]:
    """Turn every error of a client into a `StorageError`."""
    try:
        yield
    except BrainrayError:
        raise
    except Exception as exc:
        error = translate(exc, describe())
        if error is None:
            raise
        raise error from None


def translate(exc: Exception, request: S3Request) -> StorageError | None:
    """The `StorageError` for an exception of a client; None for any other exception."""
    home = type(exc).__module__.partition(".")[0]
    if home in ("botocore", "boto3"):
        return _from_botocore(exc, request)
    if home in ("urllib3", "http"):  # while a body is read
        return _failed(request, f"{_LOST} ({type(exc).__name__})")
    if home == "obstore" or (isinstance(exc, FileNotFoundError) and exc.errno is None):
        return _from_obstore(exc, request)
    if isinstance(exc, OSError) and exc.filename is not None:
        return _error("forbidden", request, f"a file that the AWS configuration names cannot be read: {exc.filename}")
    if isinstance(exc, OSError):
        return _failed(request, f"{_LOST} ({exc.strerror or type(exc).__name__})")
    if isinstance(exc, ValueError):  # both clients, for an endpoint or a path they cannot use
        return _error("forbidden", request, f"{request.host} or the name cannot be used; check AWS_ENDPOINT_URL")
    return None


def judge(answer: S3Answer, request: S3Request) -> StorageError:
    """The `StorageError` for an answer other than success."""
    code = answer.code if not answer.code.isdigit() else _STATUS_CODES.get(answer.status, answer.code)
    label = code if code and not code.isdigit() else f"HTTP {answer.status}"
    moved = answer.region is not None and answer.region != request.region and answer.status in (301, 307, 400)
    if moved or code in _ELSEWHERE or answer.status in (301, 307):
        return _elsewhere(answer.region, request)
    if answer.status == 412:
        return _error("read_failed", request, "the object was changed by another meanwhile", kind=Changed)
    if answer.status == 416:
        return _error("read_failed", request, "the object is shorter than expected", kind=OutOfRange)
    if code in _THROTTLING or (answer.status in (429, 503, 509) and code not in _WORDS):
        return _error("read_failed", request, f"{request.host} asks for fewer requests ({label})", kind=Throttled)
    if code.startswith("KMS."):
        return _error("forbidden", request, f"{_KEY_PROBLEM} ({label})")
    if "quota" in code.lower():  # QuotaExceeded of Ceph, XMinioAdminBucketQuotaExceeded: no right is missing
        return _error(
            "forbidden", request, f"the quota of the bucket or its owner at {request.host} is used up ({label})"
        )
    if code not in _WORDS:
        code = _STATUS_CODES.get(answer.status, code)
    if code in _WORDS:
        reason, words = _WORDS[code]
        action = answer.key_action or request.action
        words = _KEY_DENIED if words == _DENIED and answer.key_action else words
        filled = words.format(bucket=request.bucket, host=request.host, action=action, advice=request.advice)
        kind = Unavailable if reason == "read_failed" else StorageError
        return _error(reason, request, f"{filled} ({label})", kind=kind)
    if answer.status >= 500 or answer.status == 409:
        return _failed(request, f"the store failed ({label})")
    return _error("forbidden", request, f"{request.host} refused {request.action} ({label})")


def _elsewhere(region: str | None, request: S3Request) -> StorageError:
    where = f"in {region}" if region else "in another region"
    advice = f"set AWS_REGION={region}" if region else "set AWS_REGION to the bucket's region"
    mine = f", not in {request.region}" if request.region else ""
    words = f"the bucket {request.bucket} is {where}{mine}; {advice}"
    return _error("forbidden", request, words, kind=WrongRegion)


def _from_botocore(exc: Exception, request: S3Request) -> StorageError:
    from botocore import exceptions as known
    from botocore.parsers import ResponseParserError

    if isinstance(exc, known.ClientError):
        return judge(_answer_of(exc), request)
    if isinstance(exc, known.ConnectTimeoutError | known.EndpointConnectionError | known.ProxyConnectionError):
        return _unreachable(request)
    if isinstance(exc, known.SSLError):
        return _error("forbidden", request, f"no trusted connection to {request.host}; check AWS_CA_BUNDLE")
    passing = (
        known.HTTPClientError,
        known.IncompleteReadError,
        ResponseParserError,
        known.ChecksumError,
        known.FlexibleChecksumError,
    )
    if isinstance(exc, passing):
        return _failed(request, f"{_LOST} ({type(exc).__name__})")
    if isinstance(exc, known.ParamValidationError):
        return _error("forbidden", request, f"{request.bucket} is no valid bucket name, or the key is none")
    return _error("forbidden", request, _configuration_message(type(exc).__name__))


def _configuration_message(name: str) -> str:
    """The message for a client that cannot be made or finds no credentials, by the exception's name."""
    if name == "NoCredentialsError":
        return (
            "no credentials were found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or for a public bucket AWS_NO_SIGN_REQUEST=true"
        )
    if name == "ProfileNotFound":
        return "AWS_PROFILE names a profile that the AWS configuration does not have; correct it"
    if "Region" in name:
        return f"the region cannot be used ({name}); set AWS_REGION"
    if any(word in name for word in ("Credential", "Token", "SSO", "Login", "Metadata")):
        return f"the credentials could not be had ({name}); log in again, or check AWS_PROFILE"
    return f"the client could not be used ({name}); check the AWS configuration"


def _answer_of(exc: Exception) -> S3Answer:
    response = getattr(exc, "response", {})
    error, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    region = error.get("Region") or metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region")
    return S3Answer(
        status=metadata.get("HTTPStatusCode", 0),
        code=str(error.get("Code", "")),
        region=region,
        key_action=_key_action(str(error.get("Message", ""))),
    )


def _key_action(message: str) -> str | None:
    found = re.search(r"\bkms:[A-Za-z]+", message)
    return found[0] if found else None


_OBSTORE_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})")
_OBSTORE_CODE = re.compile(r"<Code>\s*([A-Za-z0-9.]+)\s*</Code>")
_OBSTORE_REGION = re.compile(r"<Region>\s*([a-z0-9-]+)\s*</Region>")
_OBSTORE_STATUS_OF = {
    "PermissionDeniedError": 403,
    "UnauthenticatedError": 401,
    "PreconditionError": 412,
    "NotModifiedError": 412,
    "AlreadyExistsError": 409,
    "NotFoundError": 404,
    "FileNotFoundError": 404,
}


def _from_obstore(exc: Exception, request: S3Request) -> StorageError:
    """Parse the message: obstore gives status, code and region only in its text (Rust's debug format)."""
    name, text = type(exc).__name__, str(exc)
    if "External AWS credential provider" in text:
        return _error("forbidden", request, _configuration_message("CredentialRetrievalError"))
    found = _OBSTORE_STATUS.search(text)
    status = int(found[1]) if found else _OBSTORE_STATUS_OF.get(name)
    if "BareRedirect" in text:
        status = 301
    if status is not None:
        code, region = _OBSTORE_CODE.search(text), _OBSTORE_REGION.search(text)
        answer = S3Answer(
            status=status,
            code=code[1] if code else str(status),
            region=region[1] if region else None,
            key_action=_key_action(text),
        )
        return judge(answer, request)
    if name in ("InvalidPathError", "NotSupportedError", "UnknownConfigurationKeyError"):
        return _error("forbidden", request, f"the client could not be used ({name}); check the AWS configuration")
    if "kind: Connect," in text:
        if "certificate" in text.lower():
            return _error("forbidden", request, f"no trusted connection to {request.host}; check AWS_CA_BUNDLE")
        return _unreachable(request)
    how = re.search(r"\b(TimedOut|Timeout|ConnectionReset|IncompleteBody|UnexpectedEof|IncompleteMessage)\b", text)
    return _failed(request, f"{_LOST} ({how[1] if how else name})")


def _unreachable(request: S3Request) -> StorageError:
    return _failed(request, f"{request.host} cannot be reached; check the network, AWS_ENDPOINT_URL and AWS_REGION")


def _failed(request: S3Request, words: str) -> StorageError:
    return _error("read_failed", request, words, kind=Unavailable)


def _error(
    reason: ImageReason, request: S3Request, words: str, *, kind: type[StorageError] = StorageError
) -> StorageError:
    return kind(reason, " ".join(f"{request.uri}: {words}".split()))
