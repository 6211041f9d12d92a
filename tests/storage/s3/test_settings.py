"""What a bucket's owner may demand of requests reaches both clients: no signature, who pays, encryption, ACL."""

from collections.abc import Iterator

import pytest
from botocore.awsrequest import AWSResponse
from support.each import each

from brainray.errors import BadRequest, StorageError
from brainray.storage.s3.backend import S3Objects
from brainray.storage.s3.errors import S3Answer, S3Request, judge
from brainray.storage.s3.settings import Settings, read_settings

POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/scans"


class _Sent:
    """Answers every request of boto3 in place of the network, and keeps it."""

    def __init__(self, files: S3Objects) -> None:
        self.requests: list = []
        files._requests.clients.s3.meta.events.register("before-send.s3", self._answer)

    def _answer(self, request, **_) -> AWSResponse:
        self.requests.append(request)
        return AWSResponse(request.url, 200, {"ETag": '"e"', "x-amz-id-2": "x"}, _Body())

    @property
    def headers(self) -> dict[str, str]:
        headers = {name.lower(): value for name, value in self.requests[-1].headers.items()}
        return {name: v.decode() if isinstance(v, bytes) else v for name, v in headers.items()}


class _Body:
    def read(self, *_) -> bytes:
        return b""

    def stream(self, **_) -> Iterator[bytes]:
        yield b""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return monkeypatch


@pytest.mark.parametrize("variable", ["AWS_NO_SIGN_REQUEST", "AWS_SKIP_SIGNATURE"])
def test_unsigned_requests_need_no_credentials(aws: pytest.MonkeyPatch, variable: str) -> None:
    aws.setenv(variable, "YES")
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    files = S3Objects()
    sent = _Sent(files)
    files._requests.head_once("s3://open-data/a.jpg")
    store = files._requests.clients.store("open-data")
    assert "authorization" not in sent.headers
    assert store.credential_provider is None and store.config["skip_signature"] == "true"


def test_requester_pays_for_reads_lists_and_writes(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_REQUEST_PAYER", "requester")
    files = S3Objects()
    sent = _Sent(files)
    for call in (
        files._requests.head_once,
        files._requests.remove_once,
        lambda uri: files._requests.put_once(uri, b""),
    ):
        call("s3://bucket/a.jpg")
        assert sent.headers["x-amz-request-payer"] == "requester"
        assert "x-amz-request-payer" in sent.headers["authorization"]
    assert files._requests.clients.store("bucket").config["request_payer"] == "true"


def test_writes_carry_encryption_and_acl(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_SSE_KMS_KEY_ID", "alias/scans")
    aws.setenv("AWS_SSE_BUCKET_KEY_ENABLED", "true")
    aws.setenv("AWS_S3_ACL", "bucket-owner-full-control")
    files = S3Objects()
    sent = _Sent(files)
    writes = {
        "put_object": {"Body": b"x"},
        "create_multipart_upload": {},
        "copy_object": {"CopySource": {"Bucket": "bucket", "Key": "b"}},
    }
    for operation, parameters in writes.items():
        files._requests.once(operation, "s3:PutObject", "s3://bucket/a", **parameters)
        assert sent.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert sent.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/scans"
        assert sent.headers["x-amz-server-side-encryption-bucket-key-enabled"] == "true"
        assert sent.headers["x-amz-acl"] == "bucket-owner-full-control"
    files._requests.head_once("s3://bucket/a")
    assert not [name for name in sent.headers if "encryption" in name or "acl" in name]


def test_without_settings_requests_are_as_before(aws: pytest.MonkeyPatch) -> None:
    files = S3Objects()
    sent = _Sent(files)
    files._requests.put_once("s3://bucket/a", b"x")
    assert not [name for name in sent.headers if "encryption" in name or "acl" in name or "payer" in name]
    assert "authorization" in sent.headers
    assert files._requests.clients.store("bucket").config["skip_signature"] == "false"


def test_access_point_has_its_own_host_in_both_clients(aws: pytest.MonkeyPatch) -> None:
    files = S3Objects()
    sent = _Sent(files)
    files._requests.head_once(f"s3://{POINT}/a/b.jpg")
    host = "scans-123456789012.s3-accesspoint.eu-west-1.amazonaws.com"
    assert sent.requests[-1].url == f"https://{host}/a/b.jpg"
    config = files._requests.clients.store(POINT).config
    assert config["endpoint"] == f"https://{host}" and config["region"] == "eu-west-1"


@each(
    ("name", "value"),
    [
        ("AWS_NO_SIGN_REQUEST", "perhaps"),
        ("AWS_REQUEST_PAYER", "bucket-owner"),
        ("AWS_SERVER_SIDE_ENCRYPTION", "AES-256"),
        ("AWS_S3_ACL", "public-read"),
    ],
)
def test_value_without_meaning_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=f"{name} is '{value}'"):
        read_settings({name: value})


def test_key_without_kms_is_refused() -> None:
    with pytest.raises(BadRequest, match="takes no key"):
        read_settings({"AWS_SSE_KMS_KEY_ID": "k", "AWS_SERVER_SIDE_ENCRYPTION": "AES256"})


def denied(action: str, settings: Settings, answer: S3Answer) -> StorageError:
    advice = settings.denial_advice(action)
    request = S3Request(action=action, uri="s3://b/k", bucket="b", endpoint="https://s3", region=None, advice=advice)
    return judge(answer, request)


def test_denial_names_what_else_a_bucket_may_demand() -> None:
    answer = S3Answer(status=403, code="AccessDenied")
    assert "AWS_REQUEST_PAYER=requester" in str(denied("s3:GetObject", Settings(), answer))
    assert "AWS_REQUEST_PAYER" not in str(denied("s3:GetObject", Settings(requester_pays=True), answer))
    assert "AWS_SERVER_SIDE_ENCRYPTION" in str(denied("s3:PutObject", Settings(), answer))
    unsigned = str(denied("s3:GetObject", Settings(unsigned=True), answer))
    assert "not signed" in unsigned and "credentials" not in unsigned


def test_denied_key_is_named_in_place_of_the_object() -> None:
    answer = S3Answer(status=403, code="AccessDenied", key_action="kms:Decrypt")
    assert "need kms:Decrypt on the KMS key" in str(denied("s3:GetObject", Settings(), answer))
    assert "AWS_SSE_KMS_KEY_ID" in str(denied("s3:PutObject", Settings(), S3Answer(status=400, code="KMS.NotFound")))
