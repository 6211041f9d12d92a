"""The settings of requests that a bucket's owner may demand, from the environment: no signature, who pays, encryption.

botocore has no variables for them. The names are those of obstore and, for ours, of its pattern.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from brainray.errors import BadRequest

UNSIGNED = ("AWS_NO_SIGN_REQUEST", "AWS_SKIP_SIGNATURE")
REQUESTER_PAYS = ("AWS_REQUEST_PAYER", "AWS_REQUESTER_PAYS")
ENCRYPTION = "AWS_SERVER_SIDE_ENCRYPTION"
KMS_KEY = "AWS_SSE_KMS_KEY_ID"
BUCKET_KEY = "AWS_SSE_BUCKET_KEY_ENABLED"
ACL = "AWS_S3_ACL"
_YES = ("1", "true", "t", "yes", "y", "on")
_NO = ("", "0", "false", "f", "no", "n", "off")
_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_ACLS = ("private", "bucket-owner-full-control", "bucket-owner-read", "authenticated-read", "aws-exec-read")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How requests are made beyond credentials, region and endpoint."""

    unsigned: bool = False
    requester_pays: bool = False
    encryption: str | None = None  # "AES256", "aws:kms" ...; None: the bucket's default
    kms_key: str | None = None
    bucket_key: bool | None = None
    acl: str | None = None

    @property
    def parameters(self) -> dict[str, object]:
        """Parameters of boto3's operations; each operation takes those that it has."""
        known = {
            "RequestPayer": "requester" if self.requester_pays else None,
            "ServerSideEncryption": self.encryption,
            "SSEKMSKeyId": self.kms_key,
            "BucketKeyEnabled": self.bucket_key,
            "ACL": self.acl,
        }
        return {name: value for name, value in known.items() if value is not None}

    @property
    def described(self) -> tuple[str, ...]:
        """The settings in words, for `doctor`."""
        words = {
            "requests are not signed": self.unsigned,
            "the requester pays": self.requester_pays,
            f"encrypts by {self.encryption}{' with a key of its own' if self.kms_key else ''}": self.encryption,
            f"writes with the ACL {self.acl}": self.acl,
        }
        return tuple(text for text, is_set in words.items() if is_set)

    def denial_advice(self, action: str) -> str:
        """What to do where the store denies an action: a permission may be missing, or what the bucket demands."""
        if self.unsigned:
            return f"requests are not signed: unset {UNSIGNED[0]} and {UNSIGNED[1]} unless the bucket is public"
        permission = f"the credentials in use need {action} here"
        if action == "s3:PutObject" and not (self.encryption and self.acl):
            return f"{permission}; a bucket may also demand encryption ({ENCRYPTION}) or rights for its owner ({ACL})"
        if action in ("s3:GetObject", "s3:ListBucket") and not self.requester_pays:
            return f"{permission}; where the requester pays, set {REQUESTER_PAYS[0]}=requester"
        return permission


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings in the environment. Raises `BadRequest` for a value that has no meaning."""
    encryption, kms_key = _chosen(environ, ENCRYPTION, _ENCRYPTIONS), environ.get(KMS_KEY, "").strip() or None
    if kms_key and encryption == "AES256":
        raise BadRequest(f"{KMS_KEY} is set, but {ENCRYPTION} is AES256, which takes no key; set aws:kms or unset one")
    return Settings(
        unsigned=any(_is_set(environ, name) for name in UNSIGNED),
        requester_pays=any(_is_set(environ, name, "requester") for name in REQUESTER_PAYS),
        encryption=encryption or ("aws:kms" if kms_key else None),
        kms_key=kms_key,
        bucket_key=_is_set(environ, BUCKET_KEY) if environ.get(BUCKET_KEY) else None,
        acl=_chosen(environ, ACL, _ACLS),
    )


def _is_set(environ: Mapping[str, str], name: str, *more: str) -> bool:
    value = environ.get(name, "").strip().lower()
    if value not in (*_YES, *_NO, *more):
        raise BadRequest(f"{name} is {environ[name]!r}; set it to {' or '.join((*more, 'true'))}, or unset it")
    return value not in _NO


def _chosen(environ: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    value = environ.get(name, "").strip()
    if value and value not in allowed:
        raise BadRequest(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    return value or None
