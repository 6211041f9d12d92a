"""The clients for S3. Credentials come from the usual AWS chain: profile, variables, configuration file, roles.

obstore reads: its GET takes a sixth to a tenth of the CPU time of boto3 (tests/bench/speed/s3_clients.py). boto3 does
all else, and its botocore finds credentials, region and endpoint for both. Importing this makes no client.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from brainray import __version__
from brainray.errors import StorageError

from .errors import S3Request
from .listing import parse_page
from .settings import Settings, read_settings
from .uris import is_access_point

if TYPE_CHECKING:
    import boto3.session
    from botocore.client import BaseClient
    from botocore.model import OperationModel
    from botocore.session import Session
    from obstore.store import S3Credential, S3Store

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
_CONNECTIONS = 64  # of boto3's pool
_WHOLE_GET_S = 600  # obstore's limit for a whole GET; a silent one ends after READ_TIMEOUT_S
_REFRESH_S = (
    300  # age at which obstore asks botocore again for credentials that expire; botocore renews 15 minutes early
)


class Clients:
    """The clients of one process, shared by its threads. A fork and a pickled copy start without clients."""

    def __init__(self) -> None:
        self._forget()

    def __reduce__(self) -> tuple[type["Clients"], tuple[()]]:
        return type(self), ()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self.session: Any = None
        self.settings = Settings()  # those of the environment once the clients are made
        self._s3: Any = None
        self._stores: dict[str, S3Store] = {}
        self._thread = threading.local()

    @property
    def s3(self) -> "BaseClient":
        """boto3's client. It never retries, because callers do."""
        if self._s3 is None or self._pid != os.getpid():
            self._make()
        return self._s3

    @property
    def endpoint(self) -> str:
        return str(self.s3.meta.endpoint_url)

    @property
    def region(self) -> str:
        region = self.s3.meta.region_name
        return "us-east-1" if region in (None, "aws-global") else str(region)

    @property
    def is_aws(self) -> bool:
        return _at_aws(self.s3)

    def request(self, action: str, uri: str, bucket: str) -> S3Request:
        """Describe a request for error messages. Never fails: without a client the endpoint is unknown."""
        made = self._s3 is not None and self._pid == os.getpid()
        endpoint = self.endpoint if made else os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL"))
        return S3Request(
            action=action,
            uri=uri,
            bucket=bucket,
            endpoint=endpoint or "",
            region=self.region if made else None,
            advice=self.settings.denial_advice(action),
        )

    def store(self, bucket: str) -> "S3Store":
        """obstore's client for one bucket."""
        s3 = self.s3
        store = self._stores.get(bucket)
        if store is not None:
            return store
        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = self._make_store(bucket, s3)
            return self._stores[bucket]

    @contextmanager
    def sent_within(self, seconds: float) -> Iterator[None]:
        """Refuse requests of this thread, as `read_failed`, that would be sent more than `seconds` from now.

        Uses a clock that runs on while the machine is suspended.
        """
        self._thread.latest_s = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
        try:
            yield
        finally:
            self._thread.latest_s = None

    def _refuse_late(self, **_: object) -> None:
        latest_s = getattr(self._thread, "latest_s", None)
        if latest_s is not None and time.clock_gettime(time.CLOCK_BOOTTIME) > latest_s:
            raise StorageError("read_failed", "too long since the claim on the output was looked at")

    def _make(self) -> None:
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            if self._s3 is not None:
                return
            import boto3.session
            import botocore.session

            self.settings = read_settings(os.environ)
            session = botocore.session.Session()
            if "AWS_REGION" in os.environ:  # botocore alone of all AWS SDKs ignores it
                session.set_config_variable("region", os.environ["AWS_REGION"])
            style = (session.get_scoped_config().get("s3") or {}).get("addressing_style")
            boto = boto3.session.Session(
                botocore_session=session
            )  # shared, for each one adds its methods to the clients
            s3 = self._create(boto, style or "auto")
            if not style and not _at_aws(s3):
                s3 = self._create(boto, "path")  # host names such as bucket.minio:9000 do not resolve
            self.session = session
            self._s3 = s3

    def _create(self, session: "boto3.session.Session", addressing_style: str) -> "BaseClient":
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        config = Config(
            # botocore would put its own together anew for each request, which takes a tenth of what one costs.
            user_agent=f"Boto3/{boto3.__version__} brainray/{__version__}",
            signature_version=UNSIGNED if self.settings.unsigned else None,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=_CONNECTIONS,
            # Many stores do not know CRC trailers. All know Content-MD5, which writes send instead.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": addressing_style},
        )
        s3: BaseClient = session.client("s3", config=config)
        _parse_lists_once(s3)
        s3.meta.events.register_last("before-parameter-build.s3", _stay_in_region)  # after botocore's own handler
        s3.meta.events.register_first("before-parameter-build.s3", self._add_settings)
        s3.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
        s3.meta.events.register_first("before-send.s3", self._refuse_late)
        return s3

    def _add_settings(self, params: dict[str, Any], model: "OperationModel", **_: object) -> None:
        """Add the settings to the parameters of an operation that takes them."""
        taken = model.input_shape.members if model.input_shape else {}
        for name, value in self.settings.parameters.items():
            if name in taken:
                params.setdefault(name, value)

    def _make_store(self, bucket: str, s3: "BaseClient") -> "S3Store":
        from obstore.store import S3Store

        endpoint, region, virtual = _access_point(bucket, s3) if is_access_point(bucket) else self._place(bucket, s3)
        options: dict[str, Any] = {
            "allow_http": endpoint.startswith("http:"),
            "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
            "read_timeout": f"{READ_TIMEOUT_S}s",
            "timeout": f"{_WHOLE_GET_S}s",
        }
        authorities = self.session.get_config_variable("ca_bundle")
        if authorities:
            options["root_certificate"] = Path(authorities).read_bytes()
        return S3Store(
            bucket,
            endpoint=endpoint,
            region=region,
            virtual_hosted_style_request=virtual,
            skip_signature=self.settings.unsigned,
            request_payer=self.settings.requester_pays,
            credential_provider=None if self.settings.unsigned else _Credentials(self.session),
            client_options=options,  # type: ignore[arg-type]  # a TypedDict, filled in steps
            retry_config={"max_retries": 0},  # callers retry, see `retry`
        )

    def _place(self, bucket: str, s3: "BaseClient") -> tuple[str, str, bool]:
        """Endpoint and region of a bucket, and whether its name is in the host."""
        parts = urlsplit(str(s3.meta.endpoint_url))
        style = (s3.meta.config.s3 or {}).get("addressing_style")
        virtual = style == "virtual" or (style == "auto" and "." not in bucket)
        host = f"{bucket + '.' if virtual else ''}{parts.netloc}"
        return f"{parts.scheme}://{host}{parts.path}".rstrip("/"), self.region, virtual


def _access_point(arn: str, s3: "BaseClient") -> tuple[str, str, bool]:
    """Endpoint and region of an access point, as botocore finds them: its host has the name and the account."""
    parts = urlsplit(s3.generate_presigned_url("get_object", Params={"Bucket": arn, "Key": "k"}))
    return f"{parts.scheme}://{parts.netloc}", arn.split(":")[3], True


class _Credentials:
    """botocore's credentials for obstore, renewed as botocore renews them."""

    def __init__(self, session: "Session") -> None:
        from botocore.credentials import RefreshableCredentials
        from botocore.exceptions import NoCredentialsError

        self._source = session.get_credentials()
        if self._source is None:
            raise NoCredentialsError
        self._expire = isinstance(self._source, RefreshableCredentials)
        self._source.get_frozen_credentials()  # raises here, where the cause is still known; obstore reports it as text

    def __call__(self) -> "S3Credential":
        found = self._source.get_frozen_credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=_REFRESH_S) if self._expire else None,
        }


def _at_aws(s3: "BaseClient") -> bool:
    return (urlsplit(s3.meta.endpoint_url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _parse_lists_once(s3: "BaseClient") -> None:
    """Parse the answers to listings by `parse_page` alone, and not by botocore first.

    botocore parses every answer once more, to find errors that come with status 200. It still does so for the
    operations whose answers may hold such errors.
    """
    from botocore import handlers

    s3.meta.events.register_first("before-parse.s3.ListObjectsV2", parse_page)
    handler = getattr(handlers, "_handle_200_error", None)
    if handler is not None:
        s3.meta.events.unregister("before-parse.s3.*", handler)
        for operation in ("CopyObject", "CompleteMultipartUpload", "DeleteObjects"):
            s3.meta.events.register_first(f"before-parse.s3.{operation}", handler)


def _stay_in_region(context: dict[str, Any], **_: object) -> None:
    """Keep botocore from following a bucket to its region: obstore does not, and both must raise `WrongRegion`.

    Where a proxy redirects every request to its login page, botocore would ask for the region without end.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def _add_md5(params: dict[str, Any], **_: object) -> None:
    """Add Content-MD5 to DeleteObjects: older stores require it, and botocore now sends a CRC instead."""
    params["headers"]["Content-MD5"] = content_md5(params["body"])


def content_md5(data: bytes) -> str:
    """The Content-MD5 header, by which a store checks that a body arrived whole."""
    import base64
    import hashlib

    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
